"""A Step given what a checkpoint holds of it, to be used: built if need be, as it was measured."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, get_args

import keras
import numpy as np

from perigee import _backends
from perigee._errors import StepNotBuiltError
from perigee._rehearsal.discovery import rehearse
from perigee._step.frame import Method
from perigee._step.state import Tracked, nested_layers, track
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Batch
from perigee.checkpoints import Loaded, load_arrays
from perigee.checkpoints.state import load_objects

MOST_BATCHES = 8
_MOST_BYTES = 4 * 2**30
_OWN = "perigee/"


def recorded_batches(step: Step) -> list[dict[str, Any]]:
    """Return the methods of a Step that have run, with the shapes of their batches.

    They are plain values, for a checkpoint. Batches that are not only arrays are left out.
    """
    found: list[dict[str, Any]] = []
    for (method, *_), program in internals(step).programs.items():
        with suppress(TypeError):
            said = {"method": method, "batch": _described(program.like)}
            if program.like is not None and said not in found:
                found.append(said)
    found.sort(key=lambda said: get_args(Method).index(said["method"]))  # training builds most
    return found[:MOST_BATCHES]


def _described(like: Any) -> Any:
    """Return the shapes and dtypes of a batch as plain values.

    Raises:
        TypeError: If it has keys that are not plain.
    """
    if like is None:
        return None
    if isinstance(like, Mapping):
        for key in like:
            if not isinstance(key, str | int):
                raise TypeError("a checkpoint has no such keys")
        return {"dict": [[key, _described(item)] for key, item in like.items()]}
    if isinstance(like, tuple | list):
        kind = "list" if isinstance(like, list) else "tuple"
        said: dict[str, Any] = {kind: [_described(item) for item in like]}
        fields = getattr(like, "_fields", None)
        return said if fields is None else {**said, "fields": list(fields)}
    return {"shape": list(like.shape), "dtype": str(like.dtype)}


def _zeros(said: Any) -> Batch:
    """Return a batch of zeros as `_described` has described it.

    Raises:
        ValueError: If it is not a description.
    """
    match said:
        case None:
            return None
        case {"dict": [*pairs]}:
            return {key: _zeros(item) for key, item in pairs}
        case {"list": [*items]}:
            return [_zeros(item) for item in items]
        case {"tuple": [*items], "fields": [*fields]}:
            names = [str(name) for name in fields]
            kind: Any = collections.namedtuple("Batch", names)  # pyright: ignore[reportUntypedNamedTuple]
            return kind(*map(_zeros, items))
        case {"tuple": [*items]}:
            return tuple(_zeros(item) for item in items)
        case {"shape": [*sizes], "dtype": str(dtype)}:
            if not all(type(size) is int and size >= 0 for size in sizes):
                raise ValueError("it has no shape")
            if 8 * math.prod(sizes) > _MOST_BYTES:
                raise ValueError("it is too large")
            if dtype == "string":
                return np.full(sizes, "", object)
            return np.zeros(sizes, keras.backend.standardize_dtype(dtype))
        case _:
            raise ValueError("it has no shape")


def load_for_use(step: Step, loaded: Loaded, *, strict: bool = True) -> None:
    """Give a Step the weights of a checkpoint as they were measured, and the rest of its state.

    What is not built is built. What need not match is left as it is: metrics, which each pass
    resets, and optimizers that were not built.

    Raises:
        StateMismatchError: If the Step is another one, and `strict` is true.
        StepNotBuiltError: If it has layers that are not built, and nothing tells how.
    """
    content = loaded.content
    if content.facts.get("objects"):
        internals(step).run_as_python()  # it was trained so
    arrays = {**content.arrays, **_measured(content.facts, content.arrays)}
    idle = [path for path, optimizer in track(step).optimizers.items() if not optimizer.built]
    needed = _Needed(arrays, content.facts.get("metrics"), idle)
    _build(step, loaded, needed, strict)
    tracked = track(step)
    skipped = needed.skipped(tracked)
    entries = tuple(entry for entry in tracked.entries if entry.key not in skipped)
    wanted = {key: array for key, array in arrays.items() if key not in skipped}
    load_arrays(replace(tracked, entries=entries), wanted, strict=strict)
    if strict and content.facts.get("backend") == _backends.current().name:
        load_objects(tracked, content.facts.get("objects"))
    if strict and content.facts.get("host") is not None:
        step.load_host_state(content.facts["host"])


def apart(measured: Mapping[str, np.ndarray], saved: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the measured values that differ from those that are saved."""
    return {
        key: value
        for key, value in measured.items()
        if key in saved and value.tobytes() != saved[key].tobytes()
    }


