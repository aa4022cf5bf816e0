"""What is reported: scores of texts by sacrebleu and rouge-score, of classes, of numbers, of language models."""
