"""The frames of a traceback that are user code, and those that explain nothing to users."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType, TracebackType

FULL_TRACEBACK = "PERIGEE_FULL_TRACEBACK"
"""The environment variable that keeps all frames."""

_INTERNAL = frozenset(
    {
        *("perigee", "keras", "tensorflow", "jax", "jaxlib", "torch", "numpy", "optree"),
        *("contextlib", "functools", "threading", "concurrent"),
        *("IPython", "ipykernel"),
    }
)
"""Packages between the lines of a user."""

_FROM_JAX = "JAX_TRACEBACK_FILTERING"
"""Occurs in the note that JAX adds to an error whose frames it has removed itself."""


_are_whole: ContextVar[bool] = ContextVar("perigee_are_whole", default=False)


@contextmanager
def whole_tracebacks() -> Generator[None]:
    """Keep all frames of errors that are raised within."""
    token = _are_whole.set(True)
    try:
        yield
    finally:
        _are_whole.reset(token)


def are_whole() -> bool:
    """Return whether tracebacks keep all frames."""
    return _are_whole.get() or os.environ.get(FULL_TRACEBACK, "") not in ("", "0")


def cut(error: BaseException) -> None:
    """Remove the frames of Perigee and of frameworks from an error, and from what caused it.

    What user code raised on the way keeps its traceback. An error that only a framework has raised
    and handled is no longer shown.
    """
    if are_whole():
        return
    error.__traceback__ = _linked(error.__traceback__)
    notes = getattr(error, "__notes__", [])
    notes[:] = [note for note in notes if _FROM_JAX not in note]
    cause, context = error.__cause__, error.__context__
    if cause is None and context is not None and not _is_raised_by_user(context):
        error.__suppress_context__ = True
    if cause is not None and not _is_raised_by_user(cause):
        cut(cause)


def lines_of(traceback: TracebackType | None) -> list[str]:
    """Return one line for each frame of user code, the outermost first."""
    import linecache  # needed only for notebooks

    lines: list[str] = []
    for entry in filter(_is_users, _entries(traceback)):
        code = entry.tb_frame.f_code
        text = linecache.getline(code.co_filename, entry.tb_lineno, entry.tb_frame.f_globals)
        is_cell = "ipykernel" in code.co_filename or code.co_filename.startswith("<")
        where = "" if is_cell else f"{code.co_filename}, "
        lines.append(f"{where}line {entry.tb_lineno}, in {code.co_name}: {text.strip()}")
    return lines


def packages_of(traceback: TracebackType | None) -> set[str]:
    """Return the names of the packages whose code was running."""
    return {_package(entry.tb_frame) for entry in _entries(traceback)}


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the entries of a traceback, the outermost first."""
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def is_internal(frame: FrameType) -> bool:
    """Return whether a frame is code of Perigee, of a framework, or between them."""
    return _package(frame) in _INTERNAL


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_users(entry: TracebackType) -> bool:
    return not is_internal(entry.tb_frame)


def _is_raised_by_user(error: BaseException) -> bool:
    """Return whether the innermost frame of an error is user code."""
    entries = list(_entries(error.__traceback__))
    return bool(entries) and _is_users(entries[-1])


def _linked(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback of its entries of user code."""
    linked = None
    for entry in reversed(list(filter(_is_users, _entries(traceback)))):
        linked = TracebackType(linked, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return linked
