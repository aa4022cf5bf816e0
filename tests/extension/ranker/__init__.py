"""A task that etude does not know: which of two texts is better. One task, one data module, YAML."""
