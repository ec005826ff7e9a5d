"""The explorer: a finished study in the browser (`diffusae explore`)."""
