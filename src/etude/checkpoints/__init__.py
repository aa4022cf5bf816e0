"""What a run leaves on the disk: its folder, its lock, and checkpoints that are promises."""
