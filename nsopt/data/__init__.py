"""Data sets: in memory as uint8 tensors, augmented in batches."""
