"""Stopping early enough to save before the machine is preempted."""

import time
from collections.abc import Callable

from perigee._errors import ArgumentError, door
from perigee._events.events import Hook, Recorded, StepsDone


class Preemption(Hook):
    """Stop a training, with the reason `"deadline"`, while there is still time to save.

    >>> hook = Preemption(limit_secs=4 * 3600, margin_secs=300)
    >>> from pathlib import Path
    >>> hook = Preemption(when=Path("/tmp/preempted").exists)

    Args:
        limit_secs: The time limit of the process, as set by a scheduler, greater than
            `margin_secs`, or `None`. It counts from here: create this hook first.
        margin_secs: How long before that to stop. A block of steps (about half a second), a
            validation and the save must fit into it.
        when: Returns whether the machine will be preempted soon, or `None`.
        poll_secs: The least time between two calls of `when`.
        now: Seconds from any origin.

    Raises:
        ArgumentError: If there is neither a limit nor `when`, or the margin exceeds the limit.
    """

    @door
    def __init__(
        self,
        limit_secs: float | None = None,
        *,
        margin_secs: float = 60.0,
        when: Callable[[], bool] | None = None,
        poll_secs: float = 5.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if limit_secs is None and when is None:
            raise ArgumentError(
                "limit_secs", "None", "a limit or `when`.", "pass `limit_secs` or `when`."
            )
        if limit_secs is not None and not limit_secs > margin_secs:
            raise ArgumentError(
                "limit_secs",
                f"{limit_secs:g}",
                f"more than `margin_secs`, which is {margin_secs:g}.",
                "pass a smaller `margin_secs`.",
            )
        self._when, self._poll_secs, self._now = when, poll_secs, now
        self._end = None if limit_secs is None else now() + limit_secs - margin_secs
        self._poll_at = now()

    def on_steps(self, event: StepsDone) -> None:
        """Stop if it is time."""
        self._stop_in_time(event)

    def on_record(self, event: Recorded) -> None:
        """Stop if it is time: a validation may have taken long."""
        self._stop_in_time(event)

    def _stop_in_time(self, event: StepsDone | Recorded) -> None:
        now = self._now()
        is_near = self._end is not None and now >= self._end
        if not is_near and self._when is not None and now >= self._poll_at:
            is_near = self._when()
            self._poll_at = now + self._poll_secs
        if is_near:
            event.stop("deadline")
