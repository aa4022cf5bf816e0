"""What is reported: scores of texts by sacrebleu and rouge-score, of classes by torchmetrics, of language models."""
