"""One guard per file, named after its finding; they watch a training."""
