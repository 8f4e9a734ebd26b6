"""Optuna: the sampler, the storage schema and the comparison of methods."""
