"""Where a run's values go besides the terminal: the local record, and trackers that can do the run no harm."""
