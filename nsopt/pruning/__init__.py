"""Pruning filters: by Taylor importance while training, in descent, and by magnitude."""
