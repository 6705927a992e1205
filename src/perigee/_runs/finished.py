"""What is said of a run that is finished when it is started again."""

from __future__ import annotations

from collections.abc import Sequence

from perigee._events.clock import Clock
from perigee._events.events import BY_CALLBACK

_PAST_STOP = (
    'pass `resume="past_stop"`: `pg.Run(..., resume="past_stop")`, or `--resume past_stop`.'
)


def said_of_finished(
    path: str, clock: Clock, reason: str, ended: str | None, stopping: Sequence[str]
) -> str:
    """Return when and why a training ended, that nothing is trained, and how to train further.

    Args:
        path: The directory of the run.
        clock: Where it ended.
        reason: Why, as in `History.stop_reason`.
        ended: When, or `None`.
        stopping: The classes of the callbacks that may have stopped it.
    """
    when = ""
    if ended is not None:
        when = " on " + ended.replace("T", " at ", 1).replace("+00:00", " UTC")
    where = f"after {_count(clock.step, 'step')} ({_count(clock.epoch, 'epoch')})"
    why, further = _why(reason, stopping)
    return (
        f"{path} holds a training that is finished: it ended{when} {where}, {why}. Nothing was "
        f"trained now. To train further, {further}"
    )


def _why(reason: str, stopping: Sequence[str]) -> tuple[str, str]:
    """Return why a training ended, and what to do to train further."""
    if reason in ("epochs", "steps"):
        return (
            f"when all `{reason}` were trained",
            f"pass more `{reason}`; they count from the beginning of the run.",
        )
    if reason == BY_CALLBACK:
        named = f"the callback {' or '.join(stopping)}" if stopping else "a callback"
        return f"because {named} requested it", _PAST_STOP
    if reason == "non-finite":
        return (
            "because a value was NaN or infinite",
            "mend the cause and train in another directory: what was saved comes after that value.",
        )
    if reason in ("data", "validation data"):
        return (
            f"because the {reason}, which can be drawn only once, had ended",
            f"pass {reason} that can be drawn again, and {_PAST_STOP}",
        )
    return f"for the reason {reason!r}, which a hook gave", _PAST_STOP


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
