"""One module a family of text-to-image models: what is known of it, and what its denoiser needs."""