def _measured(
    facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """Return the weights that were measured, where others were saved to resume from."""
    said = facts.get("measured")
    if not isinstance(said, dict):
        return {}
    return {
        key: value for key, value in said.items() if key in arrays and isinstance(value, np.ndarray)
    }


@dataclass(frozen=True, slots=True)
class _Needed:
    """What of a checkpoint a Step must have.

    Attributes:
        arrays: Everything that is stored, by key.
        metrics: The keys of metrics among these, if they are known.
        idle: Optimizers of the Step that were not built, by their paths.
    """

    arrays: Mapping[str, np.ndarray]
    metrics: Any
    idle: Sequence[str]

    def skipped(self, tracked: Tracked) -> set[str]:
        """Return the keys, of the Step and of what is stored, that need not match and do not."""
        keys = {entry.key for entry in tracked.entries}
        metrics = self.metrics if isinstance(self.metrics, list) else []
        skipped = {key for key in self.arrays.keys() - keys if key.startswith(_OWN)}
        skipped |= {key for key in metrics if isinstance(key, str) and key not in keys}
        skipped |= {e.key for e in tracked.entries if e.kind == "metric"} - self.arrays.keys()
        for path in self.idle:
            ours, theirs = _below(path, keys), _below(path, self.arrays)
            if ours != theirs:
                skipped |= ours | theirs
        return skipped

    def lacks(self, tracked: Tracked) -> set[str]:
        """Return the keys that are stored, and that the Step should have and does not."""
        keys = {entry.key for entry in tracked.entries}
        return self.arrays.keys() - keys - self.skipped(tracked)


def _below(path: str, keys: Iterable[str]) -> set[str]:
    return {key for key in keys if key.startswith(f"{path}/")}


def _build(step: Step, loaded: Loaded, needed: _Needed, strict: bool) -> None:
    """Build what a checkpoint holds and the Step does not have yet, on batches of zeros.

    Raises:
        StepNotBuiltError: If layers are still not built.
    """
    if not _is_incomplete(step, needed, strict):
        return
    why = "the checkpoint does not say the shapes of its batches"
    said = loaded.content.facts.get("batches")
    for each in said if isinstance(said, list) else ():
        try:
            method, batch = each["method"], _zeros(each["batch"])
            sizes = [leaf.nbytes for leaf in keras.tree.flatten(batch) if leaf is not None]
            if method not in get_args(Method) or sum(sizes) > _MOST_BYTES:
                raise ValueError("it has no such method, or is too large")
        except (KeyError, TypeError, ValueError):
            why = "the shapes in the checkpoint cannot be read"
            continue
        try:
            _rehearsed(step, method, batch)
        except Exception as error:  # of user code, for which such a batch is new
            why = f"`{method}` raised {type(error).__name__} on a batch of zeros: {error}"
        if not _is_incomplete(step, needed, strict):
            return
    unbuilt = _unbuilt_layers(track(step))
    if unbuilt:
        raise StepNotBuiltError(str(loaded.path), unbuilt, why)


def _rehearsed(step: Step, method: Method, batch: Batch) -> None:
    """Build what a method builds; eagerly, if it cannot be traced."""
    backend = _backends.current()
    eagerly = backend.eagerly if internals(step).runs_as_python else nullcontext
    try:
        with eagerly():
            rehearse(step, method, backend.tensors(batch), computes=False)
    except Exception as error:
        if not backend.needs_values(error):
            raise
        with backend.eagerly():
            rehearse(step, method, backend.tensors(batch), computes=False)


def _is_incomplete(step: Step, needed: _Needed, strict: bool) -> bool:
    """Tell whether a Step lacks something that it may have once it is built."""
    tracked = track(step)
    if not needed.lacks(tracked):
        return False
    # A Step with built layers may lack only the variables that it makes when it first runs; if it
    # holds anything that is not stored, it is another Step.
    keys = {entry.key for entry in tracked.entries} - needed.skipped(tracked)
    return bool(_unbuilt_layers(tracked)) or (strict and keys <= needed.arrays.keys())


def _unbuilt_layers(tracked: Tracked) -> list[str]:
    return [
        path
        for path, layer in tracked.models.items()
        if not all(inner.built for inner in nested_layers(layer))
    ]
