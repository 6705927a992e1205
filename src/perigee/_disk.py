"""Disk operations beyond writing files."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from perigee._errors import FileKindError

# A link would lead elsewhere, and a pipe would wait for a reader. Not every system has these.
_SAFELY = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))


def flush_directory(path: Path) -> None:
    """Flush a directory, so that its entries survive a power failure; no effect on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: Path, flags: int) -> int:
    """Open a file without following a link, and return its descriptor.

    Args:
        path: The file.
        flags: Those of `os.open`.

    Raises:
        FileKindError: If there is a link, a directory or a device.
        OSError: If the system call fails.
    """
    check_file(path)
    try:
        descriptor = os.open(path, flags | _SAFELY, 0o666)
    except OSError:
        check_file(path)  # it may have become a link since
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileKindError(str(path), "not a regular file", "a regular file")
    return descriptor


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return the bytes of a file, without following a link or waiting for a pipe.

    Args:
        path: The file.
        most_bytes: The most that it may have.

    Raises:
        FileKindError: If there is a link, a directory or a device.
        ValueError: If it is longer.
        OSError: If it cannot be read.
    """
    with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes:,} bytes")
    return content


def check_file(path: Path) -> None:
    """Refuse a link, a directory or a device in the place of a file.

    Raises:
        FileKindError: If there is a link, a directory or a device.
    """
    _check_kind(path, stat.S_ISREG, "a regular file")


def check_folder(path: Path) -> None:
    """Refuse a link or a file in the place of a directory.

    Raises:
        FileKindError: If there is a link or a file.
    """
    _check_kind(path, stat.S_ISDIR, "a directory")


def make_folder(path: Path) -> None:
    """Create a directory, with its parents, unless it exists.

    Raises:
        FileKindError: If there is a link or a file.
        OSError: If it cannot be created.
    """
    check_folder(path)
    path.mkdir(parents=True, exist_ok=True)


def _check_kind(path: Path, is_right: Callable[[int], bool], expected: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISLNK(mode):
        raise FileKindError(str(path), f"a link to {os.readlink(path)}", expected)
    if not is_right(mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFREG: "a file"}
        found = kinds.get(stat.S_IFMT(mode), "a pipe or a device")
        raise FileKindError(str(path), found, expected)
