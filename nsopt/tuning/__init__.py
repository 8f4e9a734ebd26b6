"""Tuning: laws by short trainings, P and eta by searches."""
