"""Texts that are read as a stream of shards, from a folder or from any storage that fsspec reaches."""
