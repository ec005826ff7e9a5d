"""A study in the browser: find, look at and steer its latents (docs/how-to/explore.md)."""
