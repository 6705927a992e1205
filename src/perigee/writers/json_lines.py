"""Records as lines of JSON: one file per run, valid after any crash."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from perigee._disk import within
from perigee._errors import LogShortError, RunFileError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Found, Hook, Recorded, Started
from perigee._events.stored_shapes import count, fields
from perigee.writers._appended import AppendedFile, check_length, is_lasting, make_own

FILE_NAME = "metrics.jsonl"


class JsonLines(Hook):
    """Append each record to `metrics.jsonl` in a run directory.

    One line per record, with `kind` (the scope), `step`, `epoch`, `batch`, `seconds` and `values`.
    In lines of kind `"steps"`, a value named `running/...` is a metric's over the epoch so far.
    JSON has no NaN and no infinity: such a value is `null`, and `nonfinite` says which it was, as
    in `{"loss": "nan"}`; `nonfinite` is absent if all values are finite. A line of kind `"finding"`
    has no values, but a `finding`: `code`, `name`, `severity`, `happened`, `items`, `expected` and
    `fix`. Neither has one of kind `"changes"`, where a run was continued with other settings: it
    has `when` and what `changed`, as it was and is.

    A line reaches the operating system in one write when it is recorded, so that another program
    can follow the file, and a killed process leaves at most one partial line at the end. A partial
    line of an earlier process is removed before the first new one.

    A resumed run keeps exactly the lines from before the checkpoint: the checkpoint stores their
    size in bytes, and the file is truncated to it at the start. The line of an interrupted epoch is
    not kept, since the epoch continues.

    Args:
        directory: The run directory, which must exist when training starts.
        changes_at: Returns what changed where training stands, once it has started.
    """

    may_lag = True

    def __init__(
        self,
        directory: str | os.PathLike[str],
        changes_at: Callable[[Clock], Sequence[Mapping[str, Any]]] | None = None,
    ) -> None:
        self._changes_at = changes_at
        self._file = AppendedFile(within(directory, FILE_NAME))
        self._kept_bytes = 0
        self._cut_at: int | None = None

    @property
    def path(self) -> Path:
        """The file, wherever its directory is now."""
        return self._file.path

    @property
    def missing(self) -> Path | None:
        """The file, if it was deleted in training."""
        return self.path if self._file.is_missing else None

    def restore(self) -> None:
        """Make the file again, with all its lines, where it was deleted.

        Raises:
            OSError: If it cannot be made.
        """
        self._file.restore()

    def on_start(self, event: Started) -> None:
        """Open the file, so that a read-only directory is detected before step 1."""
        if self._cut_at is None:
            _mend(self.path)
        self._file.open(self._cut_at)
        for change in [] if self._changes_at is None else self._changes_at(event.clock):
            what = {"when": change.get("when"), "changed": change.get("changed")}
            line = _encode("changes", event, {}, **what)
            if line not in self.path.read_bytes():
                self._file.write(line)
        self._kept_bytes, self._cut_at = self._file.size_bytes, None

    def on_record(self, event: Recorded) -> None:
        """Append one line."""
        self._file.write(_encode(event.scope, event, event.values))
        if is_lasting(event):
            self._kept_bytes = self._file.size_bytes

    def on_finding(self, event: Found) -> None:
        """Append one line of kind `"finding"`."""
        is_kept = self._kept_bytes == self._file.size_bytes
        self._file.write(_encode("finding", event, {}, finding=event.finding.facts()))
        if is_kept:
            self._kept_bytes = self._file.size_bytes

    def on_end(self, event: Ended) -> None:
        """Close the file."""
        self._file.close()

    def state(self) -> dict[str, Any]:
        """Wait until the lines are on the disk, and return their size in bytes."""
        self._file.flush()
        return {"size_bytes": self._kept_bytes}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue after the lines that existed at `state`, from the next start.

        Raises:
            LogShortError: If the file is shorter than it was then, or was replaced.
        """
        fields({"size_bytes": count(2**63)})(state, "metrics")
        size_bytes: int = state["size_bytes"]
        self._cut_at = size_bytes if check_length(self.path, size_bytes) else 0
        if self._cut_at and self.path.read_bytes()[size_bytes - 1 : size_bytes] != b"\n":
            found = f"no end of a line after byte {size_bytes}"
            raise LogShortError(str(self.path), found, f"{size_bytes} bytes")


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a `metrics.jsonl`, in order, without a partial last line.

    Values that were not finite are floats again, under `values`.

    Args:
        path: The file.

    Returns:
        One dict per line, as described in `JsonLines`.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If a line before the last one is not a JSON object.
    """
    records, _ = _parse(Path(path).read_bytes())
    for record in records:
        for name, word in record.pop("nonfinite", {}).items():
            record["values"][name] = float(word)
    return records


def _encode(
    kind: str, event: Started | Recorded | Found, values: Mapping[str, float], **more: Any
) -> bytes:
    """Return a line; JSON has no number that is not finite."""
    values = {name: float(value) for name, value in values.items()}
    nonfinite = {name: str(value) for name, value in values.items() if not math.isfinite(value)}
    record: dict[str, Any] = {
        "kind": kind,
        **asdict(event.clock),
        "seconds": 0.0 if isinstance(event, Started) else event.seconds,
        "values": {name: None if name in nonfinite else value for name, value in values.items()},
        **more,
    }
    if nonfinite:
        record["nonfinite"] = nonfinite
    return json.dumps(record).encode("ascii") + b"\n"


def _parse(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the records and their size in bytes, up to a partial last line."""
    lines = content.split(b"\n")
    if not lines[-1]:  # what follows the last newline
        lines.pop()
    records: list[dict[str, Any]] = []
    size_bytes = 0
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"Line {number} of {len(lines)}: {error}") from error
        records.append(record)
        size_bytes += len(line) + 1
    return records, min(size_bytes, len(content))


def _mend(path: Path) -> None:
    """Make the file end with a whole line, so that no record is joined to a partial one."""
    make_own(path)
    if not path.exists():
        return
    content = path.read_bytes()
    try:
        _, size_bytes = _parse(content)
    except ValueError as error:
        raise RunFileError(str(path), str(error)) from error
    if size_bytes < len(content):
        os.truncate(path, size_bytes)
    elif content and not content.endswith(b"\n"):  # complete, except for its newline
        with path.open("ab") as file:
            file.write(b"\n")
