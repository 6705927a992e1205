"""The frames of a script that runs, and what its source says of them."""

from __future__ import annotations

import ast
import dis
import inspect
import itertools
import linecache
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


_COMMANDS = "perigee._cli"
_STARTED = ("perigee._api", "perigee._loop", "perigee.testing", "perigee.tools")
"""Rooms whose functions take steps of their own, and undo them where nothing is to be trained."""


def as_script(call: Callable[[], Any]) -> Any:
    """Call what runs the script; what is around this call is not the script's."""
    return call()


def stack() -> list[types.FrameType]:
    """Return the script's frames, the outermost first, without those that stand in for Keras.

    A strategy calls the function of a replica in a thread, for which the script's thread waits.
    """
    threads = [inspect.currentframe()]
    if not any(_is_boundary(frame) for frame in _outwards(threads[0])):
        threads.append(sys._current_frames()[threading.main_thread().ident or 0])  # pyright: ignore
    frames = itertools.chain(
        *(itertools.takewhile(lambda f: not _is_boundary(f), _outwards(f)) for f in threads)
    )
    return [frame for frame in frames if not module_of(frame).startswith(_COMMANDS)][::-1]


def _is_boundary(frame: types.FrameType) -> bool:
    return frame.f_code is as_script.__code__


def _outwards(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def module_of(frame: types.FrameType) -> str:
    """Return the name of the module whose code a frame runs."""
    return str(frame.f_globals.get("__name__", ""))


def is_of_perigee() -> bool:
    """Return whether Perigee itself takes the step that the caller is part of."""
    return any(module_of(frame).startswith(_STARTED) for frame in stack())


def node_of(frame: types.FrameType) -> ast.AST:
    """Return the node that a frame executes."""
    return _chain(frame)[-1]


def loops_of(frame: types.FrameType) -> list[int]:
    """Return the lines of the loops, in its own function, around what a frame executes."""
    lines: list[int] = []
    for outer, inner in itertools.pairwise(_chain(frame)):
        is_inside = isinstance(outer, _LOOPS) and inner in outer.body
        if is_inside or isinstance(outer, _COMPREHENSIONS):
            lines.append(outer.lineno)
    return lines


def changed(code: types.CodeType) -> dict[str, int]:
    """Return the parameters that their function gives another value, and the lines."""
    parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    lines: dict[str, int] = {}
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        line = instruction.starts_line or line
        is_change = instruction.opname.startswith(("STORE_FAST", "STORE_DEREF", "DELETE_"))
        if is_change and instruction.argval in parameters:
            lines.setdefault(instruction.argval, int(line))
    return lines


def definition(code: types.CodeType) -> int:
    """Return the line that defines a function, which its decorators precede."""
    for node in ast.walk(_tree(code.co_filename)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = [node.lineno, *(decorator.lineno for decorator in node.decorator_list)]
        if node.name == code.co_name and min(lines) == code.co_firstlineno:
            return node.lineno
    return code.co_firstlineno


def is_step_in(source: ast.Module, name: str) -> bool:
    """Return whether a file defines a function of this name that needs arguments.

    A function of the same name without required arguments on the top level comes first.
    """
    top = [n for n in source.body if isinstance(n, ast.FunctionDef) and n.name == name]
    if top:
        return _needs(top[-1])
    defined = [n for n in ast.walk(source) if isinstance(n, ast.FunctionDef) and n.name == name]
    names = [n for n in ast.walk(source) if isinstance(n, ast.Name) and n.id == name]
    is_bound = any(isinstance(n.ctx, ast.Store) for n in names)
    return any(_needs(node) for node in defined) and not is_bound


def _needs(node: ast.FunctionDef) -> bool:
    given = [*node.args.posonlyargs, *node.args.args]
    required = given[: len(given) - len(node.args.defaults)]
    return bool([a for a in required if a.arg not in ("self", "cls")]) or None in (
        node.args.kw_defaults
    )


def _chain(frame: types.FrameType) -> list[Any]:
    """Return the nodes around what a frame executes, within its function, the outermost first."""
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    line, last_line, column, last_column = positions
    if line is None or last_line is None or column is None or last_column is None:
        return [ast.Module([], [])]
    start, end = (line, column), (last_line, last_column)
    chain: list[Any] = [_tree(frame.f_code.co_filename)]
    while True:
        inner = next((n for n in _placed(chain[-1]) if _holds(n, start, end)), None)
        if inner is None:
            return chain
        if isinstance(inner, _SCOPES):
            chain.clear()
        chain.append(inner)


def _placed(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the children of a node that have a place in the source."""
    for child in ast.iter_child_nodes(node):
        if hasattr(child, "lineno"):
            yield child
        else:
            yield from _placed(child)


def _holds(node: Any, start: tuple[int, int], end: tuple[int, int]) -> bool:
    first = (node.lineno, node.col_offset)
    return first <= start and end <= (node.end_lineno, node.end_col_offset)


def _tree(path: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])
