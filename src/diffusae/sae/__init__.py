"""Sparse autoencoders on residual updates: the model, its losses, metrics, training and file
format.
"""
