"""Times taken in turn, and what may be said of their ratios."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


def in_turn(runs: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, list[float]]:
    """Return the seconds that each run took in each round, from call to return.

    Within a round each runs once, so that a slow moment of the machine meets them all; the order
    moves on by one place each round, so that none always comes first.
    """
    return measured_in_turn({key: partial(_seconds, run) for key, run in runs.items()}, rounds)


def measured_in_turn(
    runs: Mapping[Key, Callable[[], float]], rounds: int
) -> dict[Key, list[float]]:
    """Return what each run returned in each round, in the same order of things."""
    keys = list(runs)
    found: dict[Key, list[float]] = {key: [] for key in keys}
    for turn in range(rounds):
        first = turn % len(keys)
        for key in keys[first:] + keys[:first]:
            found[key].append(runs[key]())
    return found


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> np.ndarray:
    """Return our time over theirs, round by round."""
    return np.asarray(ours) / np.asarray(theirs)


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval for the median that assumes nothing about the distribution.

    Its ends are order statistics: the number of values below the median is binomial with
    probability 1/2, whatever the distribution. Of 15 values they are the 4th and the 12th. Fewer
    than 6 values cannot give 95%: then it is the smallest and the largest.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    count = len(ordered)
    tail = (1 - confidence) / 2
    below = 0.0
    rank = 0  # how many values may be left out at each end
    for rank in range(count // 2 + 1):
        below += math.comb(count, rank) / 2**count
        if below > tail:
            break
    left_out = max(rank - 1, 0)
    return float(ordered[left_out]), float(ordered[count - 1 - left_out])
