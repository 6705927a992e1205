"""One rule per file, named after its finding; they judge some hundred steps on a copy."""
