"""Given pictures from files, with their labels."""
