"""Experiments: comparisons of methods, searches, tuning, and the workers that run them."""
