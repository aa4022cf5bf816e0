"""Commands that look at all runs at once: `etude runs`, `etude runs diff`, `etude query`. None of them loads torch."""
