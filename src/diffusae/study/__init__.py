"""What a run is: the configuration as a study, its cells, names and checks."""
