"""From a model's next-token scores to hypotheses: greedy and beam search, which see the model as one function."""
