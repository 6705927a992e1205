"""Ready-made Steps."""
