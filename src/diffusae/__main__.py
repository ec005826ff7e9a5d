"""`python -m diffusae` is `diffusae`."""

from diffusae.cli import main

main()
