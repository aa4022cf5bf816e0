"""Readers of files: lines, tables and translation catalogs."""
