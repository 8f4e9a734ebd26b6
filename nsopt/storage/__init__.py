"""Optuna storage: how results lie in it, how it is opened, and the queue of trials."""
