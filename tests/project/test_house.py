"""Rules of the house that neither the linter nor the import contracts can express."""

import ast
import functools
from pathlib import Path

import pytest

import perigee as pg

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "perigee").rglob("*.py"))
SCRIPTS = sorted(
    path for room in ("examples", "benchmarks") for path in (ROOT / room).rglob("*.py")
)
SHAPELESS_NAMES = {"utils", "common", "helpers", "core", "base", "misc"}


@functools.cache
def nodes_of(source: str) -> list[ast.AST]:
    """The nodes of a module, which several rules look at."""
    return list(ast.walk(ast.parse(source)))


def private_keras_uses(source: str) -> list[int]:
    """Lines that import, or reach into, `keras.src`."""
    lines: list[int] = []
    for node in nodes_of(source):
        match node:
            case ast.Import(names=names):
                reached = [alias.name for alias in names]
            case ast.ImportFrom(module=str(module), names=names, level=0):
                reached = [module, *(f"{module}.{alias.name}" for alias in names)]
            case ast.Attribute(value=ast.Name(id="keras"), attr=attr):
                reached = [f"keras.{attr}"]
            case _:
                continue
        if any(name == "keras.src" or name.startswith("keras.src.") for name in reached):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "import keras.src",
        "import keras.src.ops as ops",
        "from keras import src",
        "from keras.src.trainers import trainer",
        "import keras\nkeras.src.ops",
    ],
)
def test_the_check_for_private_keras_sees_each_way_in(source):
    assert private_keras_uses(source) != []


def test_the_check_for_private_keras_lets_public_names_pass():
    assert private_keras_uses("import keras\nfrom keras import ops\nkeras.ops.sources") == []


def test_nothing_uses_private_keras():
    uses = {
        str(path.relative_to(ROOT)): lines
        for path in [*SOURCES, *SCRIPTS]
        if (lines := private_keras_uses(path.read_text(encoding="utf-8")))
    }
    assert uses == {}


OF_REAL_TIME = {
    "_cli/launching.py",
    "_events/preemption.py",
    "_events/signals.py",
    "_execution/timing.py",
}
"""Who may ask how late it is: the timer itself, and what waits for a scheduler or a process."""


def test_what_is_measured_is_measured_by_the_one_timer():
    clocks = {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time"}
    askers = {
        path.relative_to(ROOT / "src" / "perigee").as_posix()
        for path in SOURCES
        for node in nodes_of(path.read_text(encoding="utf-8"))
        if (isinstance(node, ast.Attribute) and node.attr in clocks)
        or (isinstance(node, ast.alias) and node.name in clocks)
    }
    assert askers == OF_REAL_TIME


def keras_loss_uses(source: str) -> list[int]:
    """Lines that name a class of Keras's losses or metrics, or ask for the class of one."""
    lines: list[int] = []
    for node in nodes_of(source):
        match node:
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="keras"), attr="losses" | "metrics"),
                attr=name,
            ):
                is_use = name[0].isupper() and name not in {"Loss", "Metric", "Mean", "Sum"}
            case ast.ImportFrom(module="keras.losses" | "keras.metrics"):
                is_use = True
            case ast.Call(
                func=ast.Name(id="type"), args=[ast.Attribute(attr="by" | "loss" | "metric")]
            ):
                is_use = True
            case _:
                continue
        if is_use:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(loss, keras.losses.MeanSquaredError)",
        "KINDS = (keras.metrics.AUC,)",
        "from keras.losses import Huber",
        "type(seen.by).__name__ == 'Huber'",
    ],
)
def test_the_check_for_classes_of_losses_sees_each_way(source):
    assert keras_loss_uses(source) != []


def test_what_a_loss_or_metric_computes_is_asked_in_one_module_alone():
    """A loss by name is of another class than the same loss as an object."""
    package = ROOT / "src" / "perigee"
    uses = {
        str(path.relative_to(package)): lines
        for path in SOURCES
        if path != package / "_step" / "losses.py"
        and package / "_cli" / "project" not in path.parents
        if (lines := keras_loss_uses(path.read_text(encoding="utf-8")))
    }
    assert uses == {}


def test_every_module_is_named_for_what_it_holds():
    shapeless = [path for path in SOURCES if path.stem.strip("_") in SHAPELESS_NAMES]
    assert shapeless == []


def test_the_public_face_stays_small():
    assert len([name for name in pg.__all__ if not name.startswith("_")]) <= 25
