"""Scaling laws, their record, costs and budgets: from sizes to integer widths. No torch here."""
