"""A training that computes nothing and records much, to be killed at any moment and gone on with.

As a script: `python pretended.py DIRECTORY EPOCHS` goes on from the last checkpoint, if any.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from perigee._events.clock import Clock
from perigee._events.events import Ended, Recorded, Started
from perigee.writers import Csv, JsonLines, RunDirectory, TensorBoard, Writers

SOURCE = Path(__file__).parents[2] / "src"
STEPS_PER_EPOCH = 20
RECORD_EVERY, VALIDATE_EVERY, SAVE_EVERY = 3, 4, 5
NEW_NAME_AT_EPOCH = 2


def record(clock, scope):
    values = {"loss": 1 / (clock.step + 1), "accuracy": clock.step / 7}
    if scope == "epoch":
        values["val_loss"] = 2 / (clock.step + 1)
        if clock.epoch >= NEW_NAME_AT_EPOCH:
            values["late"] = float(clock.epoch)
    elif scope == "validation":
        values = {f"val_{name}": value for name, value in values.items()}
    return Recorded(clock, scope, values, lambda reason: None, clock.step / 10)


def open_writers(directory, *, is_resumed=False, is_strict=False):
    writers = {
        "metrics": JsonLines(directory),
        "events": TensorBoard(directory),
        "table": Csv(directory / "metrics.csv"),
    }
    run = RunDirectory(directory, is_resumed=is_resumed)
    return Writers(writers, directory=run, is_strict=is_strict)


def train(directory, epochs, *, stop_at=None):
    """Train, from the last checkpoint on, and save where a loop would.

    An epoch that ends where a checkpoint is due is recorded after it. With `stop_at`, stop after
    that step as a loop does that was asked to: the epoch is recorded as it is.
    """
    saved = directory / "checkpoint.json"
    clock = Clock()
    writers = open_writers(directory, is_resumed=saved.exists())
    if saved.exists():
        stored = json.loads(saved.read_text())
        clock = Clock(**stored["clock"])
        writers.load_state(stored["writers"])

    def save():
        at = {"step": clock.step, "epoch": clock.epoch, "batch": clock.batch}
        beside = saved.with_suffix(".tmp")
        beside.write_text(json.dumps({"clock": at, "writers": writers.state()}))
        os.replace(beside, saved)

    writers.on_start(Started(None, clock, epochs, None, STEPS_PER_EPOCH, 0.0))
    reason = "epochs"
    while clock.epoch < epochs and clock.step != stop_at:
        while clock.batch < STEPS_PER_EPOCH and clock.step != stop_at:
            clock = clock.after_steps(1)
            if clock.step % RECORD_EVERY == 0:
                writers.on_record(record(clock, "steps"))
            if clock.step % VALIDATE_EVERY == 0:
                writers.on_record(record(clock, "validation"))
            if clock.step % SAVE_EVERY == 0:
                save()
        if clock.batch == STEPS_PER_EPOCH:
            clock = clock.after_epoch()
        writers.on_record(record(clock, "epoch"))
        if clock.step == stop_at:
            reason = "asked"
            save()
    writers.on_end(Ended(clock, reason, 1.0))


def run(directory, epochs, *, kill_when=None):
    """Train in a process of its own; kill it as soon as `kill_when` is true. Tell if it was."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(directory), str(epochs)],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )
    while child.poll() is None:
        if kill_when is not None and kill_when():
            child.kill()
            break
    code = child.wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
