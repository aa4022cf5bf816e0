"""What a run takes from other runs: a teacher, or the mean of their weights."""
