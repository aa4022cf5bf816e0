"""The parts of Transformers in plain PyTorch, on packed tokens: no padding around linear layers."""
