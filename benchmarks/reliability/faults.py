"""Faults of a disk and of files, each with a training that meets it, and what became of it."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perigee._errors import PerigeeError
from perigee.checkpoints import Checkpoints
from tests.checkpoints.test_damage import DAMAGES
from tests.reliability.trainings import STEPS_AN_EPOCH, Case, KillAtStep, train

CASE = Case("list", mode="eager")
EPOCHS = 2
CUT_AT = STEPS_AN_EPOCH + 3
KEEP: dict[str, Any] = {"keep": None}


@dataclass
class Met:
    """What became of the trainings that met one kind of fault.

    Attributes:
        faults: How many there were.
        lost: Those that cost what was saved before, or ended in an error that has no code.
        silent: Those that changed what came out, or kept it from being saved, and nothing said so.
        said: Those that an error with a code or a warning told.
    """

    faults: int = 0
    lost: int = 0
    silent: int = 0
    said: int = 0

    def add(self, is_said: bool, is_lost: bool, is_silent: bool) -> None:
        """Count one fault."""
        self.faults += 1
        self.lost += is_lost
        self.silent += is_silent
        self.said += is_said


def trained(path: Path, *hooks: Any) -> tuple[Any, list[str], BaseException | None]:
    """Train; return the outcome, what was said, and the error that ended it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            outcome = train(str(path), CASE, None, hooks, epochs=EPOCHS, run=KEEP)
        except Exception as error:
            return None, [str(error)], error
    return outcome["state"], [str(each.message) for each in said], None


class _Cut(Exception):
    pass


def _stop() -> None:
    raise _Cut


def damage(folder: str, count: int, seed: int) -> dict[str, int]:
    """Damage one file of a run for each of so many trainings, which then resume.

    What logs hold is not secured by checksums: of damage there it counts whether the training is
    what it would have been.
    """
    draw, met, place = random.Random(seed), Met(), Path(folder)
    straight, _, error = trained(place / "straight")
    assert error is None, error
    trained(place / "cut", KillAtStep(CUT_AT, _stop))
    steps = Checkpoints(place / "cut" / "checkpoints").steps()
    newest = f"checkpoints/step-{steps[-1]:08d}"
    for number in range(count):
        path = place / "run"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(place / "cut", path)
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)
        of_newest = [p for p in files if str(p.relative_to(path)).startswith(newest)]
        file = draw.choice(of_newest if number % 4 else files)
        before = file.read_bytes()
        left = DAMAGES[number % len(DAMAGES)](bytearray(before), draw)
        file.unlink()
        if left is not None:
            file.write_bytes(left)
        state, said, error = trained(path)
        is_said = any(str(path) in each for each in said)
        is_checkpoint = file in of_newest
        met.add(
            is_said,
            is_lost=(error is not None and not isinstance(error, PerigeeError))
            or (is_checkpoint and error is not None),
            is_silent=(error is None and state != straight) or (is_checkpoint and not is_said),
        )
    return vars(met)


def vanishing(folder: str, count: int, seed: int) -> dict[str, int]:
    """Delete or rename the directory of a run, or its checkpoints, while it trains."""
    draw, met, place = random.Random(seed), Met(), Path(folder)
    straight, _, error = trained(place / "straight")
    assert error is None, error
    for number in range(count):
        path, gone = place / f"run-{number}", place / f"gone-{number}"
        target = path if number % 2 else path / "checkpoints"
        saved: list[int] = []
        acts: list[Callable[[], Any]] = [
            lambda target=target: shutil.rmtree(target, ignore_errors=True),
            lambda target=target, gone=gone: os.rename(target, gone),
        ]
        act = acts[number // 2 % 2]

        def vanish(act: Any = act, path: Path = path, saved: list[int] = saved) -> None:
            saved += Checkpoints(path / "checkpoints").steps()
            act()

        at = draw.randrange(5, 2 * STEPS_AN_EPOCH)
        state, said, error = trained(path, KillAtStep(at, vanish))
        is_said = any(str(path) in each for each in said)
        kept = gone / "checkpoints" if number % 2 else gone
        intact = [Checkpoints(kept).load(step) for step in saved] if gone.exists() else []
        met.add(
            is_said,
            is_lost=(error is not None and not isinstance(error, PerigeeError | OSError))
            or (gone.exists() and len(intact) != len(saved)),
            is_silent=(error is None and state != straight) or not is_said,
        )
    return vars(met)


def full_disks(folder: str, count: int) -> dict[str, int] | None:
    """Train on disks that are full at so many points; `None` where none can be mounted."""
    from tests.reliability.test_faulty_runs import CASE as WHOLE
    from tests.reliability.test_faulty_runs import at_points

    met, place = Met(), Path(folder)
    straight = train(str(place / "straight"), WHOLE)
    try:
        found = at_points(place / "disk", count)
    except OSError:
        return None
    for outcome, seen, failures in found:
        is_whole = seen["intact"] == seen["before"] and not seen["remains"]
        differs = outcome["state"] != straight["state"]
        met.add(bool(failures), is_lost=not is_whole, is_silent=differs)
    return vars(met)
