"""What is learned: LightningModules that own a model, its loss and its metrics."""
