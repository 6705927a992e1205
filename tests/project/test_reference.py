"""Every public name has an entry in the reference, and its docstring says all that it must."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PAGES = sorted(ROOT.glob("docs/reference/*.md"))

USED = (
    "perigee",
    "perigee.checkpoints",
    "perigee.data",
    "perigee.report",
    "perigee.steps",
    "perigee.testing",
    "perigee.tools",
    "perigee.writers",
)
"""What users write against. What rules are made of is for those who write rules."""

RETURNED = {
    "perigee._events.clock.Clock",
    "perigee._events.events.Ended",
    "perigee._events.events.Found",
    "perigee._events.events.Recorded",
    "perigee._events.events.Started",
    "perigee._events.events.StepsDone",
    "perigee._step.gradients.Gradients",
    "perigee._api.prepare.Prepared",
    "perigee.writers.history.Best",
}
"""What nobody makes, and public functions return or hand over."""

Definition = ast.FunctionDef | ast.ClassDef


def file_of(module):
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def body_of(module):
    return ast.parse(file_of(module).read_text(encoding="utf-8"))


def rooms():
    """The package and all below it whose path has no underscore."""
    below = sorted((SOURCE / "perigee").glob("[!_]*/__init__.py"))
    return ["perigee", *(f"perigee.{path.parent.name}" for path in below)]


@functools.cache
def public_names(module):
    """What a module re-exports (`X as X`) or defines, by the module that defines it."""
    names = {}
    for node in ast.walk(body_of(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("perigee"):
            names |= {a.name: node.module for a in node.names if a.asname == a.name}
    for node in body_of(module).body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            names[node.name] = module
    return {name: home for name, home in sorted(names.items()) if not name.startswith("__")}


@functools.cache
def definition(module, name):
    """The node that defines a name, through re-exports; `None` for a constant."""
    body = body_of(module)
    for node in body.body:
        if isinstance(node, Definition) and node.name == name:
            return node
    for node in ast.walk(body):
        if isinstance(node, ast.ImportFrom) and name in [a.asname or a.name for a in node.names]:
            return definition(node.module, name)
    return None


def section(text, title):
    """The names that a section of a docstring explains; `None` where there is no such section."""
    found = re.search(rf"^{title}:\n((?: {{4}}.*\n|\n)*)", text + "\n", re.MULTILINE)
    return found and re.findall(r"^ {4}\*{0,2}([\w.]+):", found[1], re.MULTILINE)


def arguments_of(function):
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [a.arg for a in named if a is not None and a.arg not in ("self", "cls")]


def decorators_of(function):
    return {ast.unparse(decorator) for decorator in function.decorator_list}


def gaps_of_function(function, text):
    """What the docstring of a function does not say, though the function has it."""
    gaps = []
    explained = section(text, "Args") or []
    arguments = [a for a in arguments_of(function) if a != "event"]  # its type explains it
    gaps += [f"argument {name}" for name in arguments if name not in explained]
    gaps += [f"no argument {name}" for name in explained if name not in arguments]
    returns = function.returns is not None and ast.unparse(function.returns) != "None"
    is_said = re.match(r"(Return|Tell|Yield)s? |Whether ", text) or re.search(
        r"^(Returns|Yields):$", text, re.MULTILINE
    )
    if returns and not is_said:
        gaps.append("what it returns")
    raised = {
        ast.unparse(node.exc.func)
        for node in ast.walk(function)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    }
    caught = {
        name
        for node in ast.walk(function)
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        for name in re.findall(r"\w+", ast.unparse(node.type))
    }
    raised = {name for name in raised - caught if name[0].isupper()}  # or a function that makes it
    gaps += [f"raises {name}" for name in sorted(raised - set(section(text, "Raises") or []))]
    return gaps


def fields_of(node):
    """The public fields of a dataclass."""
    if not any("dataclass" in decorator for decorator in decorators_of(node)):
        return []
    names = [part.target.id for part in node.body if isinstance(part, ast.AnnAssign)]
    return [name for name in names if not name.startswith("_")]


def methods_of(node):
    return {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}


def gaps(node, inherited=()):
    """What is missing in the docstrings of a public class or function, by name."""
    text = ast.get_docstring(node) or ""
    found = {} if text else {node.name: ["docstring"]}
    if isinstance(node, ast.FunctionDef):
        return found | {node.name: gaps_of_function(node, text)}
    methods = methods_of(node)
    explained = [*(section(text, "Args") or []), *(section(text, "Attributes") or [])]
    made = [*(arguments_of(methods["__init__"]) if "__init__" in methods else fields_of(node))]
    found[f"{node.name}()"] = [f"argument {name}" for name in made if name not in explained]
    for name, method in methods.items():
        if name.startswith("_") or name in inherited:
            continue
        said = ast.get_docstring(method) or ""
        if decorators_of(method) & {"property", "cached_property"}:
            found[f"{node.name}.{name}"] = [] if said else ["docstring"]
        else:
            found[f"{node.name}.{name}"] = gaps_of_function(method, said)
    return found


def entries():
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    return re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)


def test_every_public_name_has_one_entry_in_the_reference():
    # A name of `perigee` has its entry there, also where a room has it too.
    face = public_names("perigee")
    wanted = {f"perigee.{name}" for name in face} | RETURNED
    for room in rooms()[1:]:
        wanted |= {f"{room}.{name}" for name in public_names(room) if name not in face}

    assert sorted(entries()) == sorted(wanted)


@pytest.mark.parametrize("module", USED)
def test_docstrings_say_what_is_taken_returned_and_raised(module):
    hook = methods_of(definition("perigee", "Hook"))
    step = methods_of(definition("perigee", "Step"))
    missing = {}
    for name, home in public_names(module).items():
        node = definition(home, name)
        if node is not None:
            bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
            inherited = {**(hook if "Hook" in bases else {}), **(step if "Step" in bases else {})}
            missing |= {label: found for label, found in gaps(node, inherited).items() if found}

    assert missing == {}


def test_gaps_are_seen():
    whole = '''
def area(width: float, height: float) -> float:
    """Return the area of a rectangle.

    Args:
        width: In meters.
        height: In meters.

    Raises:
        ValueError: If a side is negative.
    """
    if width < 0:
        raise ValueError("negative")
    return width * height
'''
    losses = {
        "        height: In meters.\n": ["argument height"],
        "Return the area": ["what it returns"],
        "        ValueError: If a side is negative.\n": ["raises ValueError"],
        "height: float": ["no argument height"],
    }

    def seen(text):
        return gaps(ast.parse(text).body[0])["area"]

    assert seen(whole) == []
    assert {lost: seen(whole.replace(lost, "", 1)) for lost in losses} == losses
