"""Data sets, held in memory as uint8 tensors and augmented in batches."""
