"""A run: the directory that keeps a training, saved as it goes and resumed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from os import PathLike, fspath
from typing import Literal, get_args

from perigee._disk import Place, within
from perigee._errors import (
    ArgumentError,
    PerigeeError,
    door,
)
from perigee._events.clock import Clock
from perigee._events.schedule import Every
from perigee._runs.restoring import load_for_use
from perigee._step.step import Step
from perigee.checkpoints import Checkpoints, Loaded, RunLock
from perigee.report import read_kept, render

Resume = Literal["auto", "never", "required", "past_stop"]
OnChange = Literal["refuse", "accept"]

CHECKPOINTS_NAME = "checkpoints"

# `Path` makes one slash of two; these schemes are no names of directories.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|(gs|s3|s3a|hdfs|https?|abfss?|dbfs|file):/")


@door
@dataclass(frozen=True, slots=True)
class Run:
    """A directory that keeps a training: checkpoints, logs, and what it takes to resume.

    A training that is killed at any instant and restarted with the same command resumes from its
    newest checkpoint, and ends bit for bit like one that was never killed, wherever the data and
    the step allow it; where they do not, a finding says so before training.

    Args:
        path: The directory; it is made where it is missing. Files that the run did not write stay
            there as they are; a directory with a `metrics.jsonl`, `checkpoints` or the like, and no
            run, is rejected.
        save_every: When to save. A training also saves before its first step, when it ends, when a
            signal or a `Preemption` stops it, and, with `best`, when that value is better than ever
            before.
        keep: How many of the newest checkpoints to keep; `None` keeps all. The one from before the
            first step does not count, and is removed after the next save.
        best: A logged value, such as `"val_loss"`: the checkpoint where it was best is kept too.
        mode: Whether `"min"` or `"max"` is better; `None` tells by the name.
        resume: `"auto"` resumes where the run stopped, if there is one; `"never"` refuses a
            directory that holds a run; `"required"` refuses one that does not. `"past_stop"` is
            `"auto"`, and trains on where a callback or a hook stopped the run: callbacks that stop
            trainings, such as `EarlyStopping`, begin as they do in a new training.
        record_every: When to write the means of a window of steps, and the results of metrics over
            the epoch so far, as `running/accuracy`; each epoch is written anyway.
        tensorboard: Whether to write TensorBoard's event files, to `events/`.
        on_change: What happens where the program differs from the one that trained the run so far
            (learning rate, loss, layers, data, arguments of `fit`): `"refuse"` lists what differs
            and trains nothing; `"accept"` continues with what the program says now, and writes
            the changes to `run.json`.
        strict: Whether a save or a log that fails (a full disk) ends the training. Otherwise it
            is said, counted in `run.json`, and training continues; a last save that fails is an
            error anyway.

    Raises:
        ArgumentError: If an argument is none of these.
    """

    path: str | PathLike[str]
    save_every: Every | None = field(default_factory=lambda: Every(epochs=1))
    keep: int | None = 3
    best: str | None = None
    mode: Literal["min", "max"] | None = None
    resume: Resume = "auto"
    record_every: Every | None = field(default_factory=lambda: Every(steps=100))
    tensorboard: bool = False
    strict: bool = False
    on_change: OnChange = "refuse"

    def __post_init__(self) -> None:
        url = _URL.match(str(fspath(self.path)))
        if url:
            raise ArgumentError(
                "run",
                repr(str(fspath(self.path))),
                f"a directory of a file system, which {url[0]} is not: a run locks, renames and "
                "flushes files.",
                "train into a local directory and copy it, or mount the storage.",
            )
        if self.resume not in get_args(Resume):
            raise ArgumentError(
                "resume",
                repr(self.resume),
                '"auto", "never", "required" or "past_stop".',
                'pass "auto".',
            )
        if self.on_change not in ("refuse", "accept"):
            raise ArgumentError(
                "on_change", repr(self.on_change), '"refuse" or "accept".', 'pass "accept".'
            )
        if self.record_every is not None and self.record_every.seconds is not None:
            raise ArgumentError(
                "record_every",
                repr(self.record_every),
                "a cadence of steps or epochs: what is logged does not depend on time.",
                "pass `pg.Every(steps=...)`.",
            )
        checkpoints_of(self)

    @door
    def restore(
        self, step: Step, which: Literal["newest", "best"] | int = "newest", *, strict: bool = True
    ) -> Clock:
        """Load what a checkpoint holds of a Step: weights, slots, metrics, seeds, host state.

        Layers that are not built are built in the shapes that the run has recorded. An optimizer
        that is not built stays as it is. Where a validation measured other weights than training
        continues from, such as averages (`keras.callbacks.SwapEMAWeights`), the measured ones are
        loaded: `pg.evaluate` returns what was logged.

        Args:
            step: The Step, changed in place; no value is changed if anything does not match.
            which: `"newest"`, `"best"` (by the value that the run was trained with) or the number
                of a step.
            strict: Whether all but metrics must match; otherwise what does not is left as it is.

        Returns:
            Where the training stood.

        Raises:
            NoCheckpointError: If there is none.
            StateMismatchError: If the Step is another one, and `strict` is true.
            StepNotBuiltError: If it has layers that are not built, and cannot be here.
        """
        loaded = checkpoints_of(self).load(which)
        warn_of_damage(loaded)
        load_for_use(step, loaded, strict=strict)
        return loaded.content.clock

    def _repr_html_(self) -> str:
        """Show the report of the run in a notebook; one that is not there yet by its path."""
        try:
            page = render([read_kept(self.path)])
        except (PerigeeError, OSError):
            return f"<code>{escape(repr(self))}</code>"
        return (
            f'<iframe srcdoc="{escape(page)}" style="width: 100%; height: 640px; border: 0" '
            'title="The report of the run"></iframe>'
        )


def checkpoints_of(
    run: Run,
    lock: RunLock | None = None,
    place: Place | None = None,
    check: Callable[[], object] | None = None,
) -> Checkpoints:
    """Return the checkpoints of a run, to be written by whoever holds the lock.

    Args:
        run: The run.
        lock: The lock, where they are written.
        place: The directory of the run, where it may move.
        check: See `Checkpoints`.
    """
    return Checkpoints(
        within(place or fspath(run.path), CHECKPOINTS_NAME),
        keep=run.keep,
        best=run.best,
        mode=run.mode,
        lock=lock,
        check=check,
    )


def warn_of_damage(loaded: Loaded) -> None:
    """Warn of each checkpoint that was skipped because it is damaged."""
    for error in loaded.passed_over:
        warnings.warn(f"A checkpoint was skipped. {error}", RuntimeWarning, stacklevel=4)
