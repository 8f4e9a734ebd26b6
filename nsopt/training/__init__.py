"""Training, evaluation and latency of one network."""
