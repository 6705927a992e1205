"""A clock that runs only while something is rehearsed, measured or compiled."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from perigee._execution.timing import now


class _Spent(threading.local):
    seconds = 0.0
    is_running = False


_spent = _Spent()


def compile_seconds() -> float:
    """Return the total seconds that this thread has spent preparing steps to run.

    Take the difference of two readings, as with `now`.
    """
    return _spent.seconds


@contextmanager
def compiling() -> Generator[None]:
    """Count the time inside as spent preparing a step; nested ones count once."""
    if _spent.is_running:
        yield
        return
    _spent.is_running = True
    began = now()
    try:
        yield
    finally:
        _spent.is_running = False
        count_as_compiling(now() - began)


def count_as_compiling(seconds: float) -> None:
    """Count `seconds` that have passed as spent preparing a step."""
    if not _spent.is_running:
        _spent.seconds += seconds
