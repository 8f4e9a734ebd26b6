"""Where computing happens: device, memory, random state, locks, checkpoints."""
