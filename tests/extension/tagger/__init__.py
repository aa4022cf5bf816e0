"""A fourth task that etude does not know: a part of speech for each word. One task, one data module, YAML."""
