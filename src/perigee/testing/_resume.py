"""Checks that a training that stops and resumes ends like one that never stopped."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from perigee._api.fit import fit
from perigee._errors import ArgumentError, door
from perigee._events.events import Hook, StepsDone
from perigee._events.schedule import Every
from perigee._runs.run import Run
from perigee._step.state import track
from perigee._step.step import Step
from perigee.checkpoints import arrays_of, random_state, set_random_state
from perigee.checkpoints.state import objects_of
from perigee.writers.json_lines import FILE_NAME, read_json_lines

_SEED = 0


@dataclass(frozen=True, slots=True)
class ResumeReport:
    """What was compared bit by bit, and equal.

    Attributes:
        steps: The number of steps of each of the two trainings.
        at: The step at which one of them stopped and resumed.
        variables: The keys of the variables.
        records: The number of lines in `metrics.jsonl` that hold values.
    """

    steps: int
    at: int
    variables: tuple[str, ...]
    records: int

    def __str__(self) -> str:
        return (
            f"{self.steps} steps, and {self.at} and {self.steps - self.at}: equal in "
            f"{len(self.variables)} variables and {self.records} records."
        )


@dataclass(frozen=True, slots=True)
class _Outcome:
    arrays: Mapping[str, np.ndarray]
    objects: Mapping[str, Any]
    host: Any
    records: list[dict[str, Any]]


@door
def verify_resume(
    make: Callable[[], Step],
    data: Callable[[], Any],
    *,
    steps: int,
    at: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> ResumeReport:
    """Check that a Step resumes exactly: `steps` steps at once against two parts of them.

    Both are trained in this process, each with its own run directory. Everything that a new process
    would create is created again for each part: the Step, the data, and the states of the global
    random generators, which are restored at the end. So a counter in Python that `host_state` does
    not return, or a number drawn from the Step's own generator, causes a difference.

    >>> x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    >>> def make():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     return Supervised(model, "adam", "mse")
    >>> print(verify_resume(make, lambda: (x, x[:, :1]), steps=8, arguments={"batch_size": 8}))
    8 steps, and 4 and 4: equal in 7 variables and 1 records.

    Args:
        make: Returns a new Step, the same each time except for its random numbers.
        data: Returns the data, as for `fit`.
        steps: The total number of steps, at least 2.
        at: The step at which to stop, below `steps`; `None` stops half way.
        arguments: Further arguments of `fit`, such as `{"batch_size": 8, "execution": "eager"}`.

    Returns:
        What was compared.

    Raises:
        AssertionError: If the two differ in any bit; it names the first such variable or log.
        ArgumentError: If there is no step at which to stop.
    """
    if not callable(data):
        raise ArgumentError(
            "data",
            f"<{type(data).__name__}>",
            "a function that returns the data: each of the trainings begins with data of its own.",
            "write `lambda: data`.",
        )
    at = steps // 2 if at is None else at
    if not 0 < at < steps:
        raise ArgumentError(
            "at", str(at), f"a step from 1 to {steps - 1}.", "train more steps, or stop earlier."
        )
    before = random_state()
    try:
        with tempfile.TemporaryDirectory() as folder:
            train = _Training(make, data, steps, arguments or {}, Path(folder))
            straight = train("straight")
            train("resumed", _StopAt(at))
            resumed = train("resumed")
    finally:
        set_random_state(before)
    _compare(straight, resumed, at)
    return ResumeReport(steps, at, tuple(straight.arrays), len(straight.records))


@dataclass(frozen=True, slots=True)
class _Training:
    make: Callable[[], Step]
    data: Callable[[], Any]
    steps: int
    arguments: Mapping[str, Any]
    folder: Path

    def __call__(self, name: str, *hooks: Hook) -> _Outcome:
        keras.utils.set_random_seed(_SEED)
        step = self.make()
        path = self.folder / name
        given: dict[str, Any] = {"progress": "off", **self.arguments}
        given["callbacks"] = [*given.get("callbacks", ()), *hooks]
        run = Run(path, save_every=None, record_every=Every(steps=1))
        fit(step, self.data(), steps=self.steps, run=run, **given)
        lines = read_json_lines(path / FILE_NAME)
        records = [line for line in lines if line["kind"] != "finding"]
        tracked = track(step)
        objects = _flat(objects_of(tracked))
        return _Outcome(arrays_of(tracked), objects, step.host_state(), records)


class _StopAt(Hook):
    """Stops the training as a `Preemption` does."""

    def __init__(self, step: int) -> None:
        self.every = Every(steps=step)

    def on_steps(self, event: StepsDone) -> None:
        event.stop("deadline")


def _compare(straight: _Outcome, resumed: _Outcome, at: int) -> None:
    names = [
        key
        for key, array in straight.arrays.items()
        if array.tobytes() != resumed.arrays[key].tobytes()
    ]
    found: list[str] = []
    if names:
        then, now = straight.arrays[names[0]], resumed.arrays[names[0]]
        off = np.max(np.abs(np.subtract(then, now, dtype=np.float64)), initial=0.0)
        found.append(
            f"{names[0]}, by up to {off:.3g}, and {len(names) - 1} more of "
            f"{len(straight.arrays)} variables"
        )
    pairs = straight.objects.items()
    found += [path for path, value in pairs if resumed.objects.get(path) != value][:1]
    log = _first_log(straight.records, resumed.records)
    if log is not None:
        found.append(log)
    if repr(straight.host) != repr(resumed.host):
        found.append(f"`host_state`: {straight.host!r:.200} and {resumed.host!r:.200}")
    if found:
        raise AssertionError(
            f"Resumed after step {at}, the training differs from one that was not stopped in:\n"
            + "".join(f"  - {each}\n" for each in found)
            + "The result depends on something that is not saved. Keep it in a "
            "`keras.Variable` of the Step, return it from `host_state`, or draw random numbers "
            "from a `keras.random.SeedGenerator` that the Step holds."
        )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return plain values by path, and arrays as bytes, so that they can be compared."""
    if isinstance(value, dict | list):
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)
        inner = [_flat(item, f"{path}/{name}" if path else str(name)) for name, item in items]
        return {key: item for each in inner for key, item in each.items()}
    return {path: value.tobytes() if isinstance(value, np.ndarray) else repr(value)}


def _first_log(straight: list[dict[str, Any]], resumed: list[dict[str, Any]]) -> str | None:
    for then, now in zip(straight, resumed, strict=False):
        for name in {**then["values"], **now["values"]}:
            values = then["values"].get(name), now["values"].get(name)
            if repr(values[0]) != repr(values[1]):
                return f"the log {name} at step {then['step']}: {values[0]} and {values[1]}"
        if (then["kind"], then["step"]) != (now["kind"], now["step"]):
            return f"the record of step {then['step']}, which is of step {now['step']}"
    if len(straight) != len(resumed):
        return f"the number of records: {len(straight)} and {len(resumed)}"
    return None
