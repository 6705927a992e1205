"""Writes the report page, replacing the file atomically."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

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
        PerigeeError: If its files cannot be read.
        OSError: If the page cannot be written.
    """
    target = Path(directory) / FILE_NAME
    write_page(target, [read_kept(directory)])
    return target
