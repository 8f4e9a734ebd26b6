"""Trained networks that are kept, and exported for other tools."""
