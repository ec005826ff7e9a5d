"""Loading a diffusers pipeline; its hookpoints, guidance branches and steps (uses diffusers)."""
