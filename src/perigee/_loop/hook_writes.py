"""Which hooks set variables of the Step when they are called for several steps at once."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import keras

from perigee import diagnostics
from perigee._events.events import Hook, StepsDone
from perigee._listening import Talk, listening
from perigee._loop.findings import Findings
from perigee._step.state import track
from perigee._step.step import Step


class HookWrites:
    """Looks at hooks without a cadence while they are called for several steps.

    Args:
        step: The Step that is trained.
        findings: Where to report what they set.
    """

    def __init__(self, step: Step, findings: Findings) -> None:
        self._step, self._findings = step, findings
        self._reported: set[int] = set()

    @contextmanager
    def during(self, hook: Hook, event: StepsDone) -> Generator[None]:
        """Report variables that a hook sets within."""
        is_own = type(hook).on_steps is not Hook.on_steps and hook.every is None
        if not is_own or event.count == 1 or id(hook) in self._reported:
            yield
            return
        written: list[Any] = []

        def hear(original: Any, variable: Any, value: Any) -> Talk:
            written.append(variable)
            yield

        with listening(keras.Variable, "assign", hear):
            yield
        tracked = track(self._step) if written else None
        held = () if tracked is None else {id(v) for v in tracked.variables}
        names = [] if tracked is None else tracked.names_of([v for v in written if id(v) in held])
        if names:
            self._reported.add(id(hook))
            about = type(hook).__name__, event.count, list(dict.fromkeys(names))
            self._findings.report(diagnostics.findings_of("hook set", *about))
