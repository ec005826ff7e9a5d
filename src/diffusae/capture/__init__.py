"""Reading a denoiser while it generates: updates of its transformer blocks, and its
cross-attention."""
