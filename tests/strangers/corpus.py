"""What programs of strangers are made with, and how they are run. See README.md."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import keras
import numpy as np

import perigee as pg

BACKEND = keras.backend.backend()
SEED = 3
TOLERANCE = 1e-5
"""Relative to the largest element, or to 0.1 if all are smaller."""


@dataclass(frozen=True)
class Case:
    """A program, and what is to come of it."""

    name: str
    run: Callable[[Any], Mapping[str, Any] | None]
    reference: Callable[[Any], Mapping[str, Any] | None]
    only: Sequence[str]
    finds: Sequence[str]
    raises: Sequence[str]
    within: float | None
    is_shuffled: bool
    differs: Sequence[str]


CASES: dict[str, Case] = {}


def by_fit(program: Any = None, **marks: Any) -> Any:
    """Register a program of Keras; its function is given what trains, measures and predicts."""

    def register(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        _register(function, function, function, **marks)
        return function

    return register if program is None else register(program)


def by_loop(plain: Callable[[], Mapping[str, Any]], **marks: Any) -> Any:
    """Register a Step with the plain loop that says what it comes to."""

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        _register(function, lambda _: function(), lambda _: plain(), **marks)
        return function

    return register


def by_hand(program: Any = None, **marks: Any) -> Any:
    """Register a hand-written step: the plain loop calls it, and `pg.fit` is given it as it is.

    The program returns the function, its batches (a tuple is passed as the arguments, a dict by
    name), the number of epochs, and a function that returns what to compare.
    """

    def register(function: Callable[[], Any]) -> Callable[[], Any]:
        def plain(_: Any) -> Any:
            step, batches, epochs, read = function()
            for _ in range(epochs):
                for batch in batches:
                    if isinstance(batch, tuple):
                        step(*batch)
                    elif isinstance(batch, dict):
                        step(**batch)
                    else:
                        step(batch)
            return read()

        def ours(_: Any) -> Any:
            step, batches, epochs, read = function()
            pg.fit(step, batches, epochs=epochs, progress="off")
            return read()

        _register(function, ours, plain, **marks)
        return function

    return register if program is None else register(program)


def _register(
    named: Callable[..., Any],
    run: Callable[[Any], Any],
    reference: Callable[[Any], Any],
    *,
    only: str | Sequence[str] = ("tensorflow", "jax", "torch"),
    finds: Sequence[str] = (),
    raises: Sequence[str] = (),
    within: float = TOLERANCE,
    is_shuffled: bool = False,
    differs: Sequence[str] | Mapping[str, Sequence[str]] = (),
    draws: str | Sequence[str] = (),
) -> None:
    name = f"{named.__module__.rpartition('.')[2]}/{named.__name__}"
    assert name not in CASES, f"{name} exists already"
    backends = (only,) if isinstance(only, str) else only
    apart = differs.get(BACKEND, ()) if isinstance(differs, Mapping) else differs
    drawn = is_shuffled or BACKEND in draws
    CASES[name] = Case(
        name, run, reference, backends, finds, raises, None if drawn else within, is_shuffled, apart
    )


def cases() -> list[Case]:
    """Return the programs of all modules beside this one that this framework runs."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not path.stem.startswith(("test_", "corpus", "datasets")):
            importlib.import_module(f"tests.strangers.{path.stem}")
    return [case for case in CASES.values() if BACKEND in case.only]


# What a program is given.


@dataclass
class Run:
    """What a program did."""

    is_shuffled: bool = False
    returned: dict[str, Any] = field(default_factory=dict)
    models: list[keras.Model] = field(default_factory=list)

    def _keep(self, kind: str, model: keras.Model, value: Any) -> None:
        self.returned[f"{kind} {len(self.returned)}"] = value
        if all(model is not known for known in self.models):
            self.models.append(model)

    def numbers(self) -> dict[str, Any]:
        """Return all that is compared, by name."""
        weights = {
            f"weight {number}.{index}, {variable.name}": keras.ops.convert_to_numpy(variable)
            for number, model in enumerate(self.models)
            for index, variable in enumerate(model.weights)
        }
        return {**self.returned, **weights}


class ByKeras(Run):
    """Keras's own methods; a validation leaves the seeds of training as they were."""

    def fit(self, model: keras.Model, *args: Any, **given: Any) -> Any:
        """Train by `model.fit`."""
        given.setdefault("verbose", 0)
        if not self.is_shuffled:
            given.setdefault("shuffle", False)
        callbacks = given.pop("callbacks", None)
        callbacks = [*keras.tree.flatten(callbacks or []), _SeedsOfTraining()]
        history = model.fit(*args, callbacks=callbacks, **given)
        self._keep("fit", model, history.history)
        return history

    def evaluate(self, model: keras.Model, *args: Any, **given: Any) -> Any:
        """Measure by `model.evaluate`, which returns a dict here."""
        given = {"verbose": 0, **given, "return_dict": True}
        value = model.evaluate(*args, **given)
        self._keep("evaluate", model, _by_element(value))
        return value

    def predict(self, model: keras.Model, *args: Any, **given: Any) -> Any:
        """Predict by `model.predict`."""
        value = model.predict(*args, **{"verbose": 0, **given})
        self._keep("predict", model, value)
        return value


