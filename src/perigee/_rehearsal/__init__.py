"""A run of a step that leaves no trace, to find out what it does."""
