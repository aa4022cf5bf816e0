"""Losses, each as its sum and its count, never as a mean: a step divides once, by the whole batch's count."""
