"""Optuna samplers that propose a network's widths."""
