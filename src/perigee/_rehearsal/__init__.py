"""One run of a step that leaves no trace, to learn what it does."""
