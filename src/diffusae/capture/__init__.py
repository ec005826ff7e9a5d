"""Recording while a denoiser generates: updates of transformer blocks, and cross-attention."""
