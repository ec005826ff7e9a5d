"""Edits of updates while a picture is made. Read edits.py first."""
