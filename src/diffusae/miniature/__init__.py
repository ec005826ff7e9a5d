"""A whole text-to-image diffusion model in miniature, with the synthetic world of its training."""
