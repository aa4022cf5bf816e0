"""Loggers of a run: the local record, and trackers behind a guard."""
