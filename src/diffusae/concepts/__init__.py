"""Concepts: maps of latents, annotators, word embeddings, and the dictionary that names a cell's
latents.
"""
