"""Text to ids and back: tokenizers trained on a corpus or taken from a pretrained model."""
