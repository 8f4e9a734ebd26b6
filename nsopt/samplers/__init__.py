"""Optuna samplers that propose the widths of a network."""
