"""Keras's own tests of its trainer and its callbacks, with the models trained by Perigee.

    KERAS_BACKEND=jax python -m tests.parity.keras_suite PATH [-k EXPRESSION]

PATH is a checkout of Keras at the installed version, or the installed package itself. The tests run
twice: as they are, and with `fit`, `evaluate` and `predict` of every model handed to Perigee. What
is printed is how many of those that pass with Keras pass with Perigee, and why the others do not.
The exit status is 0 if all of these are in `DIFFERENCES`, which docs/keras_step.md explains.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import pytest

ROOT = Path(__file__).parents[2]
FILES = ("trainers/trainer_test.py", "callbacks/*_test.py")
SECONDS_A_TEST = 60

_OTHER = "jax" if keras.backend.backend() == "tensorflow" else "tf"

DIFFERENCES: dict[str, str] = {
    f"sparse_{_OTHER}_": "Sparse arrays of JAX and TensorFlow are converted into each other's.",
    "with_raggeds": "`predict` returns ragged outputs as a `RaggedTensor`.",
    "backup_and_restore_test|terminate_preserves_backup": "`BackupAndRestore` forgets the batch, "
    "the seeds and the order of the data.",
    "for_jax_model_weights": "On JAX, the variables of a model are empty while batches run.",
    "swap_ema_weights_with_tf_distribute": "With several replicas, a `train_step` that opens its "
    "own gradient tape is run on each.",
}
"""Tests that pass with Keras alone, by a pattern of their names: what `model.fit` does there, as
docs/keras_step.md says it."""

_WAY, _RESULTS = "KERAS_SUITE_WAY", "KERAS_SUITE_RESULTS"


# With Perigee.


def hand_over() -> None:
    """Have Perigee do what `fit`, `evaluate` and `predict` of every model are to do.

    What Keras's tests train is often a layer that inherits, as `keras.Model` does, from the class
    with `fit`. The tests get another such class, whose instances pass for a `keras.Model`.
    """
    trainer: Any = next(cls for cls in keras.Model.__mro__ if "fit" in vars(cls))
    trainer.fit, trainer.evaluate, trainer.predict = _fit, _evaluate, _predict
    body = {"__class__": property(lambda self: keras.Model), "__module__": trainer.__module__}
    setattr(sys.modules[trainer.__module__], trainer.__name__, type("Trainer", (trainer,), body))


def _fit(model: Any, *args: Any, **kwargs: Any) -> Any:
    import perigee as pg

    return pg.keras_fit(model, *args, **kwargs)


def _evaluate(
    model: Any,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    verbose: Any = "auto",
    sample_weight: Any = None,
    steps: int | None = None,
    callbacks: Any = None,
    return_dict: bool = False,
) -> Any:
    import perigee as pg

    logs = pg.evaluate(
        pg.KerasStep(model),
        _data(x, y, sample_weight),
        steps=steps,
        batch_size=batch_size,
        **({} if callbacks is None else {"callbacks": callbacks}),
    )
    if return_dict:
        return logs
    names = [name for name in model.get_metrics_result() if name in logs]
    values = [logs[name] for name in dict.fromkeys([*names, *sorted(logs)])]
    return values[0] if len(values) == 1 else values


def _predict(
    model: Any,
    x: Any,
    batch_size: int | None = None,
    verbose: Any = "auto",
    steps: int | None = None,
    callbacks: Any = None,
) -> Any:
    import perigee as pg

    return pg.predict(
        pg.KerasStep(model),
        _data(x),
        steps=steps,
        batch_size=batch_size,
        **({} if callbacks is None else {"callbacks": callbacks}),
    )


def _data(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Return arrays as one data set, as Perigee takes them; anything else as it is."""
    leaves = keras.tree.flatten(x)
    if isinstance(x, keras.utils.PyDataset) or not all(hasattr(leaf, "dtype") for leaf in leaves):
        return x
    parts = [part for part in (x, y, sample_weight) if part is not None]
    return tuple(parts)


# What pytest calls, in the process that runs Keras's tests.


def pytest_configure(config: pytest.Config) -> None:
    if _WAY not in os.environ:
        return
    for mark in ("requires_trainable_backend", "multi_device"):
        config.addinivalue_line("markers", f"{mark}: Keras's")
    # Of Keras's `conftest`, which an installed package lacks.
    stand_in: Any = ModuleType("conftest")
    stand_in.skip_if_backend = _skip_if_backend
    sys.modules["conftest"] = stand_in
    if os.environ[_WAY] == "perigee":
        hand_over()


