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
    "_events/deadlines.py",
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
    assert len([name for name in pg.__all__ if not name.startswith("_")]) <= 26


PACKAGE = ROOT / "src" / "perigee"


def of_a_class(body: ast.ClassDef) -> set[str]:
    """The fields of a class: annotated, or assigned to `self`."""
    annotated = {
        node.target.id
        for node in body.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    plain = {
        target.id
        for node in body.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    own = {a.attr for a in assigned(body) if isinstance(a.value, ast.Name) and a.value.id == "self"}
    return annotated | plain | own


def assigned(tree: ast.AST) -> list[ast.Attribute]:
    """The attributes that are assigned somewhere in it."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    ]


def classes(path: Path) -> list[ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


OF_KERAS = {"trainable", "training", "stop_training", "path", "fit", "mode"}
"""Attributes of Keras's objects, torch's and `sys`, that objects of ours happen to have too."""
OF_USERS = {"ignore_findings", "class_weight"}
"""Public attributes of a Step, which users assign as well."""


def foreign_assignments(sources: dict[str, str]) -> list[str]:
    """Places that assign an attribute of an object of another room, by the source of each file.

    By the name of the attribute: rooms are told by the first part of a path.
    """
    trees = {path: ast.parse(source) for path, source in sources.items()}
    owners: dict[str, set[str]] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            for name in of_a_class(node) if isinstance(node, ast.ClassDef) else ():
                owners.setdefault(name, set()).add(path.split("/")[0])
    return [
        f"{path}:{node.lineno} {ast.unparse(node)}"
        for path, tree in trees.items()
        for node in assigned(tree)
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
        and node.attr not in OF_KERAS | OF_USERS
        and node.attr in owners
        and path.split("/")[0] not in owners[node.attr]
    ]


def test_the_check_for_foreign_assignments_sees_them():
    sources = {
        "a/made.py": "class Made:\n    def __init__(self):\n        self.part = None",
        "a/own.py": "made.part = 1",
        "b/other.py": "made.part = 1\nthing.more = 2",
    }
    assert foreign_assignments(sources) == ["b/other.py:1 made.part"]


def test_no_room_completes_an_object_of_another_by_assignment():
    sources = {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in PACKAGE.rglob("*.py")
    }
    assert foreign_assignments(sources) == []


def test_the_root_holds_few_modules():
    assert len([*PACKAGE.glob("*.py")]) <= 6


def test_fit_reads_in_one_screen():
    tree = ast.parse((PACKAGE / "_api" / "fit.py").read_text(encoding="utf-8"))
    fit = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "fit")
    docstring = fit.body[0]
    lines = fit.end_lineno - fit.lineno - (docstring.end_lineno - docstring.lineno)
    assert lines <= 60


def test_no_class_of_the_loop_or_the_doors_has_many_fields():
    files = [*(PACKAGE / "_loop").glob("*.py"), *(PACKAGE / "_api").glob("*.py")]
    fields = {body.name: of_a_class(body) for path in files for body in classes(path)}
    assert {name: len(found) for name, found in fields.items() if len(found) > 12} == {}
