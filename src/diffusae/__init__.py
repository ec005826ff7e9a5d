"""diffusae: which concepts a text-to-image diffusion model holds at each moment of generation,
where, and to what effect.
"""
