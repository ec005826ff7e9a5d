"""Training the autoencoders of cells, and placing those from elsewhere."""
