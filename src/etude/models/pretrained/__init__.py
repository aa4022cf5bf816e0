"""Native models with pretrained weights, from and to the Hugging Face layout."""
