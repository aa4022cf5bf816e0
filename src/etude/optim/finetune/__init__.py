"""Fine-tuning: the parameters that train, at what rate and from when. Chosen in `conf/finetune/`."""
