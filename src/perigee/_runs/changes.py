"""What changed between two starts of a run: named before a step is trained."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import keras

from perigee import _backends
from perigee._events.protocols import Feed
from perigee._runs.data_values import are_alike, data_values
from perigee._runs.program import (
    Program,
    Value,
    in_record,
    objects_of_framework,
    values_of,
)
from perigee._step.state import Tracked, track
from perigee._step.step import Step
from perigee._step.updates import inner_of

_ACCUMULATED = ("perigee/accumulated/", "perigee/accumulator/")
_NONE = "(none)"
_MOST_ENTRIES = 500_000
_MOST_SHOWN = 80
_ALMOST = 1e-6
"""Floats that differ by less are equal: they may have been float32."""

_set_up: ContextVar[tuple[Mapping[str, Any], Mapping[str, Any]] | None] = ContextVar(
    "set_up", default=None
)


@contextmanager
def settings(given: Mapping[str, Any], usual: Mapping[str, Any]) -> Generator[None]:
    """Let the trainings within have been set up by these values.

    Args:
        given: Values by name that were given, as by `--set step.temperature=4`.
        usual: The values of the others.
    """
    token = _set_up.set((given, usual))
    try:
        yield
    finally:
        _set_up.reset(token)


@dataclass(frozen=True, slots=True)
class Record:
    """What a run records of a start, to compare the next one with it.

    Attributes:
        compared: Values by path; a difference is refused unless it is accepted.
        named: Values whose difference is named, and not refused.
        usual: Settings that were not given, by path; compared with those that are given.
        data: How each data set is compared, by the name of its argument.
        not_compared: What could not be looked at, and why.
        versions: Those on which the form of the values depends.
    """

    compared: Mapping[str, Value] = field(default_factory=dict[str, Value])
    named: Mapping[str, Value] = field(default_factory=dict[str, Value])
    usual: Mapping[str, Value] = field(default_factory=dict[str, Value])
    data: Mapping[str, str] = field(default_factory=dict[str, str])
    not_compared: Mapping[str, str] = field(default_factory=dict[str, str])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])

    def facts(self) -> dict[str, Any]:
        """Return it for the file of the run."""
        return {name: dict(getattr(self, name)) for name in _PARTS}

    @classmethod
    def from_facts(cls, facts: Any) -> Record | None:
        """Return what `facts` returned; `None` for anything else, such as nothing."""
        if not isinstance(facts, Mapping):
            return None
        parts: dict[str, Mapping[str, Any]] = {}
        for name in _PARTS:
            part = facts.get(name)
            if not isinstance(part, Mapping) or len(part) > _MOST_ENTRIES:
                return None
            if not all(isinstance(key, str) and _is_value(value) for key, value in part.items()):
                return None
            parts[name] = part
        return cls(**parts)


_PARTS = ("compared", "named", "usual", "data", "not_compared", "versions")


def _is_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, int | float | str) for item in value)
    return isinstance(value, bool | int | float | str)


def record_of(
    program: Program,
    arguments: Mapping[str, Any],
    feeds: Mapping[str, tuple[Feed, Any]],
) -> Record:
    """Return the record of a start.

    Args:
        program: What the program says of the Step and the callbacks.
        arguments: Those of `fit` that decide what is trained and measured.
        feeds: By the name of the argument, the feed and what the user passed.
    """
    compared, named = dict(program.compared), dict(program.named)
    compared |= {name: _plain(v) for name, v in arguments.items() if v is not None}
    given, usual = _set_up.get() or ({}, {})
    compared |= values_of(given, "set")
    ways: dict[str, str] = {}
    for name, (feed, data) in feeds.items():
        _add_facts(name, feed, compared, named)
        values = data_values(feed, data)
        ways[name] = values.way
        for path, sample in values.samples.items():
            compared[f"{name}{path} (values)"] = sample
    versions = {"keras": keras.version(), **program.versions}
    return Record(compared, named, values_of(usual, "set"), ways, program.not_compared, versions)


def _plain(value: Any) -> Value:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _add_facts(name: str, feed: Feed, compared: dict[str, Value], named: dict[str, Value]) -> None:
    """Add the kind, the structure and the length of data."""
    compared[f"{name}.kind"] = feed.kind
    for fact, value in feed.facts().items():
        if fact == "rows":
            compared[name] = f"{value} rows"
        elif fact == "length":
            compared[name] = "unknown length" if value is None else f"{value} batches"
        elif fact == "spec":
            compared[f"{name}.structure"] = str(value)
        elif fact == "pipeline":  # its form depends on the version of TensorFlow
            named |= {f"{name}.pipeline[{i}]": str(stage) for i, stage in enumerate(value)}
        elif name == "data":  # validation data has none of its own
            compared[f"{name}.{fact}"] = _plain(value)


@dataclass(frozen=True, slots=True)
class Changes:
    """How a start differs from the one before.

    Attributes:
        certain: Lines such as `step.optimizer.learning_rate: 0.001 -> 0.01`.
        named: The same of what may change the training, or not.
    """

    certain: tuple[str, ...] = ()
    named: tuple[str, ...] = ()


def changes_between(was: Record, now: Record) -> Changes:
    """Compare two starts.

    What only one of them knows is left out where another version of Keras, or of the framework, may
    be the reason.
    """
    is_other_version = was.versions != now.versions
    before = {**_usual_of_given(was, now), **was.compared}
    after = {**_usual_of_given(now, was), **now.compared}
    certain = _differences(before, after, is_other_version)
    ways = {name for name in now.data if was.data.get(name) not in (None, now.data[name])}
    certain = [
        line
        for path, line in certain.items()
        if not (path.endswith(" (values)") and _data_of(path) in ways and _is_one_sided(line))
    ]
    named = _differences(was.named, now.named, False)
    return Changes(tuple(certain), tuple(_told(path, line) for path, line in named.items()))


def _usual_of_given(one: Record, other: Record) -> dict[str, Value]:
    """Return the usual values of settings that only the other start was given."""
    return {path: value for path, value in one.usual.items() if path in other.compared}


def _data_of(path: str) -> str:
    return re.split(r"[.\[ ]", path)[0]


def _is_one_sided(line: str) -> bool:
    return f"{_NONE} -> " in line or line.endswith(f"-> {_NONE}")


def _told(path: str, line: str) -> str:
    return f"{path} was edited" if path.startswith("code of ") and " -> " in line else line


def _differences(
    was: Mapping[str, Value], now: Mapping[str, Value], is_other_version: bool
) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in dict.fromkeys([*was, *now]):
        one, other = was.get(path), now.get(path)
        if _are_equal(one, other):
            continue
        if one is None or other is None:
            owner = path.rpartition(".")[0]
            if is_other_version and owner in was and owner in now:
                continue
            if _is_told_by_owner(path, was, now):
                continue
        if isinstance(one, list) and isinstance(other, list):
            found[path] = f"{path}: {_first_difference(one, other)}"
        else:
            found[path] = f"{path}: {_shown(one)} -> {_shown(other)}"
    return found


def _is_told_by_owner(path: str, was: Mapping[str, Value], now: Mapping[str, Value]) -> bool:
    """Tell whether a value is there or not because its owner is, or is of another class."""
    owner = path
    while (cut := max(owner.rfind("."), owner.rfind("["))) > 0:
        owner = owner[:cut]
        if (owner in was or owner in now) and not _are_equal(was.get(owner), now.get(owner)):
            return True
    return False


def _are_equal(one: Value | None, other: Value | None) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return are_alike(one, other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        if isinstance(one, int) and isinstance(other, int):
            return one == other
        return math.isclose(one, other, rel_tol=_ALMOST)
    return one == other


def _first_difference(one: Sequence[Any], other: Sequence[Any]) -> str:
    for mine, yours in zip(one, other, strict=False):
        if mine != yours and not are_alike([mine], [yours]):
            if isinstance(mine, str) and isinstance(yours, str) and len(mine) == len(yours) == 16:
                return "other values"
            return f"other values, such as {_shown(mine)} -> {_shown(yours)}"
    return f"{len(one)} values -> {len(other)} values"


def _shown(value: Any) -> str:
    if value is None:
        return _NONE
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


# The same Step again, which training has changed in the meantime.


def as_said(found: Program, said: Program, left: Program) -> Program:
    """Return what a program says of a Step: what an earlier training has changed does not count.

    Args:
        found: What it says now.
        said: What it said when the Step was trained before.
        left: The same when that training had ended: hooks may have changed some.
    """

    def merged(said: Any, left: Any, now: Any) -> dict[str, Value]:
        meant = {p: said.get(p) if _are_equal(left.get(p), v) else v for p, v in now.items()}
        return {path: value for path, value in meant.items() if value is not None}

    return replace(
        found,
        compared=merged(said.compared, left.compared, found.compared),
        named=merged(said.named, left.named, found.named),
    )


# Learning rates: variables of optimizers, which the program sets, and callbacks lower.


def stated_rates(step: Step, compared: Mapping[str, Value]) -> dict[str, float]:
    """Return the learning rates that a program states, by the path of the optimizer.

    Args:
        step: The Step.
        compared: What the program says, by path.
    """
    rates: dict[str, float] = {}
    for path in track(step).optimizers:
        said = compared.get(_path_of_rate(path, compared))
        if isinstance(said, int | float) and not isinstance(said, bool):
            rates[path] = float(said)
    return rates


def _path_of_rate(optimizer: str, compared: Mapping[str, Value]) -> str:
    """Return the path of a learning rate in a record, for the path of an optimizer in a Step."""
    path = in_record(optimizer)
    inner = f"{path}.inner_optimizer.learning_rate"
    return inner if inner in compared else f"{path}.learning_rate"


def set_rates(step: Step, now: Mapping[str, float], saved: Mapping[str, float]) -> None:
    """Set the learning rates that the program states otherwise than it did at a checkpoint.

    One that it states as before stays as it was saved: a callback may have lowered it.

    Args:
        step: The Step, whose state is loaded.
        now: What the program states now.
        saved: What it stated then.
    """
    for path, optimizer in track(step).optimizers.items():
        inner = inner_of(optimizer)
        rate = inner.learning_rate
        is_other = path in saved and path in now and not _are_equal(saved[path], now[path])
        if isinstance(rate, keras.Variable) and is_other:
            rate.assign(now[path])


# What is set in the framework's own optimizers, schedulers and gradient scalers: their state holds
# it beside what training has made of it.


def stated_settings(step: Step, compared: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a program states of the framework's own objects, by path in a record.

    Args:
        step: The Step.
        compared: What the program says, by path.
    """
    owners = objects_of_framework(step)
    return {
        path: value for path, value in compared.items() if any(_is_within(path, o) for o in owners)
    }


