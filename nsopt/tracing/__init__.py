"""Turn any module into a family of networks with other widths.

The module runs once on labels instead of numbers (labels.py). They show which channels belong
together and must be removed together (groups.py).
"""
