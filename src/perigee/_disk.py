"""What the disk has to be told, beyond writing files."""

import os
from pathlib import Path


def flush_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut; without effect on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
