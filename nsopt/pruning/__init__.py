"""Pruning and architecture search: filters are removed by Taylor importance or by magnitude."""
