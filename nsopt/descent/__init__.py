"""Architecture descent: prune, fit, rescale, again."""
