"""The one clock for measuring time, which can be replaced.

Everything that depends on the speed of the machine (the plan, the size of blocks, the budget for
measuring, when to save) reads `now`, and nothing else. So a test can choose how fast the machine
is, even below `fit`, where a clock could not be passed as an argument: programs outlive the
training that made them.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

Timer = Callable[[], float]
"""Returns seconds from any origin; they never decrease."""

_timer: ContextVar[Timer] = ContextVar("_timer", default=time.perf_counter)


def now() -> float:
    """Return seconds from any origin, by the current timer."""
    return _timer.get()()


@contextmanager
def timed_by(timer: Timer) -> Generator[None]:
    """Use another timer within the context, in this thread."""
    token = _timer.set(timer)
    try:
        yield
    finally:
        _timer.reset(token)
