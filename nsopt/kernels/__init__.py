"""Faster ways through the CPU for convolutions and BatchNorm, used while we train."""
