"""Reads a run directory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from perigee._disk import check_file, check_folder, read_file
from perigee._errors import NoRunError, RunFileError
from perigee._events.better import better_mode
from perigee._events.stored_shapes import (
    Shape,
    anything,
    count,
    dict_of,
    duration,
    fields,
    list_of,
    number,
)
from perigee._processes.process import LOCK_NAME, read_process
from perigee.report.profile import PROFILE_NAME, profile_lines
from perigee.writers.json_lines import FILE_NAME as METRICS_NAME
from perigee.writers.json_lines import read_json_lines
from perigee.writers.run_directory import FILE_NAME as RUN_NAME
from perigee.writers.run_directory import read_run

_MOST_BYTES = 64 * 2**20
_DIGITS = re.compile("[0-9]{1,19}")
_KINDS = ("epoch", "validation", "steps", "finding")
_RECORD = fields(
    {"step": count(), "epoch": count(), "seconds": duration, "values": dict_of(number)},
    {"batch": count()},
)
_HISTOGRAMS = dict_of(fields({"edges": list_of(number, least=2), "counts": list_of(count(2**63))}))


@dataclass(frozen=True, slots=True)
class KeptSample:
    """An image or texts that a step logged.

    Attributes:
        step: The step at which it was logged.
        path: The path of the file: `.png`, `.json` with a list of texts, or `.histograms`.
    """

    step: int
    path: Path

    @property
    def is_image(self) -> bool:
        """Whether it is an image."""
        return self.path.suffix == ".png"

    @property
    def is_histogram(self) -> bool:
        """Whether it is a histogram."""
        return self.path.suffix == ".histograms"

    def histograms(self) -> dict[str, tuple[list[float], list[int]]]:
        """Return the edges and counts of the bins, by the name of the tensor."""
        found = self._read(_HISTOGRAMS)
        return {name: (each["edges"], each["counts"]) for name, each in found.items()}

    def texts(self) -> list[str]:
        """Return the texts."""
        found = self._read(anything)
        return [str(each) for each in found] if isinstance(found, list) else []

    def image(self) -> bytes:
        """Return the bytes of the image."""
        return read_file(self.path, _MOST_BYTES)

    def _read(self, shape: Shape) -> Any:
        try:
            found = json.loads(read_file(self.path, _MOST_BYTES))
            shape(found, "it")
        except (ValueError, RecursionError) as error:
            raise RunFileError(str(self.path), str(error)) from error
        return found


@dataclass(frozen=True, slots=True)
class KeptRun:
    """A run as recorded in its files.

    Attributes:
        name: The name of its directory, or as much of its path as is unique on a page.
        path: Its directory.
        facts: The content of `run.json`.
        records: The lines of `metrics.jsonl`, in order.
        samples: What the step logged as `pg.sample`, by name, in the order of the steps.
        profile: The results of a profile, or `None`.
    """

    name: str
    path: Path
    facts: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    samples: Mapping[str, Sequence[KeptSample]]
    profile: Mapping[str, Any] | None = None

    @property
    def state(self) -> str:
        """`"running"`, `"killed"`, `"finished"`, `"failed"`, or why it was stopped."""
        if self.facts.get("state") == "running":
            holder = read_process(self.path / LOCK_NAME)
            return "running" if holder is not None and holder.may_live() else "killed"
        reason = str(self.facts.get("stop_reason"))
        if reason in ("epochs", "steps"):
            return "finished"
        return "failed" if reason.startswith("error") else f"stopped: {reason}"

    @property
    def seconds(self) -> float | None:
        """The total training time, including the time before it was resumed."""
        total = last = 0.0
        for record in self.records:
            if record["seconds"] < last:  # another part has begun
                total += last
            last = record["seconds"]
        last = max(last, self.facts.get("seconds") or 0.0)
        return total + last if total + last > 0 else None

    @property
    def clock(self) -> Mapping[str, int]:
        """Finished steps and epochs, if known."""
        if self.facts.get("state") == "ended" or not self.records:
            return self.facts.get("clock") or {}
        return self.records[-1]

    def value_names(self) -> list[str]:
        """Return the names of values recorded at epochs and validations, in order."""
        names: dict[str, None] = {}
        for record in self._records_of("epoch", "validation"):
            names |= dict.fromkeys(record["values"])
        return list(names)

    def values(self, name: str) -> list[float]:
        """Return the values recorded under a name at epochs and validations, in order.

        Args:
            name: The name of a logged value, such as `"val_loss"`.
        """
        records = self._records_of("epoch", "validation")
        return [record["values"][name] for record in records if name in record["values"]]

    def best(self, name: str) -> float | None:
        """Return the best value of a name; `None` if the name does not imply what is better.

        Args:
            name: The name of a logged value, such as `"val_loss"`.
        """
        values = [value for value in self.values(name) if value == value]
        mode = better_mode(name.rpartition("/")[2])
        if mode is None or not values:
            return None
        return min(values) if mode == "min" else max(values)

    def _records_of(self, *kinds: str) -> Iterator[Mapping[str, Any]]:
        return (record for record in self.records if record["kind"] in kinds)


def read_kept(path: str | os.PathLike[str], name: str | None = None) -> KeptRun:
    """Read a run directory, even while it is being written to.

    Args:
        path: The run directory.
        name: The name of the run among others; `None` for the name of its directory.

    Returns:
        The run.

    Raises:
        NoRunError: If there is no run.
        RunFileError: If one of its files is damaged.
        OSError: If they cannot be read.
    """
    path = Path(path)
    facts = read_run(path)
    if facts is None:
        raise NoRunError(str(path), [str(found) for found in find_runs(path)])
    metrics = path / METRICS_NAME
    try:
        check_file(metrics)
        records = read_json_lines(metrics) if metrics.exists() else []
        records = [record for record in records if _is_record(record)]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise RunFileError(str(metrics), str(error)) from error
    return KeptRun(
        name or path.resolve().name,
        path,
        facts,
        records,
        _samples(path / "samples"),
        _profile(path / "profile" / PROFILE_NAME),
    )


def _profile(path: Path) -> Mapping[str, Any] | None:
    """Return the results of a profile; `None` if there are none, or they are invalid."""
    try:
        facts = json.loads(read_file(path, _MOST_BYTES))
        anything(facts, "it")
        profile_lines(facts)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return None
    except RecursionError:
        return None
    return facts


def _is_record(record: Mapping[str, Any]) -> bool:
    """Return whether a line is a record, not one that another program may have written.

    Raises:
        ValueError: If it is one of a run, with what no run writes.
    """
    kind = record.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS or "values" not in record:
        return False
    _RECORD(record, kind)
    return True


def _samples(folder: Path) -> dict[str, list[KeptSample]]:
    samples: dict[str, list[KeptSample]] = {}
    check_folder(folder)
    for path in sorted(folder.glob("*/step-*.*")):
        step = path.stem.removeprefix("step-")
        if path.is_symlink() or path.parent.is_symlink():
            continue
        if _DIGITS.fullmatch(step) and path.suffix in (".png", ".json", ".histograms"):
            kept = samples.setdefault(unquote(path.parent.name), [])
            kept.append(KeptSample(int(step), path))
    return samples


def find_runs(directory: str | os.PathLike[str]) -> list[Path]:
    """Return the run directories in and below a directory, in the order of their names.

    A run directory is not searched for others.

    Args:
        directory: The directory to search.
    """
    found: list[Path] = []
    for folder, folders, files in os.walk(directory):
        if RUN_NAME in files and may_be_run(Path(folder) / RUN_NAME):
            found.append(Path(folder))
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return sorted(found)


def may_be_run(path: Path) -> bool:
    """Return whether a file of that name may be Perigee's; true if it is damaged."""
    try:
        facts = json.loads(read_file(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return True
    return isinstance(facts, dict) and "format_version" in facts
