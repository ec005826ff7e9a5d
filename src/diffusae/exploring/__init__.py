"""What a notebook, `diffusae concepts` and `diffusae look` explore: the cells of a study, their
latents and concepts, and where these act in a picture.
"""
