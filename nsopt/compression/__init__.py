"""Compression: make a trained network smaller."""
