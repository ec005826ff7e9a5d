"""Results over many cells: curves of emergence and the three-stage table."""
