"""One run, killed at random instants and started again each time by the same command."""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

import perigee as pg
from perigee._errors import DamagedCheckpointError
from perigee.checkpoints import Checkpoints
from perigee.writers.json_lines import read_json_lines
from tests.reliability import trainings
from tests.reliability.processes import Child, run

BALLAST = 500_000
"""Numbers that are saved with the Step, so that a save takes some milliseconds."""
STEPS_BETWEEN = 6
"""Steps that a training in the foreground has until it ends, and saves."""

Where = Literal[
    "anywhere", "in a background save", "in the last save", "in a validation", "in a callback"
]


@dataclass
class Figures:
    """What became of the kills.

    Attributes:
        kills: By where they were meant to be.
        inside: Of them, those that left a save half done.
        finished: Processes that had ended before their kill.
        unreadable: Starts that found a checkpoint which is not whole, or none where there was one.
        lost: Starts before the newest checkpoint that had been seen.
        steps: By start, where the run was taken up.
    """

    kills: dict[str, int] = field(default_factory=dict)
    inside: int = 0
    finished: int = 0
    unreadable: int = 0
    lost: int = 0
    steps: list[int] = field(default_factory=list)


class Heavy(trainings.Everything):
    def __init__(self):
        super().__init__()
        self.ballast = keras.Variable(np.zeros(BALLAST, "float32"), trainable=False)

    def train_step(self, batch):
        logs = super().train_step(batch)
        self.ballast.assign_add(keras.ops.ones((BALLAST,)))
        return logs


class Dying(keras.callbacks.Callback):
    """Kills its process in a validation or at the end of one, at the call of that number."""

    def __init__(self, where: Where, call: int) -> None:
        super().__init__()
        self.where, self.calls_left = where, call

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._call("in a validation")

    def on_test_end(self, logs: Any = None) -> None:
        self._call("in a callback")

    def _call(self, where: Where) -> None:
        self.calls_left -= self.where == where
        if self.calls_left < 0:
            trainings.kill_this_process()


def train(
    path: str, steps: int, saves: int | None, where: Where = "anywhere", call: int = 0
) -> Any:
    """Train up to a step, in which every variable and record depends on all before it.

    Args:
        path: The directory of the run.
        steps: Up to which step.
        saves: Save every so many steps.
        where: Where the process kills itself: in a validation or in a callback.
        call: How many batches of validations, or ends of them, it survives.
    """
    keras.utils.set_random_seed(3)
    step = Heavy()
    pg.fit(
        step,
        trainings.rows(),
        steps=steps,
        batch_size=trainings.BATCH,
        execution="eager",
        callbacks=[trainings.Remember(step, draws_from_numpy=True), Dying(where, call)],
        validation=trainings.rows(),
        validate_every=pg.Every(steps=3),
        progress="off",
        run=pg.Run(
            path,
            save_every=None if saves is None else pg.Every(steps=saves),
            record_every=pg.Every(steps=1),
            resume="auto",
        ),
    )
    return {
        "state": trainings.state_of(step),
        "host": step.host_state(),
        "records": [
            {k: repr(v) for k, v in line.items() if k != "seconds"}
            for line in read_json_lines(Path(path, "metrics.jsonl"))
            if line["kind"] in ("steps", "validation")
        ],
    }


def kill_often(
    folder: Path, counts: dict[Where, int], seed: int, figures: Figures
) -> tuple[Any, int]:
    """Kill one run again and again; return what it comes to at last, and after how many steps."""
    draw = random.Random(seed)
    path = folder / "killed"
    wheres = [where for where, count in counts.items() for _ in range(count)]
    draw.shuffle(wheres)
    for where in wheres:
        before, remains = newest(path), _half_done(path)
        is_last = where == "in the last save"
        steps = (before or 0) + STEPS_BETWEEN if is_last else 10**6
        saves = None if is_last else 1
        calls = {"in a validation": 6, "in a callback": 3}.get(where, 1)
        call = draw.randrange(calls)
        with Child(folder, train, str(path), steps, saves, where, call) as child:
            if calls > 1:  # it kills itself
                child.ending()
            elif where == "anywhere":
                _wait_anywhere(child, path, before, draw)
            else:
                wanted = -1 if is_last else (before or 0) + draw.randrange(3)
                _wait_for_save(child, path, remains, wanted, draw)
            seen = newest(path)
            child.kill()
            ending = child.ending()
        figures.kills[where] = figures.kills.get(where, 0) + 1
        if not ending.was_killed():
            figures.finished += 1
        figures.inside += not _half_done(path) <= remains
        after = _look(path, figures)
        figures.lost += (after or 0) < (seen or 0)
        figures.steps.append(after or 0)
    steps = (newest(path) or 0) + STEPS_BETWEEN
    return run(folder, train, str(path), steps, 1).returned(), steps


def newest(path: Path) -> int | None:
    steps = Checkpoints(path / "checkpoints").steps()
    return steps[-1] if steps else None


def _half_done(path: Path) -> set[Path]:
    return set(path.glob("checkpoints/*.tmp"))


def _wait_anywhere(child: Child, path: Path, before: int | None, draw: random.Random) -> None:
    """Wait for an instant while it starts, or soon after its first save."""
    while draw.random() < 0.7 and child.is_running() and newest(path) == before:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.3))


def _wait_for_save(
    child: Child, path: Path, remains: set[Path], step: int, draw: random.Random
) -> None:
    """Wait for an instant of a save after that step: of the writing, or of what follows it."""
    is_written = draw.random() < 0.5
    while child.is_running():
        if (newest(path) or 0) < step:
            continue
        for place in _half_done(path) - remains:
            if not is_written or (place / "manifest.json").exists():
                time.sleep(draw.uniform(0, 0.002 if is_written else 0.01))
                return


def _look(path: Path, figures: Figures) -> int | None:
    """Load what there is, as the next start will."""
    checkpoints = Checkpoints(path / "checkpoints")
    for step in checkpoints.steps():
        try:
            checkpoints.load(step)
        except DamagedCheckpointError:
            figures.unreadable += 1
    return newest(path)
