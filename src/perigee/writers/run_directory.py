"""The directory of a run, and what its `run.json` says about it."""

import importlib.metadata
import json
import operator
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perigee._clock import Clock
from perigee._errors import RunExistsError
from perigee._events import Ended, Hook, Started
from perigee._version import __version__

FILE_NAME = "run.json"
FORMAT_VERSION = 1

_MARKS = (FILE_NAME, "metrics.jsonl", "checkpoints")
_GIT_TIMEOUT_SECS = 5.0


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RunDirectory(Hook):
    """Make the directory of a new run and keep `run.json` in it.

    `run.json` says what is needed to run it again (versions, backend, seed, command line, commit)
    and what became of it: `state` is `"running"` from the start of training until it has ended in
    any orderly way, errors included, and `"ended"` from then on. A process that was killed leaves
    `"running"`. The file is replaced as a whole: a reader sees the old or the new one.

    Args:
        path: The directory; it and its parents are made where they are missing.
        backend: The name of the Keras backend that runs, such as `"jax"`.
        seed: The seed that `fit` was given.
        now: Returns the time, with its time zone.

    Attributes:
        path: The directory.

    Raises:
        RunExistsError: If a run is there already. Nothing is changed then.
        OSError: If the directory cannot be made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        backend: str | None = None,
        seed: int | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.path = Path(path)
        self._backend = backend
        self._seed = None if seed is None else operator.index(seed)
        self._now = now
        self._facts: dict[str, Any] | None = None
        for mark in _MARKS:
            if os.path.lexists(self.path / mark):
                raise RunExistsError(str(self.path), mark)
        self.path.mkdir(parents=True, exist_ok=True)

    def on_start(self, event: Started) -> None:
        """Write `run.json`.

        Raises:
            RunExistsError: If another process has begun a run in this directory in the meantime.
        """
        facts: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "state": "running",
            "versions": _versions(self._backend),
            "backend": self._backend,
            "seed": self._seed,
            "command": list(sys.argv),
            "git_commit": _git_commit(),
            "started": self._timestamp(),
            "ended": None,
            "stop_reason": None,
            "seconds": None,
            "clock": _clock(event.clock),
        }
        target = self.path / FILE_NAME
        if self._facts is None:
            _write(target, facts, publish=_create)
        else:  # this run goes on
            _write(target, facts, publish=os.replace)
        self._facts = facts

    def on_end(self, event: Ended) -> None:
        """Write when, why and where it ended; nothing if it never started here."""
        if self._facts is None:
            return
        self._facts |= {
            "state": "ended",
            "ended": self._timestamp(),
            "stop_reason": event.reason,
            "seconds": event.seconds,
            "clock": _clock(event.clock),
        }
        _write(self.path / FILE_NAME, self._facts, publish=os.replace)

    def _timestamp(self) -> str:
        return self._now().astimezone(UTC).isoformat(timespec="seconds")


def _write(
    target: Path, content: Mapping[str, Any], *, publish: Callable[[Path, Path], None]
) -> None:
    """Write JSON beside `target`, flush it to the disk, and then `publish` it under its name."""
    beside = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with beside.open("x", encoding="ascii") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        publish(beside, target)
    finally:
        beside.unlink(missing_ok=True)  # it is still there where something failed, or was linked
    _flush_directory(target.parent)


def _create(beside: Path, target: Path) -> None:
    """Give `beside` the name `target` unless it is taken, also if two processes try at once."""
    try:
        os.link(beside, target)
    except FileExistsError:
        raise RunExistsError(str(target.parent), target.name) from None
    except OSError:  # a file system without hard links: as close as it gets
        if os.path.lexists(target):
            raise RunExistsError(str(target.parent), target.name) from None
        os.replace(beside, target)


def _flush_directory(path: Path) -> None:
    """Make names in a directory survive a power cut; without effect on Windows."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clock(clock: Clock) -> dict[str, int]:
    return {"step": clock.step, "epoch": clock.epoch, "batch": clock.batch}


def _versions(backend: str | None) -> dict[str, str | None]:
    versions = {
        "perigee": __version__,
        "python": platform.python_version(),
        "keras": _installed_version("keras"),
        "numpy": _installed_version("numpy"),
    }
    if backend is not None:
        # One framework comes in packages of several names; the one that is loaded knows best.
        loaded = getattr(sys.modules.get(backend), "__version__", None)
        versions[backend] = str(loaded) if loaded is not None else _installed_version(backend)
    return versions


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the working directory; `None` outside a checkout or without git."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_GIT_TIMEOUT_SECS,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
