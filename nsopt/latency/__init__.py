"""The latency of networks: measured, and predicted from the kernels they consist of."""
