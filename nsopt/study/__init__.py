"""Studies: methods compared at equal budgets, and the workers that run the trials."""
