"""One guard a file, named after its finding: what is watched while a training runs."""
