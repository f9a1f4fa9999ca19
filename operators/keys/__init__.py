"""Which slot each key has, and rows kept by slot."""
