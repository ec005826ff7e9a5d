"""Pictures with edits: directions, edited pictures, and the trials of `diffusae steer`."""
