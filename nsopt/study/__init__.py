"""Studies: methods compared at equal budgets.

`compare` is what a user calls; `plan` makes budgets into points and runs what is missing; `laws`
finds the widths of a point, and runs its trial. `tuning` tunes P and eta.
"""
