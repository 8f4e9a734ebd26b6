"""Where computing happens: device, memory, random state, turns, locks, checkpoints."""
