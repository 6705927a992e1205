"""How long things take on this machine, by one clock that can be replaced as a whole.

Whatever depends on the speed of the machine (the plan, the length of blocks, what measuring may
cost, when it is time to save) reads `now`, and nothing else. So a test chooses how fast the machine
is, also below `fit`, where a clock could not be handed from part to part: programs outlive the
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
    """Return seconds from any origin, by the timer that is in effect."""
    return _timer.get()()


@contextmanager
def timed_by(timer: Timer) -> Generator[None]:
    """Let another timer tell the time within, in this thread."""
    token = _timer.set(timer)
    try:
        yield
    finally:
        _timer.reset(token)
