"""Mutations of the source, drawn by seed, and whether the tests that run their lines catch them.

    python -m tests.mutations --seed 17 --count 60 record FOLDER   # which tests run which lines
    python -m tests.mutations --seed 17 --count 60 run FOLDER

`record` runs the quick tests once on a copy of the source in which each mutated place notes the
test that reaches it, also in processes that tests start. `run` then changes one place at a time, in
a copy, and runs the tests that reached it, the quickest first, until one fails. A mutation that no
test catches changes nothing, or wants a test.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "perigee"
LEFT_OUT = ("_cli/project/", "_backends/jax/", "_backends/torch/", "_version.py", "_typing.py")
"""What no test of TensorFlow's can run."""
MOST_TESTS = 40
"""Tests per mutation outside the folder of its room, of those that reach its line."""
TIMEOUT_SECS = 600

OTHER: dict[type[ast.AST], str] = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.Is: "is not",
    ast.IsNot: "is",
    ast.In: "not in",
    ast.NotIn: "in",
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.And: "or",
    ast.Or: "and",
}

NOTE = '__import__("perigee_hits").note({})'
HITS = """
import os
_noted = set()
def note(number):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if test and (test, number) not in _noted:
        _noted.add((test, number))
        with open(os.environ["PERIGEE_HITS"], "a") as file:
            file.write(f"{number} {test}\\n")
"""


@dataclass(frozen=True)
class Mutation:
    """A place in the source, and what stands there instead."""

    path: str
    line: int
    statement: tuple[int, int]
    """First line of the innermost statement around it, and its column."""
    start: int
    end: int
    """Offsets in the bytes of the file."""
    text: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text!r} -> {self.instead!r}"


