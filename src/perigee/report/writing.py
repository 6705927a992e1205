"""Writes the report page, replacing the file atomically."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from perigee._disk import check_file
from perigee._errors import FileKindError
from perigee.report.page import render
from perigee.report.reading import KeptRun, read_kept
from perigee.writers import replace_file

FILE_NAME = "report.html"


def write_page(target: str | os.PathLike[str], runs: Sequence[KeptRun]) -> None:
    """Write the page of some runs.

    Args:
        target: The file; an existing one is replaced.
        runs: The runs on the page, in this order.

    Raises:
        OSError: If it cannot be written.
    """
    replace_file(Path(target), render(runs).encode("utf-8", "backslashreplace"))


def write_report(directory: str | os.PathLike[str]) -> Path:
    """Write `report.html` of a run into its directory, and return its path.

    Args:
        directory: The run directory.

    Returns:
        The path of the page.

    Raises:
        FileKindError: If there is another file of that name, or a link.
        PerigeeError: If its files cannot be read.
        OSError: If the page cannot be written.
    """
    target = Path(directory) / FILE_NAME
    if os.path.lexists(target) and not is_report(target):
        raise FileKindError(str(target), "not a page of Perigee", "the report of a run")
    write_page(target, [read_kept(directory)])
    return target


def is_report(path: Path) -> bool:
    """Return whether a file is a page that `write_page` has written.

    Raises:
        FileKindError: If it is a link, a directory or a device.
        OSError: If it cannot be read.
    """
    check_file(path)
    return b'id="perigee-data"' in path.read_bytes()
