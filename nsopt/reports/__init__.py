"""Reports: read from Optuna storage alone, drawn with Plotly."""
