"""Kill a process inside its saves, and see what the next one finds.

    python -m benchmarks.reliability.kills_in_save [--kills 200] [--mbytes 8] [--seed 0]

A process saves without a pause, half of the time in the background. It is killed (SIGKILL) at a
random instant of a save. The next one takes the lock, opens the directory and loads the newest
checkpoint. It must find one that is whole, of the step last reported as saved or a later one, and
nothing else in the directory. Exits with 1 if any did not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")  # nothing is computed here

import numpy as np

from perigee._errors import PerigeeError
from perigee._events.clock import Clock
from perigee.checkpoints import Checkpoints, Content, RunLock

ARRAYS = 16
KEEP = 2


def content(step: int, size_bytes: int) -> Content:
    """Return a content of which every part says of which step it is."""
    shape = (size_bytes // ARRAYS // 8,)
    arrays = {f"variable/{index}": np.full(shape, step, "int64") for index in range(ARRAYS)}
    data = {"step": step, "pending": np.full((100,), step, "int64")}
    return Content(Clock(step=step), arrays, {"step": step}, data)


def is_torn(held: Content) -> bool:
    """Tell whether parts of it are of different steps."""
    step = held.clock.step
    numbers = {held.facts["step"], held.data["step"], *np.unique(held.data["pending"]).tolist()}
    for array in held.arrays.values():
        numbers.update(np.unique(array).tolist())
    return numbers != {step} or len(held.arrays) != ARRAYS


def save_for_ever(directory: Path, report: int, size_bytes: int) -> None:
    """Save one step after another, reporting the beginning and the end of each save."""
    with RunLock(directory) as lock:
        checkpoints = Checkpoints(directory / "checkpoints", keep=KEEP, lock=lock)
        found = checkpoints.newest()
        step = 0 if found is None else found.content.clock.step
        while True:
            step += 1
            saved = content(step, size_bytes)
            os.write(report, f"begun {step}\n".encode())
            checkpoints.save(saved, background=step % 2 == 0)
            checkpoints.wait()
            os.write(report, f"saved {step}\n".encode())


def kill_one(directory: Path, size_bytes: int, chance: random.Random, save_secs: float) -> str:
    """Let a process save for a while, and kill it; return all that it reported."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            save_for_ever(directory, writing, size_bytes)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "r") as reports:
        lines = [reports.readline() for _ in range(chance.randrange(1, 6) * 2 - 1)]
        time.sleep(chance.random() * save_secs)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return "".join(lines) + reports.read()


def fault(directory: Path, reported: str, earlier: int) -> str | None:
    """Return what is wrong with what the killed process left; `None` if nothing is."""
    saved = [int(line.split()[1]) for line in reported.splitlines() if line.startswith("saved")]
    at_least = max([earlier, *saved])
    try:
        with RunLock(directory) as lock:
            checkpoints = Checkpoints(directory / "checkpoints", keep=KEEP, lock=lock)
            found = checkpoints.newest()
    except PerigeeError as error:
        return f"unreadable: {error}"
    step = 0 if found is None else found.content.clock.step
    if step < at_least:
        return f"step {at_least} was reported as saved, and step {step} is the newest"
    if found is not None and (found.passed_over or is_torn(found.content)):
        return f"step {step} is torn, or one was passed over"
    remains = {path.name for path in checkpoints.directory.glob("*")}
    if remains != {f"step-{each:08d}" for each in checkpoints.steps()}:
        return f"remains: {sorted(remains)}"
    return None


def main() -> int:
    """Kill as often as asked, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many inside a save")
    parser.add_argument("--mbytes", type=float, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    size_bytes = int(arguments.mbytes * 1e6)
    inside = {"foreground": 0, "background": 0}
    outside, newest, faults = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        began = time.perf_counter()
        Checkpoints(directory / "timed").save(content(1, size_bytes))
        save_secs = 2 * (time.perf_counter() - began)
        while sum(inside.values()) < arguments.kills:
            reported = kill_one(directory, size_bytes, chance, save_secs)
            last, step = reported.splitlines()[-1].split()
            if last == "begun":
                inside["background" if int(step) % 2 == 0 else "foreground"] += 1
            else:
                outside += 1
            found = fault(directory, reported, newest)
            if found:
                faults.append(found)
            newest = max(newest, *Checkpoints(directory / "checkpoints").steps(), 0)
    counts = ", ".join(f"{count} in the {where}" for where, count in inside.items())
    print(f"{sum(inside.values())} kills inside a save ({counts}), {outside} between two.")
    print(f"{len(faults)} of them were found unreadable, torn, too old or with remains.")
    for found in faults:
        print(f"  {found}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
