"""The door to diffusers: load a pipeline, list its hookpoints, tell guidance branches and steps
apart."""
