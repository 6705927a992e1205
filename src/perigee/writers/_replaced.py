"""A file that is replaced as a whole: a reader sees the old or the new one."""

import glob
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from perigee._disk import flush_directory


def replace_file(
    target: Path, content: bytes, *, publish: Callable[[Path, Path], None] | None = None
) -> None:
    """Write `content` beside `target`, flush it to the disk, and then `publish` it there.

    Args:
        target: The file, which need not be there yet.
        content: All of it.
        publish: Brings the file beside it, its first argument, to its second; `None` renames.

    Raises:
        OSError: If it cannot be written; `target` is then as it was.
    """
    beside = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        (publish or os.replace)(beside, target)
    finally:
        beside.unlink(missing_ok=True)  # it is still there where something failed, or was linked
    flush_directory(target.parent)


def remove_remains(target: Path) -> None:
    """Remove what processes that were killed while they replaced `target` left beside it."""
    for beside in target.parent.glob(f"{glob.escape(target.name)}.*.tmp"):
        beside.unlink(missing_ok=True)
