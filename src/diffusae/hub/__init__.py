"""Sharing autoencoders through a model hub (uses huggingface_hub)."""