def set_settings(
    objects: Mapping[str, tuple[Any, Mapping[str, Any]]],
    now: Mapping[str, Value],
    saved: Mapping[str, Value],
) -> None:
    """Set what the program states otherwise than it did at a checkpoint.

    What it states as before stays as it was saved: a scheduler may have changed it.

    Args:
        objects: What `objects_of_framework` returned before the state was loaded.
        now: What the program states now.
        saved: What it stated then.
    """
    differing = [p for p in {*now, *saved} if not _are_equal(saved.get(p), now.get(p))]
    for owner, (value, settings) in objects.items():
        if owner not in saved:  # it was saved before they were looked at
            continue
        changed = {
            name: setting
            for name, setting in settings.items()
            if any(_is_within(path, f"{owner}.{name}") for path in differing)
        }
        if changed:
            _backends.current().set_settings(value, changed)


def _is_within(path: str, owner: str) -> bool:
    return path.startswith(owner) and path[len(owner) :][:1] in ("", ".", "[")


def adapted(tracked: Tracked, arrays: Mapping[str, Any], is_within_epoch: bool) -> dict[str, Any]:
    """Return stored arrays for what a Step holds by another setting than it did then.

    Only a plain learning rate is a variable, not a schedule, and it stands before the slots.
    Gradients are accumulated in variables, which are empty between two epochs.

    Args:
        tracked: The contents of the Step.
        arrays: Arrays by key, as they were saved.
        is_within_epoch: Whether they were saved within an epoch.
    """
    found = dict(arrays)
    entries = {entry.key: entry.variable for entry in tracked.entries}
    if not is_within_epoch:
        for key in [key for key in {*found, *entries} if key.startswith(_ACCUMULATED)]:
            if key not in entries:
                del found[key]
            elif key not in found:
                found[key] = _backends.current().read(entries[key])
    for path in tracked.optimizers:
        own = _of_optimizer(path, entries)
        stored = _of_optimizer(path, arrays)
        if [name for name, _ in own] == [name for name, _ in stored] or not stored:
            continue
        others = [[pair for pair in pairs if pair[0] != "learning_rate"] for pairs in (own, stored)]
        if [name for name, _ in others[0]] != [name for name, _ in others[1]]:
            continue
        for _, key in stored:
            del found[key]
        for (_, mine), (_, theirs) in zip(*others, strict=True):
            found[mine] = arrays[theirs]
        rates = [arrays[key] for name, key in stored if name == "learning_rate"]
        for name, key in own:
            if name == "learning_rate":
                found[key] = rates.pop(0) if rates else _backends.current().read(entries[key])
    return found


def _of_optimizer(path: str, keyed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the names and keys of an optimizer's variables, in order."""
    found: list[tuple[int, str, str]] = []
    for key in keyed:
        if key.startswith(f"{path}/"):
            index, slash, name = key[len(path) + 1 :].partition("/")
            if slash and index.isdigit():
                found.append((int(index), name, key))
    return [(name, key) for _, name, key in sorted(found)]
