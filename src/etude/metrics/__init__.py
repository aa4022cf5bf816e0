"""What is reported: translation scores by sacrebleu, classification scores by torchmetrics, language-model scores."""
