"""Runs on disk: their folders, the documents and records in them, and their manifests."""
