"""Concepts: maps of latents, annotators, word embeddings, and each cell's concept dictionary."""
