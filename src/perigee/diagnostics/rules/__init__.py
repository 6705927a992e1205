"""One rule a file, named after its finding: what `check` and `fit` look for in a step and its data."""
