"""One rule per file, named after its finding; `check` and `fit` run them."""
