"""Seconds of a training, and where they went."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from perigee._execution import Blocks, compile_seconds
from perigee._execution.timing import now

Part = Literal["data", "device", "validation", "saving"]


class Stopwatch:
    """Measures from the moment at which it is made: when `fit` or `prepare` was called."""

    def __init__(self) -> None:
        self._began, self._compiled_before = now(), compile_seconds()
        self._parts: dict[str, float] = dict.fromkeys(
            ("data", "device", "validation", "saving"), 0.0
        )

    def seconds(self) -> float:
        """Return the seconds since the call."""
        return now() - self._began

    @contextmanager
    def spending(self, part: Part) -> Generator[None]:
        """Add the time within to a part, without what is spent on compiling."""
        began, compiled = now(), compile_seconds()
        try:
            yield
        finally:
            seconds = now() - began - (compile_seconds() - compiled)
            self._parts[part] += max(0.0, seconds)

    def spent(self, blocks: Blocks, seconds: float) -> dict[str, float]:
        """Return where the first `seconds` went; see `Ended.spent`.

        Args:
            blocks: Which measure their own data and device time.
            seconds: Since the call.
        """
        spent = {**self._parts, "compiling": compile_seconds() - self._compiled_before}
        spent["data"] += blocks.data_seconds
        spent["device"] += blocks.device_seconds
        spent["host"] = max(0.0, seconds - sum(spent.values()))
        return spent
