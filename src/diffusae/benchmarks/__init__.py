"""Benchmarks that try many defences or edits beside another and need studies of their own."""
