"""A run: its directory, and what is written there."""
