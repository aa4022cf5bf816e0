"""What watches a training: averaged weights, samples, progress."""
