"""Comparing a start with the one before, and with the state that it resumes from."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from perigee._errors import RunArgumentError, RunChangedError, StateMismatchError
from perigee._runs.changes import (
    Changes,
    Record,
    as_said,
    changes_between,
    set_rates,
    set_settings,
    stated_rates,
    stated_settings,
)
from perigee._runs.opening import OpenRun
from perigee._runs.program import Program, Value, in_record, objects_of_framework, program_of
from perigee._step.state import track
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee.writers.run_directory import read_run

_NEEDS_NEW_EPOCH = ("steps_per_epoch", "accumulate")


@dataclass(frozen=True, slots=True)
class Start:
    """A start of a run, compared with the one before.

    Attributes:
        configuration: The arguments of the training, and what its Step holds, for people.
        record: The same, to compare the next start with it.
        accepted: What differs and was accepted, as it was and is.
        named: What differs and may change the training, or not.
        rates: The learning rates that the program states, by the path of the optimizer.
        saved_rates: Those that it stated when the checkpoint was saved.
        settings: What the program states of the framework's own objects, by path in the record.
        saved_settings: What it stated of them when the checkpoint was saved.
    """

    configuration: Mapping[str, Any]
    record: Record
    accepted: Sequence[str]
    named: Sequence[str]
    rates: Mapping[str, float]
    saved_rates: Mapping[str, float]
    settings: Mapping[str, Value]
    saved_settings: Mapping[str, Value]


def compared(
    opened: OpenRun, record: Record, configuration: Mapping[str, Any], *, is_built: bool = True
) -> Start:
    """Compare a start with the one before; nothing is changed.

    Args:
        opened: The run.
        record: What this start records.
        configuration: What the file of the run shows of it.
        is_built: Whether all variables of the Step are there.

    Raises:
        StateMismatchError: If the state of the run does not fit the Step.
        DataChangedError: If the position in the data is not one of this data.
        RunChangedError: If something else differs, and changes are not accepted.
    """
    step = opened.step
    rates, settings = stated_rates(step, record.compared), stated_settings(step, record.compared)
    if opened.loaded is None:
        return Start(configuration, record, (), (), rates, {}, settings, {})
    was = Record.from_facts((read_run(opened.path) or {}).get("compared"))
    if was is not None and not was.versions.keys() >= record.versions.keys():
        # Written before the framework's own objects were compared.
        was = replace(was, compared={**settings, **was.compared})
    changes = Changes() if was is None else changes_between(was, record)
    saved_settings = opened.saved_settings
    if saved_settings is None:
        saved_settings = {} if was is None else stated_settings(step, was.compared)
    accepted = _accepted(opened, changes, is_built)
    _refuse_other_classes(step, settings, saved_settings)
    if was is None:
        warnings.warn(
            f"{opened.path} was written without a record of its settings, so what has changed "
            "since cannot be told. They are recorded from now on.",
            RuntimeWarning,
            stacklevel=4,
        )
    saved = opened.saved_rates
    if saved is None:
        saved = {} if was is None else stated_rates(step, was.compared)
    named = changes.named
    return Start(configuration, record, accepted, named, rates, saved, settings, saved_settings)


@contextmanager
def restated(step: Step, start: Start | None) -> Generator[None]:
    """Let what the program states hold after a state was loaded within, where it was changed.

    Args:
        step: The Step.
        start: How this start compares with the one before; `None` where there is no run.
    """
    if start is None:
        yield
        return
    objects = objects_of_framework(step)
    yield
    set_rates(step, start.rates, start.saved_rates)
    set_settings(objects, start.settings, start.saved_settings)


def _refuse_other_classes(step: Step, now: Mapping[str, Value], saved: Mapping[str, Value]) -> None:
    """Refuse the state of an optimizer or scheduler for one of another class."""
    different: dict[str, str] = {}
    for path, state in track(step).objects.items():
        was, is_now = saved.get(in_record(path)), now.get(in_record(path))
        if not state.is_optional and was is not None and is_now is not None and was != is_now:
            different[path] = f"the state of {was} is stored, the Step has {is_now}"
    if different:
        raise StateMismatchError((), (), different)


def _accepted(opened: OpenRun, changes: Changes, is_built: bool) -> list[str]:
    """Return what changed, if that is accepted, and refuse it otherwise."""
    assert opened.loaded is not None
    lines = list(changes.certain)
    note = "\n".join(["What changed since the run was last started (was -> is):", *lines])
    try:
        opened.check_step(is_built)
    except StateMismatchError as error:
        if lines:
            error.add_note(note)
        raise
    other, clock = opened.other_data, opened.loaded.content.clock
    if other is not None and clock.batch:
        if lines:
            other.add_note(note)
        raise other
    if other is not None and not lines:
        lines = [f"data.{line}" for line in other.differences]
    accepts = opened.run.on_change == "accept"
    if lines and not accepts:
        raise RunChangedError(str(opened.path), clock.step, lines)
    for line in lines:
        name, _, values = line.partition(": ")
        if name in _NEEDS_NEW_EPOCH and clock.batch:  # an epoch has begun with the other
            was, _, now = values.partition(" -> ")
            raise RunArgumentError(str(opened.path), name, was, now)
    return lines


def said_by(opened: OpenRun, callbacks: Sequence[Any]) -> Program:
    """Return what the program says of a Step and its callbacks.

    A Step that the run has trained before, in this process, may have been changed by that.
    """
    found = program_of(opened.step, callbacks)
    before = internals(opened.step).said.get(_key(opened))
    return found if before is None else as_said(found, *before)


def remember(opened: OpenRun, callbacks: Sequence[Any], said: Program) -> None:
    """Remember how training has left a Step, which may be passed to the same run again."""
    internals(opened.step).said[_key(opened)] = said, program_of(opened.step, callbacks)


def _key(opened: OpenRun) -> str:
    return str(opened.path.absolute())
