"""No module of the package has a way to execute what was stored."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "perigee"

CALLS = {"eval", "exec", "compile", "__import__"}
MODULES = {
    *("marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "runpy", "imp"),
    *("h5py", "tarfile", "zipfile"),
}
ATTRIBUTES = {
    "pickle": {"load", "loads", "Unpickler"},
    "_pickle": {"load", "loads", "Unpickler"},
    "yaml": {"load", "load_all", "full_load", "unsafe_load", "unsafe_load_all"},
    "torch": {"load"},
}
KEYWORDS = {"allow_pickle": True, "safe_mode": False, "weights_only": False}


def ways_to_execute(source: str) -> list[str]:
    """Return what in a module could execute what it reads.

    Writing with `pickle.Pickler` is allowed: a data set is digested so, to know it again.
    """
    return [found for node in ast.walk(ast.parse(source)) for found in _in(node)]


def _in(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names if name.name.partition(".")[0] in MODULES] + [
                f"{name.name} as {name.asname}"  # a name under which its attributes are not seen
                for name in names
                if name.name in ATTRIBUTES and name.asname
            ]
        case ast.ImportFrom(module=str(module), names=names, level=0):
            if module.partition(".")[0] in MODULES:
                return [module]
            refused = ATTRIBUTES.get(module, set()) | ({"*"} if module in ATTRIBUTES else set())
            return [f"{module}.{name.name}" for name in names if name.name in refused]
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            return [name]
        case ast.Attribute(value=ast.Name(id=module), attr=name) if name in ATTRIBUTES.get(
            module, set()
        ):
            return [f"{module}.{name}"]
        case ast.keyword(arg=str(name), value=ast.Constant(value=value)) if (
            name in KEYWORDS and value is KEYWORDS[name]
        ):
            return [f"{name}={value}"]
        case _:
            return []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle\nload = pickle.load",
        "import pickle\npickle.Unpickler(file).load()",
        "from pickle import loads",
        "from pickle import *",
        "import pickle as p",
        "from pickle import Unpickler as U",
        "import marshal",
        "from marshal import loads",
        "import dill",
        "import cloudpickle.compat",
        "eval('1')",
        "exec('1')",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "import yaml\nyaml.load(text, Loader=yaml.UnsafeLoader)",
        "from yaml import unsafe_load",
        "np.load(path, allow_pickle=True)",
        "keras.models.load_model(path, safe_mode=False)",
        "torch.load(path)",
        "import zipfile",
    ],
)
def test_the_check_sees_each_way(source):
    assert ways_to_execute(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.Pickler(hasher).dump(data)",
        "import yaml\nyaml.safe_load(text)",
        "import re\nre.compile('x')",
        "backend.compile(step)",
        "np.load(path, allow_pickle=False)",
        "model.eval()",
    ],
)
def test_the_check_lets_the_rest_pass(source):
    assert ways_to_execute(source) == []


RUN_USERS_FILES = {"_cli/experiments.py", "_cli/files.py", "_cli/loops.py"}
"""They run the script that a user names on the command line, and read nothing of a run."""


def test_nothing_in_the_package_executes_what_was_stored():
    found = {
        name: ways
        for path in sorted(PACKAGE.rglob("*.py"))
        if (name := str(path.relative_to(PACKAGE))) not in RUN_USERS_FILES
        and (ways := ways_to_execute(path.read_text(encoding="utf-8")))
    }

    assert found == {}


def test_pickles_are_written_in_one_place_only():
    users = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if "pickle"
        in {name for node in ast.walk(ast.parse(path.read_text())) for name in _names(node)}
    ]

    assert users == ["data/pydataset.py"]


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name for name in names]
        case ast.ImportFrom(module=str(module)):
            return [module]
        case _:
            return []
