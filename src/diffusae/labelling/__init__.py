"""From pictures and codes to the annotations and the concept dictionary of a cell."""
