"""A whole text-to-image diffusion model in little, with the synthetic world it was trained on."""
