"""The directory of a run, and its `run.json`."""

import importlib.metadata
import json
import multiprocessing
import operator
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from perigee._disk import read_file, within
from perigee._errors import PerigeeError, RunExistsError, RunFileError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Found, Hook, Started
from perigee._events.stored_shapes import (
    anything,
    boolean,
    count,
    dict_of,
    duration,
    fields,
    list_of,
    number,
    one_of,
    optional,
    text,
)
from perigee._version import __version__
from perigee.writers._replaced import remove_remains, replace_file

FILE_NAME = "run.json"
FORMAT_VERSION = 1

_MARKS = (FILE_NAME, "metrics.jsonl")
_GIT_TIMEOUT_SECS = 5.0
_MOST_BYTES = 16 * 2**20
_LONGEST_MESSAGE = 10_000
_HAS_AFFINITY = hasattr(os, "sched_getaffinity")

_TEXT = optional(text)
_CLOCK = fields({}, dict.fromkeys(("step", "epoch", "batch"), count()))
_PROCESS = {
    "versions": dict_of(_TEXT),
    "backend": _TEXT,
    "machine": dict_of(anything),
    "command": list_of(text),
    "git_commit": _TEXT,
}
_FINDING = dict.fromkeys(("code", "name", "severity", "happened", "expected", "fix"), _TEXT)
_TRIAL = {
    "mode": text,
    "is_fused": boolean,
    "microseconds": optional(number),
    "compile_seconds": optional(number),
    "note": _TEXT,
}
_PLAN = {
    "mode": text,
    "is_fused": boolean,
    "origin": text,
    "trials": list_of(fields({}, _TRIAL)),
}
_FACTS = fields(
    {"format_version": count()},
    {
        "id": text,
        "seed": optional(count(2**64)),
        **_PROCESS,
        "plan": optional(fields({}, _PLAN)),
        "started": _TEXT,
        "resumed": list_of(fields({"step": count()}, {"when": _TEXT, **_PROCESS})),
        "configuration": dict_of(anything),
        "state": one_of("running", "ended"),
        "ended": _TEXT,
        "stop_reason": _TEXT,
        "error": optional(fields({}, {"class": _TEXT, "code": _TEXT, "message": _TEXT})),
        "seconds": optional(duration),
        "spent": dict_of(duration),
        "clock": _CLOCK,
        "failures": dict_of(dict_of(count())),
        "findings": list_of(fields({}, {**_FINDING, "items": list_of(text), "step": count()})),
    },
)
"""What `run.json` holds. Later versions may add to it, and any of it may be missing."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RunDirectory(Hook):
    """Creates the directory of a new run, or reopens that of an old one, and keeps its `run.json`.

    `run.json` stores the id of the run, what is needed to repeat it (versions, backend, seed, the
    whole command line, commit) and its outcome: `state` is `"running"` from the start of training
    until it has ended in an orderly way, including errors, and `"ended"` afterwards. A killed
    process leaves `"running"`. The file is replaced atomically: a reader sees the old or the new
    one.

    `started` is when `fit` was called. Each time the run is resumed, `resumed` gets an entry: the
    clock at which it resumed, when `fit` was called, and the versions, backend, machine, command
    and commit. `configuration` (the arguments of `fit`), `stop_reason`, `error` (class, code and
    message), `clock`, `ended`, `seconds` since the last call of `fit`, and `spent` (how they were
    spent) are those of the last part, and `findings` are those of all parts. `compared` holds the
    settings of the last start, by path, and `changes` an entry for each start whose settings were
    accepted to differ: the clock, when, and what `changed`.

    Args:
        path: The directory; it and its parents are created if missing.
        backend: The name of the current Keras backend, such as `"jax"`.
        seed: The seed that `fit` was given.
        more: Further facts to store, of JSON types.
        configuration: The arguments of the training, of such types.
        compared: What the next start is compared with, of such types.
        changes: What was accepted to differ from the start before, a line each.
        devices: The framework's devices.
        findings: Findings from before the training.
        is_resumed: Whether an old run is resumed.
        now: Returns the time, with its time zone.

    Attributes:
        failures: By the name of a writer, how often it failed and how many records were lost, as
            last written.

    Raises:
        RunExistsError: If there is already a run that is not resumed. Nothing is changed then.
        RunFileError: If a run is to be resumed, but its `run.json` cannot be read.
        OSError: If the directory cannot be created.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        backend: str | None = None,
        seed: int | None = None,
        more: Mapping[str, Any] | None = None,
        configuration: Mapping[str, Any] | None = None,
        compared: Mapping[str, Any] | None = None,
        changes: Sequence[str] = (),
        devices: Sequence[str] = (),
        findings: Sequence[Any] = (),
        is_resumed: bool = False,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._place = within(path)
        self.failures: Mapping[str, Mapping[str, int]] = {}
        self._backend = backend
        self._seed = None if seed is None else operator.index(seed)
        self._more = dict(more or {})
        self._configuration, self._devices = dict(configuration or {}), list(devices)
        self._compared, self._changes = dict(compared or {}), list(changes)
        self._findings = [finding.facts() for finding in findings]
        self._now = now
        self._facts: dict[str, Any] | None = None
        if is_resumed:
            self._facts = read_run(self.path)
        else:
            for mark in _MARKS:
                if os.path.lexists(self.path / mark):
                    raise RunExistsError(str(self.path), mark)
        self._is_resumed = is_resumed
        self._is_started = False
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        """The directory, wherever it is now."""
        return Path(self._place)

    @property
    def missing(self) -> Path | None:
        """The path of `run.json`, if it was deleted in training."""
        path = self.path / FILE_NAME
        return path if self._is_started and not os.path.lexists(path) else None

    def restore(self) -> None:
        """Write `run.json` again if it was deleted.

        Raises:
            OSError: If it cannot be written.
        """
        if self.missing is not None:
            self._replace()

    def _replace(self) -> None:
        assert self._facts is not None
        self._facts["failures"] = {name: dict(counts) for name, counts in self.failures.items()}
        replace_file(self.path / FILE_NAME, _encode(self._facts))

    def on_start(self, event: Started) -> None:
        """Write `run.json`.

        Raises:
            RunExistsError: If another process has started a run in this directory meanwhile.
        """
        began = self._timestamp(seconds_ago=event.seconds)
        process = _process(self._backend, self._devices)
        facts: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "id": uuid.uuid4().hex,
            "seed": self._seed,
            **process,
            **self._more,
            "started": began,
            "resumed": [],
            **(self._facts or {}),
            "configuration": self._configuration,
            "compared": self._compared,
            "changes": self._changes_until(event.clock, began),
            "state": "running",
            "ended": None,
            "stop_reason": None,
            "error": None,
            "seconds": None,
            "spent": {},
            "clock": asdict(event.clock),
            "failures": {},
        }
        self._facts_of_findings(facts)
        target = self.path / FILE_NAME
        remove_remains(target)
        if self._facts is not None or self._is_resumed:
            again = {**asdict(event.clock), "when": began, **process}
            facts["resumed"] = [*facts["resumed"], again]
            replace_file(target, _encode(facts))
        else:
            replace_file(target, _encode(facts), publish=_create)
        self._facts, self._is_started = facts, True

    def on_finding(self, event: Found) -> None:
        """Write a finding, and the step at which it was reported."""
        if self._facts is None or not self._is_started:
            return
        self._findings = [{**event.finding.facts(), "step": event.clock.step}]
        self._facts_of_findings(self._facts)
        self._replace()

    def _changes_until(self, clock: Clock, when: str) -> list[dict[str, Any]]:
        """Return what was accepted so far, with where the training stood.

        What was accepted at a later step than this, of which nothing was saved, holds from here.
        """
        known = (self._facts or {}).get("changes")
        changes = [dict(c) for c in known if isinstance(c, dict)] if isinstance(known, list) else []
        for change in changes:
            if not isinstance(change.get("step"), int) or change["step"] > clock.step:
                change |= asdict(clock)
        if self._changes:
            changes.append({**asdict(clock), "when": when, "changed": self._changes})
        return changes

    def changes_at(self, clock: Clock) -> list[dict[str, Any]]:
        """Return the changes from which training continues at a step, once it has started.

        Args:
            clock: Where the training stands.
        """
        changes = (self._facts or {}).get("changes") or []
        return [change for change in changes if change["step"] == clock.step]

    def _facts_of_findings(self, facts: dict[str, Any]) -> None:
        """Add findings to the existing ones, without duplicates from resumed runs."""
        known = list(facts.get("findings") or [])
        facts["findings"] = known + [finding for finding in self._findings if finding not in known]

    def on_end(self, event: Ended) -> None:
        """Write when, why and where it ended; nothing if it never started here."""
        if self._facts is None or not self._is_started:
            return
        self._facts |= {
            "state": "ended",
            "ended": self._timestamp(),
            "stop_reason": event.reason,
            "error": _error(event.reason),
            "seconds": event.seconds,
            "spent": dict(event.spent),
            "clock": asdict(event.clock),
        }
        self._replace()

    def _timestamp(self, seconds_ago: float = 0.0) -> str:
        when = self._now() - timedelta(seconds=seconds_ago)
        return when.astimezone(UTC).isoformat(timespec="seconds")


