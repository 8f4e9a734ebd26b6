"""Faster convolutions and BatchNorm for training on the CPU."""
