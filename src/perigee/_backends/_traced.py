"""For frameworks with tapes or transformations: they record on their own, and have no modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from perigee._listening import Hear
from perigee._typing import Tree


def recorded(function: Callable[..., Tree], *arguments: Any) -> Tree:
    """See `Backend.recorded`."""
    return function(*arguments)


def unfrozen(variables: Sequence[Any]) -> list[Any]:
    """See `Backend.unfrozen`: only Keras freezes them."""
    return list(variables)


def modules(held: Iterable[Any]) -> list[Any]:
    """See `Backend.modules`: there are none."""
    del held
    return []


def in_inference(hear: Hear, modules: Sequence[Any]) -> AbstractContextManager[None]:
    """See `Backend.in_inference`."""
    del hear, modules
    return nullcontext()


def steps(
    look: Callable[[Any, Sequence[tuple[Any, Any]]], None],
) -> AbstractContextManager[None]:
    """See `Backend.steps`: there are none."""
    del look
    return nullcontext()
