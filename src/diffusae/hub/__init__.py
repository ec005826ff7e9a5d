"""Sharing autoencoders through a model hub (the door to huggingface_hub)."""
