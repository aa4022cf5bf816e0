"""Training: from a configuration to objects, from the first step to the last, and what a run concludes with."""
