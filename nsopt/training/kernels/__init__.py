"""Faster convolutions and BatchNorm on the CPU, used in training."""
