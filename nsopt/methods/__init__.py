"""Methods: ways to make a scaling law. No other package distinguishes them."""
