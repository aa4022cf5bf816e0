"""Optimization: parameter groups, learning rate schedules and fine-tuning."""
