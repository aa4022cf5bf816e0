"""Which parameters train, at what rate, from when: chosen in `conf/finetune/`."""
