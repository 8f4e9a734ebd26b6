"""Studies: comparisons of methods at equal budgets, and the workers that run them."""
