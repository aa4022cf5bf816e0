"""Tasks on conversations."""
