"""Where the members of a sweep run: beside each other on this machine, on a Ray cluster, or under SLURM."""
