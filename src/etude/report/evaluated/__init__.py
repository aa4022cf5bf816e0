"""Evaluations on a page: confusion, reliability, precision and recall."""
