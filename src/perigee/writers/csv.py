"""Records as rows of a CSV file, valid after any crash."""

import csv
import io
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perigee._disk import check_file
from perigee._errors import LogExistsError, LogShortError
from perigee._events.events import Ended, Hook, Recorded, Started
from perigee._events.stored_shapes import count, fields, list_of, text
from perigee.writers._appended import AppendedFile, is_lasting, warn_of_missing
from perigee.writers._replaced import remove_remains, replace_file

CLOCK_COLUMNS = ("kind", "step", "epoch", "batch", "seconds")


class Csv(Hook):
    """Append each record to a table: `callbacks=[Csv("digits.csv")]`.

    The columns are `kind` (`"epoch"`, `"validation"` or `"steps"`), `step`, `epoch`, `batch`,
    `seconds`, and then the values in the order in which their names appeared first. A value that is
    missing in a record has an empty cell there; one that is not finite is `nan`, `inf` or `-inf`. A
    name that appears later adds a column at the right, and the file is atomically replaced by a
    wider one. A value with the name of one of the first five columns is written as `values/step`.

    A row reaches the operating system in one write. A resumed run keeps exactly the rows and
    columns from before the checkpoint, without the row of an interrupted epoch, since the epoch
    continues.

    Args:
        path: The file. When training starts, its directory must exist, and it must be missing or
            empty, unless the run resumes.
    """

    may_lag = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Path = Path(path)
        self._file = AppendedFile(self.path)
        self._columns: list[str] = []
        self._rows = 0
        self._kept = 0, 0  # rows and columns
        self._is_known = self._is_replaced = False

    def on_start(self, event: Started) -> None:
        """Open the file, so that a read-only directory is detected before step 1.

        Raises:
            LogExistsError: If it holds data that this training did not write.
            FileKindError: If it is a link, a directory or a device.
        """
        check_file(self.path)
        if self._is_known:
            remove_remains(self.path)
            self._replace(self._columns)
        elif self.path.exists() and self.path.stat().st_size:
            raise LogExistsError(str(self.path))
        self._file.open()
        self._is_known = True

    def on_record(self, event: Recorded) -> None:
        """Append one row."""
        cells: dict[str, Any] = {"kind": event.scope, **asdict(event.clock)}
        cells["seconds"] = event.seconds
        for name, value in event.values.items():
            cells[_column(name)] = float(value)
        new = [name for name in cells if name not in self._columns]
        if new or self._is_replaced:
            self._is_replaced = True  # until the new file is open: the old one has no name
            self._replace([*self._columns, *new])
            self._file.open()
            self._is_replaced = False
        self._restore()
        self._file.write(_encode([[cells.get(name, "") for name in self._columns]]))
        self._rows += 1
        if is_lasting(event):
            self._kept = self._rows, len(self._columns)

    def _restore(self) -> None:
        if self._file.is_missing:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file.restore()
            warnings.warn(
                f"{self.path} was deleted in training. It is made again with all its rows.",
                RuntimeWarning,
                stacklevel=2,
            )

    def on_end(self, event: Ended) -> None:
        """Close the file."""
        self._file.close()

    def state(self) -> dict[str, Any]:
        """Wait until the rows are on the disk, and return their number, and the columns."""
        self._file.flush()
        rows, width = self._kept
        return {"rows": rows, "columns": self._columns[:width]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue after the rows that existed at `state`, from the next start.

        Raises:
            LogShortError: If the file has fewer rows or other columns than it had then.
        """
        fields({"rows": count(), "columns": list_of(text)})(state, "csv")
        rows, columns = state["rows"], list(state["columns"])
        if not self.path.exists():
            if rows:
                warn_of_missing(self.path)
            rows, columns = 0, []
        header, found = _read(self.path)
        if len(found) < rows or header[: len(columns)] != columns:
            holds = f"{len(found)} rows of {', '.join(header)}"
            raise LogShortError(str(self.path), holds, f"{rows} rows of {', '.join(columns)}")
        self._columns, self._rows, self._kept = columns, rows, (rows, len(columns))
        self._is_known = True

    def _replace(self, columns: Sequence[str]) -> None:
        """Replace the file by one with these columns, with more or fewer at the right."""
        _, found = _read(self.path)
        rows = [[*row, *[""] * len(columns)][: len(columns)] for row in found[: self._rows]]
        replace_file(self.path, _encode([columns, *rows] if columns else []))
        self._columns = list(columns)


def _column(name: str) -> str:
    # On one line: what follows the last newline is partial, in the header too.
    name = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in name)
    return f"values/{name}" if name in CLOCK_COLUMNS else name


def _encode(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows, without a partial last one; empty if there is no file."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1].decode()
    header, *rows = csv.reader(io.StringIO(whole, newline="")) if whole else [[]]
    return header, rows
