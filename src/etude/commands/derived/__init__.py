"""Commands that make something new of finished runs: the mean of their weights, a corpus of their outputs."""
