"""Training and evaluation of one network."""
