"""Prompt sets: which captions are generated, with which seeds, and what each picture is used
for."""
