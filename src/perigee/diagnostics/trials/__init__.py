"""One rule a file, named after its finding: what some hundred steps on a copy show."""
