"""Tuning of P and eta."""
