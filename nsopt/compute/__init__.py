"""Device, memory, random state, locks and checkpoints."""
