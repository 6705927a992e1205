"""Atomic replacement of files: a reader sees the old or the new one."""

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path

from perigee._disk import flush_directory


def replace_file(
    target: Path, content: bytes, *, publish: Callable[[Path, Path], None] | None = None
) -> None:
    """Write `content` to a temporary file, flush it to the disk, and `publish` it as `target`.

    Args:
        target: The file, which need not exist yet.
        content: Its whole content.
        publish: Moves the temporary file, its first argument, to its second; `None` renames.

    Raises:
        OSError: If it cannot be written; `target` is then unchanged.
    """
    beside = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        (publish or os.replace)(beside, target)
    finally:
        beside.unlink(missing_ok=True)  # it still exists if something failed, or was linked
    flush_directory(target.parent)


def remove_remains(target: Path) -> None:
    """Remove temporary files of processes that were killed while replacing `target`."""
    for name in os.listdir(target.parent):
        if re.fullmatch(rf"{re.escape(target.name)}\.[0-9a-f]{{32}}\.tmp", name):
            (target.parent / name).unlink(missing_ok=True)