class ByPerigee(Run):
    """The same by Perigee."""

    def fit(self, model: keras.Model, *args: Any, **given: Any) -> Any:
        """Train by `keras_fit`."""
        given.setdefault("verbose", 0)
        if not self.is_shuffled:
            given.setdefault("shuffle", False)
        history = pg.keras_fit(model, *args, **given)
        self._keep("fit", model, history.history)
        return history

    def evaluate(self, model: keras.Model, x: Any = None, y: Any = None, **given: Any) -> Any:
        """Measure by `evaluate`."""
        weights = given.pop("sample_weight", None)
        data = x if y is None else (x, y) if weights is None else (x, y, weights)
        value = pg.evaluate(pg.KerasStep(model), data, **_for_a_pass(given))
        self._keep("evaluate", model, value)
        return value

    def predict(self, model: keras.Model, x: Any, **given: Any) -> Any:
        """Predict by `predict`."""
        value = pg.predict(pg.KerasStep(model), x, **_for_a_pass(given))
        self._keep("predict", model, value)
        return value


def _by_element(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return logs with one number under each name, as `evaluate` returns scores for classes."""
    flat: dict[str, Any] = {}
    for name, value in logs.items():
        if getattr(value, "shape", ()):
            flat |= {f"{name}/{index}": each for index, each in enumerate(np.asarray(value))}
        else:
            flat[name] = value
    return flat


def _for_a_pass(given: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in given.items() if k not in ("verbose", "return_dict")}


class _SeedsOfTraining(keras.callbacks.Callback):
    """Has a validation leave the seeds of training, as Perigee does."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[tuple[Any, Any]] = []

    def on_test_begin(self, logs: Any = None) -> None:
        self._kept = [
            (variable, keras.ops.convert_to_numpy(variable))
            for variable in self.model.non_trainable_variables
            if variable.path.endswith("seed_generator_state")
        ]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        for variable, value in self._kept:
            variable.assign(value)


# Comparing.


def compared(case: Case) -> Iterator[str]:
    """Run a program both ways, and yield what is different."""
    theirs, ours = ByKeras(case.is_shuffled), ByPerigee(case.is_shuffled)
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = dict(case.reference(theirs) or {})
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = dict(case.run(ours) or {})
    codes = {str(w.message) for w in seen if isinstance(w.message, pg.PerigeeWarning)}
    for message in codes:
        if not any(f"[{code}]" in message for code in case.finds):
            yield f"a finding: {message}"
    for code in case.finds:
        if not any(f"[{code}]" in message for message in codes):
            yield f"{code} was not found"
    yield from differences(
        {**found, **ours.numbers()},
        {**expected, **theirs.numbers()},
        case.within,
        case.differs,
    )


def differences(
    ours: Any,
    theirs: Any,
    within: float | None,
    differs: Sequence[str] = (),
    where: str = "",
) -> Iterator[str]:
    """Yield where two nests of numbers part.

    Only names are compared where `within` is `None`, or where a name matches one of `differs`.
    """
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping) or set(ours) != set(theirs):
            names = list(ours) if isinstance(ours, Mapping) else type(ours).__name__
            yield f"{where}: {names} for {list(theirs)}"
            return
        for name, value in theirs.items():
            is_other = any(fnmatch(str(name), pattern) for pattern in differs)
            width = None if is_other else within
            yield from differences(ours[name], value, width, differs, f"{where} {name}".strip())
    elif isinstance(theirs, list | tuple):
        if not isinstance(ours, list | tuple | np.ndarray) or len(ours) != len(theirs):
            yield f"{where}: {ours!r} for {theirs!r}"
            return
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(a, b, within, differs, f"{where}[{index}]")
    elif within is not None:
        a, b = (np.asarray(keras.ops.convert_to_numpy(v)) for v in (ours, theirs))
        if a.shape != b.shape:
            yield f"{where}: shape {a.shape} for {b.shape}"
        elif b.dtype.kind in "biufc" and b.size:
            parts = np.abs(a.astype("float64") - b.astype("float64"))
            scale = max(float(np.nanmax(np.abs(b.astype("float64")))), 0.1)
            if (np.isnan(a.astype("float64")) != np.isnan(b.astype("float64"))).any() or np.nanmax(
                parts, initial=0
            ) > within * scale:
                shown = f"{a} for {b}" if b.size < 8 else f"apart by {np.nanmax(parts):.2g}"
                yield f"{where}: {shown}"
        elif (a != b).any():
            yield f"{where}: {a!r} for {b!r}"
