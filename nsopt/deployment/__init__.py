"""Networks to take home: files that other tools run."""
