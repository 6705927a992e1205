"""What a training came to, step by step, and how two of them part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FIRST_STEPS = 5

_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One training.

    Attributes:
        steps: Each logged name to its value in each step, shape `(steps,)`.
        epochs: Each name in the history to its value in each epoch, shape `(epochs,)`.
        weights: Weights, optimizer slots and other variables at the end, by their keys.
    """

    steps: Mapping[str, np.ndarray] = field(default_factory=dict)
    epochs: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


def without_rates(trajectory: Trajectory) -> Trajectory:
    """Return a training without its learning rates, so that they show by what they do."""
    return Trajectory(
        *(
            {name: held for name, held in part.items() if not name.endswith("learning_rate")}
            for part in (trajectory.steps, trajectory.epochs, trajectory.weights)
        )
    )


@dataclass(frozen=True, slots=True)
class Results:
    """What one process found.

    Attributes:
        trajectories: By problem and by run: `"ours"`, `"again"`, or what was planted.
        seconds: Problem to how long all its runs took.
    """

    trajectories: dict[str, dict[str, Trajectory]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write everything into one `.npz` file."""
        arrays: dict[str, np.ndarray] = {}
        for problem, runs in self.trajectories.items():
            for run, trajectory in runs.items():
                for part in ("steps", "epochs", "weights"):
                    for name, values in getattr(trajectory, part).items():
                        arrays[_SEPARATOR.join(("run", problem, run, part, name))] = values
        for problem, seconds in self.seconds.items():
            arrays[_SEPARATOR.join(("seconds", problem))] = np.array(seconds)
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        found = cls()
        with np.load(path) as arrays:
            for key in arrays.files:
                kind, problem, *rest = key.split(_SEPARATOR)
                if kind == "seconds":
                    found.seconds[problem] = float(arrays[key])
                else:
                    run, part, name = rest
                    runs = found.trajectories.setdefault(problem, {})
                    trajectory = runs.setdefault(run, Trajectory({}, {}, {}))
                    getattr(trajectory, part)[name] = arrays[key]
        return found


@dataclass(frozen=True, slots=True)
class Distance:
    """How far two trainings are apart, and where they part most.

    Attributes:
        first: Largest relative difference of a logged value in the first steps.
        later: Largest relative difference of one in the steps after them, or of an epoch.
        weights: Largest absolute difference of a variable.
        places: Of each of these, by name, where it is, with both values.
    """

    first: float
    later: float
    weights: float
    places: Mapping[str, str]


def distance(ours: Trajectory, theirs: Trajectory) -> Distance:
    """Measure how far two trainings are apart: infinitely, where they hold different things.

    Relative is meant with respect to the values compared or, where these are near 0, to the mean
    size of the whole series.
    """
    first, later, weights = _Worst(), _Worst(), _Worst()
    for name, a, b in _pairs(ours.steps, theirs.steps):
        for index, gap in enumerate(_relative(a, b)):
            worst = first if index < FIRST_STEPS else later
            worst.see(gap, f"{name} of step {index + 1}: {a[index]!r}, {b[index]!r}")
    for name, a, b in _pairs(ours.epochs, theirs.epochs):
        for index, gap in enumerate(_relative(a, b)):
            later.see(gap, f"{name} of epoch {index + 1}: {a[index]!r}, {b[index]!r}")
    for key, a, b in _pairs(ours.weights, theirs.weights):
        gap = np.abs(a.astype("float64") - b.astype("float64"))
        weights.see(float(gap.max(initial=0.0)), key)
    for worst, part in ((first, "steps"), (later, "epochs"), (weights, "weights")):
        others = _names_apart(getattr(ours, part), getattr(theirs, part))
        if others:
            worst.see(np.inf, others)
    places = {"first": first.place, "later": later.place, "weights": weights.place}
    return Distance(first.gap, later.gap, weights.gap, places)


def are_identical(ours: Trajectory, theirs: Trajectory) -> bool:
    """Tell whether two trainings are equal, bit by bit."""
    parts = ("steps", "epochs", "weights")
    return all(
        not _names_apart(getattr(ours, part), getattr(theirs, part))
        and all(
            a.dtype == b.dtype and a.tobytes() == b.tobytes()
            for _, a, b in _pairs(getattr(ours, part), getattr(theirs, part))
        )
        for part in parts
    )


@dataclass(slots=True)
class _Worst:
    gap: float = 0.0
    place: str = "nowhere"

    def see(self, gap: float, place: str) -> None:
        if not gap <= self.gap:  # NaN is the worst
            self.gap, self.place = float(gap), place


def _pairs(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for name in ours:
        if name in theirs and ours[name].shape == theirs[name].shape:
            yield name, ours[name], theirs[name]


def _names_apart(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> str:
    """Say which arrays only one of two has, or has in another shape; empty where none."""
    shapes = [{name: array.shape for name, array in held.items()} for held in (ours, theirs)]
    apart = {name for name, _ in shapes[0].items() ^ shapes[1].items()}
    return f"only one has {', '.join(sorted(apart))}" if apart else ""


def _relative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(a).mean())
    return np.abs(a - b) / np.where(size == 0, 1.0, size)
