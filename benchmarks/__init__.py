"""Each file measures one claim, side by side in one run: `python benchmarks/NAME.py`."""
