"""Pruning filters: by Taylor importance while training (the search), and by magnitude."""
