"""Compression: a trained network in, smaller ones at budgets out."""