def mutations(path: Path) -> Iterator[Mutation]:
    """Return what can be changed in a file."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    name = path.relative_to(PACKAGE).as_posix()
    tree = ast.parse(source)

    def place(node: ast.AST) -> tuple[int, int]:
        first = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        last = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return first, last

    def between(
        left: ast.AST, right: ast.AST, operator: ast.AST, statement: ast.stmt
    ) -> Mutation | None:
        start, end = place(left)[1], place(right)[0]
        text = source[start:end].decode()
        if "(" in text or ")" in text or "\n" in text:
            return None
        other = OTHER[type(operator)]
        at = (statement.lineno, statement.col_offset)
        return Mutation(name, left.lineno, at, start, end, text, f" {other} ")  # type: ignore[attr-defined]

    def of(node: ast.AST, statement: ast.stmt) -> Iterator[Mutation | None]:
        at = (statement.lineno, statement.col_offset)

        def replaced(by: str, whole: ast.AST = node) -> Mutation:
            start, end = place(whole)
            text = source[start:end].decode()
            return Mutation(name, whole.lineno, at, start, end, text, by)  # type: ignore[attr-defined]

        match node:
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                yield between(left, right, operator, statement)
            case ast.BoolOp(op=operator, values=[left, right]):
                yield between(left, right, operator, statement)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OTHER:
                if not any(
                    isinstance(side, ast.Constant | ast.JoinedStr)
                    for side in (left, right)
                    if isinstance(getattr(side, "value", None), str)
                ):
                    yield between(left, right, operator, statement)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                start, end = place(operand)
                yield replaced(f"({source[start:end].decode()})")
            case ast.Constant(value=bool() as value):
                yield replaced(str(not value))
            case ast.Constant(value=int() as value):
                yield replaced(str(value + 1))
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield replaced("None", value)
            case ast.Expr(value=ast.Call()):
                yield replaced("pass")
            case _:
                pass

    def walk(node: ast.AST, statement: ast.stmt | None, is_in_function: bool) -> Iterator[Mutation]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "type_comment", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if not isinstance(child, ast.AST):
                    continue
                inner = child if isinstance(child, ast.stmt) else statement
                is_function = isinstance(child, ast.FunctionDef | ast.Lambda)
                if inner is not None and is_in_function:
                    yield from (found for found in of(child, inner) if found is not None)
                yield from walk(child, inner, is_in_function or is_function)

    yield from walk(tree, None, False)


def drawn(seed: int, count: int) -> list[Mutation]:
    """Return mutations drawn by a seed."""
    files = sorted(path for path in PACKAGE.rglob("*.py"))
    everything = [
        found
        for path in files
        if not path.relative_to(PACKAGE).as_posix().startswith(LEFT_OUT)
        for found in mutations(path)
    ]
    return random.Random(seed).sample(everything, count)


def copy_of(folder: Path) -> Path:
    """Copy the source."""
    target = folder / "src"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "src", target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def environment(source: Path, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": f"{source}{os.pathsep}{folder}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PERIGEE_HITS": str(folder / "hits.txt"),
    }


def record(chosen: Sequence[Mutation], folder: Path, arguments: Sequence[str]) -> None:
    """Run the tests where each place notes which of them reach it."""
    folder.mkdir(parents=True, exist_ok=True)
    source = copy_of(folder)
    (folder / "perigee_hits.py").write_text(HITS)
    by_file: dict[str, list[tuple[int, Mutation]]] = {}
    for number, mutation in enumerate(chosen):
        by_file.setdefault(mutation.path, []).append((number, mutation))
    for path, found in by_file.items():
        lines = (source / "perigee" / path).read_text().split("\n")
        for number, mutation in sorted(found, key=lambda pair: pair[1].statement, reverse=True):
            line, column = mutation.statement
            if lines[line - 1].lstrip().startswith(("elif ", "case ")):
                continue  # no statement can stand before it: all tests of the file's are run
            lines.insert(line - 1, " " * column + NOTE.format(number))
        (source / "perigee" / path).write_text("\n".join(lines))
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", *arguments]
    command += [f"--junitxml={folder / 'times.xml'}"]
    subprocess.run(command, cwd=ROOT, env=environment(source, folder), check=False)


def reached(folder: Path) -> dict[int, list[str]]:
    """Return the tests that reach each place, the quickest first."""
    import xml.etree.ElementTree as Tree

    seconds: dict[str, float] = {}
    for case in Tree.parse(folder / "times.xml").iter("testcase"):
        file = (case.get("classname") or "").replace(".", "/") + ".py"
        seconds[f"{file}::{case.get('name')}"] = float(case.get("time") or 0)
    tests: dict[int, list[str]] = {}
    for line in (folder / "hits.txt").read_text().splitlines():
        number, _, test = line.partition(" ")
        tests.setdefault(int(number), []).append(test)
    return {
        number: sorted(set(found), key=lambda test: seconds.get(test, 5.0))
        for number, found in tests.items()
    }


def run(chosen: Sequence[Mutation], folder: Path, numbers: Sequence[int]) -> None:
    """Try each mutation, and say which tests caught it."""
    tests = reached(folder)
    for number, mutation in enumerate(chosen):
        if numbers and number not in numbers:
            continue
        found = tests.get(number, [])
        if not found:
            outcome = "not reached"
        else:
            source = copy_of(folder / f"run{os.getpid()}")
            path = source / "perigee" / mutation.path
            text = path.read_bytes()
            changed = text[: mutation.start] + mutation.instead.encode() + text[mutation.end :]
            path.write_bytes(changed)
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
            room = mutation.path.partition("/")[0].strip("_")
            near = [test for test in found if test.startswith(f"tests/{room}/")]
            some = [*spread([test for test in found if test not in near]), *near]
            try:
                ended = subprocess.run(
                    [*command, *some],
                    cwd=ROOT,
                    env=environment(source, folder),
                    capture_output=True,
                    text=True,
                    timeout=TIMEOUT_SECS,
                    check=False,
                )
                failed = [x for x in ended.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
                outcome = "SURVIVED" if ended.returncode == 0 else f"caught: {failed[:1]}"
            except subprocess.TimeoutExpired:
                outcome = "caught: it does not end"
        line = {"number": number, "mutation": str(mutation), "tests": len(found), "is": outcome}
        print(json.dumps(line), flush=True)


def spread(tests: Sequence[str]) -> list[str]:
    """Return the quickest tests, and some of each file."""
    if len(tests) <= MOST_TESTS:
        return list(tests)
    chosen = list(tests[: MOST_TESTS // 2])
    files = {test.partition("::")[0]: test for test in reversed(tests)}
    return [*chosen, *[t for t in files.values() if t not in chosen]][:MOST_TESTS]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("what", choices=("list", "record", "run"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("more", nargs="*", help="arguments of pytest, or numbers of mutations")
    given, more = parser.parse_known_args()
    chosen = drawn(given.seed, given.count)
    if given.what == "list":
        for number, mutation in enumerate(chosen):
            print(number, mutation)
    elif given.what == "record":
        record(chosen, given.folder, [*given.more, *more])
    else:
        run(chosen, given.folder, [int(number) for number in given.more])
    return 0


if __name__ == "__main__":
    sys.exit(main())
