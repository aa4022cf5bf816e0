"""Training: experiments from configurations, the training loop, ranks, continuation, evaluation and cost."""
