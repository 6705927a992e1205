"""The methods of a Step compiled for batches of any structure, for a loop of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perigee import diagnostics
from perigee._errors import StateMismatchError
from perigee._execution import Execution, Nonfinite, Plan, Program
from perigee._loop.findings import Findings
from perigee._loop.programs import Programs
from perigee._runs.opening import OpenRun
from perigee._step.frame import Method
from perigee._step.state import INTERNALS, track
from perigee._step.step import Step
from perigee._typing import Batch
from perigee.checkpoints import random_state, set_random_state

_MANY_CHANGES = 5

Key = tuple[Method, str]
"""A method, and the structure of a batch."""


class Methods:
    """Returns the program of a method for a batch, recompiled where the Step has changed.

    A change that shows in the attributes of the Step is noticed at once, any other after `forget`.
    In a resumed run, what a program builds gets the state that was saved.

    Args:
        step: The Step.
        execution: How its methods run.
        plan: The same, decided.
        nonfinite: What happens when a returned value or the state is not finite.
        watches: What hooks want to know of the updates.
        findings: Where to report what is found.
        run: The run that keeps the training, or `None`.
    """

    def __init__(
        self,
        step: Step,
        execution: Execution,
        plan: Plan,
        nonfinite: Nonfinite,
        watches: frozenset[str],
        findings: Findings,
        run: OpenRun | None,
    ) -> None:
        self._step, self._findings, self._run = step, findings, run
        self._programs: dict[Method, Programs] = {
            "train_step": Programs(
                step,
                "train_step",
                execution,
                findings=findings,
                nonfinite=nonfinite,
                watches=watches,
                plan=plan,
                is_kept=run is not None,
                is_alone=False,
            ),
            "test_step": Programs(step, "test_step", execution, findings=findings, plan=plan),
            "predict_step": Programs(step, "predict_step", execution, plan=plan),
        }
        self._known: dict[Key, Program] = {}
        self._made: dict[Key, tuple[Program, Mapping[str, Any]]] = {}
        self._glance: list[Any] = []
        self._changes = 0
        loop = {} if run is None or run.loop_state is None else run.loop_state
        self._to_rebuild: set[Key] = {(method, batch) for method, batch in loop.get("built", ())}
        self._built: dict[Key, None] = dict.fromkeys(self._to_rebuild)

    def program(self, method: Method, batch: Batch, described: str) -> Program:
        """Return the program for batches like this one, whose structure is described."""
        glance = _glance(self._step)
        if glance != self._glance:
            self._known.clear()
            self._glance = glance
        key = method, described
        if key not in self._known:
            self._known[key] = self._make(key, batch)
            self._glance = _glance(self._step)
        return self._known[key]

    def forget(self) -> None:
        """Notice any change of the Step at the next call, as `fit` does at each epoch."""
        self._known.clear()

    def look_at_updates(self) -> None:
        """Report what nothing updates, once there were batches of each structure."""
        trained = [made for (method, _), (made, _) in self._made.items() if method == "train_step"]
        is_all = not any(method == "train_step" for method, _ in self._to_rebuild)  # of the run
        if trained and is_all:
            self._programs["train_step"].look_at_updates(trained)

    def look_back(self) -> None:
        """Report what is known only at the end."""
        self.look_at_updates()
        self._programs["train_step"].look_back()

    def built(self) -> list[list[str]]:
        """Return what has been built, for a checkpoint."""
        return [list(key) for key in self._built]

    def _make(self, key: Key, batch: Batch) -> Program:
        method, _ = key
        is_rebuilt = key in self._to_rebuild
        # What is made draws seeds for its variables; a resumed run has drawn them before.
        before = random_state() if is_rebuilt else None
        program = self._programs[method](batch)
        self._look_at_changes(key, program)
        if self._run is not None:
            self._run.check_objects()
        if self._run is not None and self._run.loaded is not None:
            self._run.load_what_is_built(is_new=not is_rebuilt)
            self._to_rebuild.discard(key)
            if not self._to_rebuild and self._run.unloaded():
                raise StateMismatchError((), tuple(self._run.unloaded()), {})
        if before is not None:
            set_random_state(before)
        if method == "train_step":
            program.begin()
        self._built[key] = None
        return program

    def _look_at_changes(self, key: Key, program: Program) -> None:
        """Report a Step that changes so often that most of the time goes into compiling."""
        plain = dict(track(self._step).plain)
        before = self._made.get(key)
        self._made[key] = program, plain
        if before is None or before[0] is program:
            return
        self._changes += 1
        if self._changes == _MANY_CHANGES:
            names = {*plain, *before[1]}
            changed: Sequence[str] = sorted(
                n for n in names if plain.get(n, n) != before[1].get(n, n)
            )
            self._findings.report(diagnostics.findings_of("changed", self._changes, changed))


def _glance(step: Step) -> list[Any]:
    """Return what can be seen at once of a change of a Step: other values of its attributes."""
    plain = int | float | str | bytes | bool | None
    return [
        (name, value if isinstance(value, plain) else id(value))
        for name, value in step._held().items()
        if name != INTERNALS
    ]
