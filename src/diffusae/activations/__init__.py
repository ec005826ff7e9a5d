"""Recorded updates on disk: schema, writer, reader, shuffle buffer, datamodule. The only door to webdataset."""
