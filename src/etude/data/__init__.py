"""From files to batches: sources, corpora, the cache of encoded examples, the plan of an epoch, and data modules."""
