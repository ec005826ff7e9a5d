"""Recorded updates on disk: schema, writer, reader, shuffle buffer, datamodule. The door to
webdataset."""
