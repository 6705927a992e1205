"""A training of Perigee, timed where it goes evenly."""

from __future__ import annotations

from typing import Any

import perigee as pg


class _Watch(pg.Hook):
    may_lag = True

    def __init__(self) -> None:
        self.epochs_ended_at: list[float] = []

    def on_record(self, event: Any) -> None:
        if event.scope == "epoch":
            self.epochs_ended_at.append(event.seconds)


def steady_seconds(step: pg.Step, data: Any, **arguments: Any) -> float:
    """Return the seconds from the end of the first epoch to that of the last.

    Args:
        step: The Step.
        data: What it trains on.
        **arguments: Of `fit`.
    """
    watch = _Watch()
    pg.fit(step, data, callbacks=[watch], **arguments)
    return watch.epochs_ended_at[-1] - watch.epochs_ended_at[0]
