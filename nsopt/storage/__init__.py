"""Optuna storage: the schema of results, opening storages, and the queue of trials."""
