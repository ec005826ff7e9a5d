"""Collecting updates: of pictures that are generated or given, and of texts."""
