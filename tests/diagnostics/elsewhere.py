"""Programs that were not written for the doctor: the examples and the conformance table."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

import perigee as pg
from tests.backends.problems import BATCH, PROBLEMS

EXAMPLES = Path(__file__).parents[2] / "examples"
SEED = 5

OF_TENSORFLOW = {"assertions_and_summaries", "raw_tape"}
"""Loops that call TensorFlow themselves."""

SICK = {"conditional updates"}
"""Problems whose data holds NaN on purpose."""

OPT_OUTS: Mapping[str, tuple[str, ...]] = {}
"""Codes that are ignored, by program: what the table of probes names as meant there."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A program as its author calls `fit`.

    Attributes:
        step: The Step.
        data: What it is trained on.
        arguments: Further arguments of `check`.
    """

    step: Any
    data: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def findings(self, ignore: tuple[str, ...] = ()) -> list[pg.Finding]:
        """Return what `check` says of it."""
        return list(pg.check(self.step, self.data, ignore=ignore, **self.arguments))


class _Captured(Exception):
    def __init__(self, program: Elsewhere) -> None:
        super().__init__()
        self.program = program


def names() -> list[str]:
    """Return the names of all of them that run on the framework."""
    gallery = [p.stem for p in (EXAMPLES / "gallery").glob("*.py") if p.stem != "figures"]
    loops = {path.stem for path in (EXAMPLES / "tutorial_loops").glob("*.py")}
    if keras.backend.backend() != "tensorflow":
        loops -= OF_TENSORFLOW
    return sorted(
        [
            "example digits",
            *(f"gallery {name}" for name in gallery),
            *(f"loop {name}" for name in loops),
            *(f"problem {name}" for name in PROBLEMS if name not in SICK),
        ]
    )


def program(name: str) -> Elsewhere:
    """Return the program of a name, as new."""
    keras.utils.set_random_seed(SEED)
    kind, _, own = name.partition(" ")
    if kind == "problem":
        problem = PROBLEMS[own]
        size = problem.fit.get("batch_size", BATCH)
        is_drawn = not isinstance(problem.data, tuple | dict)
        arguments = {} if is_drawn else {"batch_size": size}
        return Elsewhere(problem.make_step(), problem.data, arguments)
    if kind == "loop":
        module = importlib.import_module(f"examples.tutorial_loops.{own}")
        directory = [Path(tempfile.mkdtemp())] if own == "assertions_and_summaries" else []
        return Elsewhere(module.make_step(*directory), module.make_data())
    folder = EXAMPLES / "gallery" if kind == "gallery" else EXAMPLES
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return _captured(importlib.import_module(own))


def _captured(module: Any) -> Elsewhere:
    """Run a script up to the training that it is about, and return what it trains."""
    original, prepare = pg.fit, pg.prepare

    class Prepared:
        """Calls of an inner loop, up to the first step."""

        def __init__(self, step: Any, **arguments: Any) -> None:
            self._step, self._inner = step, prepare(step, progress="off", **arguments)

        def __enter__(self) -> Any:
            self._trainer = self._inner.__enter__()
            return self

        def __exit__(self, *raised: Any) -> Any:
            return self._inner.__exit__(*raised)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._trainer, name)

        def train_step(self, batch: Any) -> Any:
            raise _Captured(Elsewhere(self._step, [batch]))

    def fit(step: Any, data: Any, **arguments: Any) -> Any:
        if "run" not in arguments:  # what comes before it, as the training of a teacher
            return original(step, data, **{**arguments, "epochs": 1, "progress": "off"})
        known = {k: arguments[k] for k in ("validation", "batch_size") if k in arguments}
        raise _Captured(Elsewhere(step, data, known))

    arguments = sys.argv
    pg.fit, pg.prepare, sys.argv = fit, Prepared, [module.__name__]  # those are of the tests
    try:
        module.main()
    except _Captured as captured:
        return captured.program
    finally:
        pg.fit, pg.prepare, sys.argv = original, prepare, arguments
    raise AssertionError(f"{module.__name__} does not train with `run=`")


def programs() -> Iterator[tuple[str, Elsewhere]]:
    """Yield all of them."""
    for name in names():
        yield name, program(name)
