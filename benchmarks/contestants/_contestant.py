"""One way of training a workload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of training a workload.

    Attributes:
        key: Its name in the results.
        name: Its name in tables.
        train: Trains so many epochs, with all that a user calls for it, and returns what the last
            of them logged: metrics are reset at the start of each epoch and read at its end.
        note: What a reader should know.
        plan: Returns how it chose to run, once it has trained; empty where there is no choice.
    """

    key: str
    name: str
    train: Callable[[int], Mapping[str, float]]
    note: str = ""
    plan: Callable[[], str] = str


def steps_an_epoch(rows: int, batch_size: int) -> int:
    """Return the number of batches, a ragged last one included."""
    return -(-rows // batch_size)
