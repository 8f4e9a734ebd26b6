"""What studies print is tested like the package."""
