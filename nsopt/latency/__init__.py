"""How long networks take: measured, and predicted from the kernels that they are made of."""
