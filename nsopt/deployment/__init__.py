"""Store trained networks, and export them for other tools."""
