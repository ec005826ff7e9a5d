"""Recorded updates on disk: schema, writer, readers, shuffling, datamodule (uses webdataset)."""
