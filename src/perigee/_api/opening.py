"""What `fit` and `prepare` open before a Step is trained, and close in the end."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from perigee import diagnostics
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Hooks
from perigee._events.protocols import Begun, Feed, Source
from perigee._events.signals import Signals
from perigee._execution import Blocks, Execution, Plan, Program
from perigee._loop.findings import Findings, levels_to_caller
from perigee._loop.hook_writes import HookWrites
from perigee._loop.programs import Programs
from perigee._loop.training import Training
from perigee._processes.workers import Workers
from perigee._runs.changes import record_of
from perigee._runs.comparing import Start, compared, remember, restated, said_by
from perigee._runs.finished import said_of_finished
from perigee._runs.keeping import KeptRun, open_writers
from perigee._runs.opening import Draws, OpenRun
from perigee._runs.run import Run
from perigee._step.step import Step
from perigee.data import LARGE_STATE_BYTES, SMALLER_STATE
from perigee.writers.history import History
from perigee.writers.terminal import Progress, terminal


@dataclass(frozen=True, slots=True)
class Opened:
    """A Step that is about to be trained, with what holds the process meanwhile.

    Attributes:
        step: The Step.
        execution: How it is to run.
        workers: The processes that train it.
        seed: The seed for the order of the data; `None` if it has none.
        findings: Where to report what is suspected.
        signals: Wait for a step boundary once `hold_signals` is called.
        run: The run that keeps the training, or `None`.
        stack: What closes in the end.
    """

    step: Step
    execution: Execution
    workers: Workers
    seed: int | None
    findings: Findings
    signals: Signals
    run: OpenRun | None
    stack: contextlib.ExitStack

    def blocks(self, feed: Feed) -> Blocks:
        """Return what runs many steps on the data in one call."""
        most = self.workers.most_steps(self.execution.most_steps)
        return Blocks(feed, most, is_fixed=self.workers.are_several)

    def keep(
        self,
        feed: Source,
        draws: Draws,
        plan: Plan | None,
        start: Start,
        validation: Begun | None = None,
    ) -> KeptRun:
        """Return what saves and logs the training into its run, which there must be."""
        assert self.run is not None
        writers = open_writers(self.run, plan, start, self.findings.found)
        return KeptRun(self.run, writers, feed, validation, draws, plan, start, self._report_size)

    def compared(
        self,
        callbacks: Sequence[Any],
        arguments: Mapping[str, Any],
        feeds: Mapping[str, tuple[Feed, Any]],
        configuration: Mapping[str, Any],
        *,
        is_built: bool = True,
    ) -> Start | None:
        """Compare this start of the run, if there is one, with the one before.

        Args:
            callbacks: Keras callbacks and hooks.
            arguments: Those that decide what is trained and measured, by name.
            feeds: By the name of the argument, the feed and what the user passed.
            configuration: What the file of the run shows of it.
            is_built: Whether all variables of the Step are there.

        Raises:
            PerigeeError: If it differs, and that is not accepted or not possible.
        """
        if self.run is None:
            return None
        said = said_by(self.run, callbacks)
        record = record_of(said, arguments, feeds)
        start = compared(self.run, record, configuration, is_built=is_built)
        self.findings.report(diagnostics.findings_of("resumed", start.named))
        self.stack.callback(remember, self.run, callbacks, said)
        return start

    def _report_size(self, kind: str, size_bytes: int) -> None:
        self.findings.report(
            diagnostics.findings_of("saved", kind, size_bytes, LARGE_STATE_BYTES, SMALLER_STATE)
        )

    def hooks(self, hooks: Sequence[Hook]) -> Hooks:
        """Return hooks as one, which are looked at."""
        for hook in hooks:
            self.findings.report(diagnostics.findings_of("hook", hook))
        return Hooks(list(hooks), HookWrites(self.step, self.findings).during)

    def outputs(self, kept: KeptRun | None, progress: Progress) -> list[Hook]:
        """Return what writes and shows the training; the chief process alone shows it."""
        shown = terminal(progress) if self.workers.is_chief else None
        return [*([] if kept is None else kept.hooks), *([] if shown is None else [shown])]

    @property
    def resumed_at(self) -> Clock | None:
        """Where training stood in the checkpoint that was loaded; `None` where it begins."""
        resumed_at = None if self.run is None else self.run.resumed_at
        return None if resumed_at is None else resumed_at[0]

    def finished(self, epochs: int | None, steps: int | None) -> str | None:
        """Return why the run that was loaded has nothing left to train; `None` where it has."""
        return None if self.run is None else self.run.finished(epochs, steps)

    def history(self, plan: Plan | None, stop_reason: str | None = None) -> History:
        """Return the history of a training that begins, resumes, or has ended before."""
        find_best = (lambda: None) if self.run is None else self.run.best
        failures = None if self.run is None else self.run.failures.counts
        found, resumed_at = self.findings.found, self.resumed_at
        return History(plan, found, resumed_at, stop_reason, find_best, failures)

    def resume(
        self, training: Training, program: Program, finished: str | None, start: Start | None
    ) -> bool:
        """Load what the run has saved, if anything; a run that is finished is warned about.

        Returns:
            Whether training was over before; the Step is left as its end left it.
        """
        if self.run is None or self.run.loaded is None or start is None:
            return False
        with restated(self.step, start):
            self.run.load_step()
        clock, loop = self.run.loaded.content.clock, self.run.loaded.content.facts["loop"]
        callbacks = training.callbacks
        is_past_stop = finished is None and self.run.was_stopped_by_callback
        training.load_state(clock, loop, finished, is_past_stop)
        is_over = finished is not None and clock.batch == 0
        if finished is not None and (is_over or self.run.ended is not None):
            self.warn_of_finished(finished, [] if callbacks is None else callbacks.stopping())
        if is_over:
            training.conclude(program)
        return is_over

    def warn_of_finished(self, reason: str, stopping: Sequence[str] = ()) -> None:
        """Warn that the run has nothing left to train.

        Args:
            reason: Why.
            stopping: The classes of the callbacks that may have stopped it.
        """
        run, clock = self.run, self.resumed_at
        assert run is not None and clock is not None
        said = said_of_finished(str(run.path), clock, reason, run.ended, stopping)
        warnings.warn(said, RuntimeWarning, stacklevel=levels_to_caller())

    def hold_signals(self) -> None:
        """Let signals wait for the next step boundary where a run can save the training."""
        if self.run is not None:
            self.stack.enter_context(self.signals)


@contextlib.contextmanager
def opening(
    step: Step,
    run: Run | None,
    execution: Execution,
    *,
    has_order: bool = False,
    seed: int | None = None,
    guards: frozenset[str] = frozenset(diagnostics.GUARDS),
) -> Generator[Opened]:
    """Open a run, if there is one, and close all that is opened within.

    Args:
        step: The Step.
        run: Where the training is kept, or `None`.
        execution: How the step is to run.
        has_order: Whether data is drawn in an order that depends on a seed.
        seed: That seed; `None` draws one from NumPy's global generator.
        guards: The codes of the guards that are wanted.

    Raises:
        PerigeeError: If the run cannot be opened, or resumed like this.
    """
    workers, is_seed_given = Workers(step), seed is not None
    if has_order:
        drawn = int(np.random.randint(2**31 - 1)) if seed is None else seed
        seed = workers.of_chief(drawn)
    signals = Signals()
    with contextlib.ExitStack() as stack:
        stack.callback(signals.deliver)  # last: it may end the process
        opened = None
        if run is not None:
            opened = OpenRun(
                run, step, seed, is_seed_given=is_seed_given, is_writer=workers.is_chief
            )
            stack.callback(opened.close)
            opened.check_execution(execution)
            seed = opened.seed if opened.seed is not None else seed
        findings = Findings(step, guards)
        moved = [] if opened is None else opened.inexact()
        findings.report(diagnostics.findings_of("moved", moved))
        yield Opened(step, execution, workers, seed, findings, signals, opened, stack)


class LookBack(Hook):
    """Reports what is known only at the end, while writers still write."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def on_end(self, event: Ended) -> None:
        """Look at what has run, unless an error ended it."""
        if not event.reason.startswith("error: "):
            self._programs.look_back()
