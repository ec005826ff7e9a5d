"""Prompt sets: captions with ids, seeds and splits, and attacks on prompts."""
