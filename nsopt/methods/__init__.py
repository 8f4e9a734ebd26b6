"""Methods: ways to make a scaling law, one file each. No other package distinguishes them."""
