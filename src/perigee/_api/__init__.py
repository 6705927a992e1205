"""The doors: what users call, and their arguments, looked at once."""