def read_run(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the content of `run.json` in a run directory, or `None` if there is none.

    Args:
        path: The run directory.

    Raises:
        RunFileError: If it is damaged, or of an unknown version.
        FileKindError: If it is a link, a directory or a device.
        OSError: If it cannot be read.
    """
    target = Path(path) / FILE_NAME
    try:
        facts = json.loads(read_file(target, _MOST_BYTES))
        _FACTS(facts, "it")
        if facts["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format version is {facts['format_version']}")
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise RunFileError(str(target), str(error)) from error
    return facts


def _encode(facts: Mapping[str, Any]) -> bytes:
    return json.dumps(facts, indent=2).encode("ascii") + b"\n"


def _error(reason: str) -> dict[str, Any] | None:
    """Return facts about the error that ended the training, if any."""
    error = sys.exc_info()[1]  # `on_end` is called while the error is being raised
    if error is None or reason != f"error: {type(error).__name__}":
        return None
    return {
        "class": type(error).__name__,
        "code": error.code if isinstance(error, PerigeeError) else None,
        "message": str(error)[:_LONGEST_MESSAGE],
    }


def _create(beside: Path, target: Path) -> None:
    """Rename `beside` to `target` unless it exists, even if two processes try at once."""
    try:
        os.link(beside, target)
    except FileExistsError:
        raise RunExistsError(str(target.parent), target.name) from None
    except OSError:  # a file system without hard links: the best approximation
        if os.path.lexists(target):
            raise RunExistsError(str(target.parent), target.name) from None
        os.replace(beside, target)


def _process(backend: str | None, devices: Sequence[str]) -> dict[str, Any]:
    """Return facts that may differ each time a run is resumed."""
    return {
        "versions": _versions(backend),
        "backend": backend,
        "machine": {
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count(),
            "devices": list(devices),
        },
        "command": _command(),
        "git_commit": _git_commit(),
    }


def _command() -> list[str]:
    """Return the command line of this process, with the interpreter and its options."""
    # A child that `multiprocessing` starts has one that says nothing; its `argv` is the parent's.
    is_child = multiprocessing.parent_process() is not None
    own = [] if is_child else sys.orig_argv
    return list(own) or [sys.executable, *sys.argv]


def _versions(backend: str | None) -> dict[str, str | None]:
    versions = {
        "perigee": __version__,
        "python": platform.python_version(),
        "keras": _installed_version("keras"),
        "numpy": _installed_version("numpy"),
    }
    if backend is not None:
        # A framework may come in packages of several names; the loaded module decides.
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
