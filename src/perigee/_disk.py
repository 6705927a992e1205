"""Disk operations beyond writing files."""

import os
from pathlib import Path


def flush_directory(path: Path) -> None:
    """Flush a directory, so that its entries survive a power failure; no effect on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
