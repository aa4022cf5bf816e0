"""Tasks: LightningModules that own a model, its loss and its metrics."""