def _skip_if_backend(backend: str, reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(keras.backend.backend() == backend, reason=reason)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what an earlier process has begun, which a test that hung had to end."""
    if _WAY in os.environ:
        begun = {name for name, _, _ in _rows(Path(os.environ[_RESULTS]))}
        items[:] = [item for item in items if _name(item.path, item.nodeid) not in begun]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    if _WAY not in os.environ:
        return (yield)
    _write(_name(item.path, item.nodeid), "hung", "It ended the process, or never ended.")
    faulthandler.dump_traceback_later(SECONDS_A_TEST, exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _WAY not in os.environ or (report.when != "call" and report.outcome == "passed"):
        return
    why = ""
    if report.outcome == "failed":
        lines = report.longreprtext.splitlines()
        errors = [line[1:].strip() for line in lines if line.startswith("E  ")]
        why = errors[0] if errors else lines[-1]
    _write(_name(Path(report.location[0]), report.nodeid), report.outcome, why)


def _name(path: Path, nodeid: str) -> str:
    return f"{path.name}::{nodeid.partition('::')[2]}"


def _write(*row: str) -> None:
    with open(os.environ[_RESULTS], "a") as file:
        file.write(json.dumps(row) + "\n")


def _rows(results: Path) -> list[tuple[str, str, str]]:
    """Return names, outcomes and first lines of errors; a later one of a test replaces others."""
    return [json.loads(line) for line in results.read_text().splitlines()]


# The comparison.


def found_tests(path: Path) -> list[Path]:
    """Return the files with tests, of a checkout or of an installed package.

    Raises:
        SystemExit: If there are none, or they are of another version than the installed one.
    """
    for source in (path / "keras/src", path / "src", path):
        if (source / FILES[0]).exists():
            version = re.search(r'__version__ = "(.+)"', (source / "version.py").read_text())
            if version is None or version[1] != keras.__version__:
                sys.exit(f"{path} is not Keras {keras.__version__}, which is installed.")
            return sorted(file for files in FILES for file in source.glob(files))
    sys.exit(f"{path} holds no {FILES[0]}.")


def run(files: Sequence[Path], way: str, arguments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Run the tests one way, and return the outcome of each and the first line of its error."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        results.touch()
        command = [sys.executable, "-m", "pytest", "-p", __spec__.name, "-p", "no:cacheprovider"]
        command += ["-c", os.devnull, f"--rootdir={folder}", "--import-mode=importlib"]
        command += ["--noconftest", "-q", "--no-header", *map(str, files), *arguments]
        environment = {**os.environ, _WAY: way, _RESULTS: str(results)}
        while True:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            outcomes = {name: (outcome, why) for name, outcome, why in _rows(results)}
            if not outcomes or _rows(results)[-1][1] != "hung":
                break
    if done.returncode not in (0, 1, 5):
        sys.stderr.write(done.stdout.decode())
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Run Keras's own tests with Perigee.")
    parser.add_argument("path", type=Path)
    parser.add_argument("-k", help="as in pytest: which tests", default="")
    parser.add_argument("--files", help="a pattern of the files", default="*")
    given = parser.parse_args()
    files = [file for file in found_tests(given.path.resolve()) if file.match(given.files)]
    arguments = ["-k", given.k] if given.k else []
    plain = run(files, "keras", arguments)
    passed = [name for name, (outcome, _) in plain.items() if outcome == "passed"]
    ours = run(files, "perigee", arguments)
    return report(passed, ours)


def report(passed: Sequence[str], ours: dict[str, tuple[str, str]]) -> int:
    """Print the comparison, and return the exit status."""
    by_file: dict[str, list[str]] = {}
    for name in passed:
        by_file.setdefault(name.partition("::")[0], []).append(name)
    undocumented = 0
    for file, names in by_file.items():
        lost = {n: ours.get(n, ("missing", "")) for n in names}
        lost = {n: each for n, each in lost.items() if each[0] != "passed"}
        print(f"{file}: {len(names) - len(lost)} of {len(names)} that pass with Keras")
        for name, (outcome, why) in lost.items():
            reasons = [why for pattern, why in DIFFERENCES.items() if re.search(pattern, name)]
            undocumented += not reasons
            told = f"documented: {reasons[0]}" if reasons else f"{outcome}: {why}"
            print(f"  {name.partition('::')[2]}\n      {told}")
    print(f"{keras.backend.backend()}: {undocumented} failures that are not documented")
    return int(undocumented > 0)


if __name__ == "__main__":
    sys.exit(main())
