"""The state of a Step as named arrays, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._errors import CheckpointContentError, StateMismatchError
from perigee._events.stored_shapes import loading
from perigee._step.state import Tracked, readapt, snapshot


@dataclass(frozen=True, slots=True)
class Unlike:
    """The differences between a stored state and a Step, by the keys of the variables.

    Attributes:
        missing: Keys that only the Step holds.
        unexpected: Keys that only the state holds.
        different: Keys that both hold, but with an unsuitable stored value: the reason by key.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    different: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.different)


def arrays_of(tracked: Tracked) -> dict[str, np.ndarray]:
    """Return a copy of every variable of a Step, unaffected by later training.

    It waits for the device, and copies from it once. Integers keep the dtype of the current
    framework, which differs: seeds are int64 on TensorFlow, uint32 on JAX and int32 on torch.

    Args:
        tracked: The contents of the Step.

    Returns:
        Arrays by `Entry.key`, in order, with the shapes and dtypes of the variables.
    """
    values = snapshot(tracked.variables)
    return {entry.key: value for entry, value in zip(tracked.entries, values, strict=True)}


def objects_of(tracked: Tracked, only_tensors: bool = False) -> dict[str, Any]:
    """Return the state outside variables by attribute path, as plain values and arrays.

    Args:
        tracked: The contents of the Step.
        only_tensors: Whether the user saves the Python values in attributes.

    Raises:
        CheckpointContentError: If some of it cannot be saved.
    """
    states, refused = savable_objects(tracked, only_tensors)
    if refused:
        raise refused[0]
    return states


def savable_objects(
    tracked: Tracked, only_tensors: bool = False
) -> tuple[dict[str, Any], list[CheckpointContentError]]:
    """Return what of `objects_of` can be saved, and why the rest cannot."""
    states: dict[str, Any] = {}
    refused: list[CheckpointContentError] = []
    keys = _keys_of_tensors(tracked)
    for path, found in tracked.objects.items():
        try:
            states[path] = found.saved(path, keys, only_tensors)
        except CheckpointContentError as error:
            states[path] = error.rest
            refused.append(error)
    return {path: state for path, state in states.items() if state is not None}, refused


def load_objects(tracked: Tracked, said: Any) -> None:
    """Load what `objects_of` returned: all of it, or nothing.

    Args:
        tracked: The contents of the Step.
        said: What was saved; `None` if it was saved before such state was, or elsewhere.

    Raises:
        StateMismatchError: If the Step holds other objects. Nothing is changed then.
        StoredStateError: If an object does not take back what was stored of it.
    """
    if said is None or not (said or tracked.objects):
        return
    required = [path for path, found in tracked.objects.items() if not found.is_optional]
    missing = [path for path in required if path not in said]
    unexpected = [path for path in said if path not in tracked.objects]
    if missing or unexpected:
        raise StateMismatchError(missing, unexpected, {})
    for path, state in said.items():
        with loading(path):
            tracked.objects[path].load(state, _keys_of_tensors(tracked))


def _keys_of_tensors(tracked: Tracked) -> dict[int, str]:
    """Return `Entry.key` of each variable by the `id` of its tensor."""
    return {id(entry.variable.value): entry.key for entry in tracked.entries}


def gradients_of(tracked: Tracked) -> dict[str, Any]:
    """Return the gradients that variables hold for a later step, by `Entry.key`.

    Only torch has them: those in `.grad` of parameters.
    """
    found = _backends.current().waiting_gradients(tracked.variables)
    keys = (entry.key for entry in tracked.entries)
    return {key: said for key, said in zip(keys, found, strict=True) if said is not None}


def load_gradients(tracked: Tracked, said: Any) -> None:
    """Load what `gradients_of` returned; variables without an entry then hold none.

    Raises:
        StoredStateError: If it is something else.
    """
    if isinstance(said, Mapping):
        gradients = [said.get(entry.key) for entry in tracked.entries]
        with loading("gradients"):
            _backends.current().set_waiting_gradients(tracked.variables, gradients)


def load_arrays(
    tracked: Tracked, arrays: Mapping[str, np.ndarray], *, strict: bool = True
) -> Unlike:
    """Load every variable of a Step from its stored value: all of them, or none.

    A value is cast to the dtype of its variable, within floats and within integers. A value that
    the cast would change (an integer too large, a float that would be rounded) does not match.

    To load only what matches, such as the trunk of a model with a new head, pass `strict=False` and
    check the result:

    >>> left_out = load_arrays(tracked, arrays, strict=False)
    >>> left_out.missing
    ('head/0/kernel', 'head/1/bias')

    Args:
        tracked: The contents of the Step; its models and optimizers must be built.
        arrays: Arrays by `Entry.key`, as `arrays_of` returned them on any backend. Not modified.
        strict: Whether everything must match.

    Returns:
        What was skipped; with `strict`, nothing.

    Raises:
        StateMismatchError: If anything does not match and `strict` is true. Nothing is changed.
    """
    entries = {entry.key: entry for entry in tracked.entries}
    values, differences = _matched(tracked, arrays)
    if differences and strict:
        raise StateMismatchError(differences.missing, differences.unexpected, differences.different)
    for key, value in values.items():
        # A copy: JAX uses the memory of an array for the variable.
        _backends.current().write(entries[key].variable, np.array(value, copy=True, order="C"))
    readapt(tracked)
    return differences


def unlike(tracked: Tracked, arrays: Mapping[str, np.ndarray]) -> Unlike:
    """Return what `load_arrays` could not load; nothing is changed."""
    return _matched(tracked, arrays)[1]


def _matched(
    tracked: Tracked, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], Unlike]:
    """Return the values that fit their variables, by key, and what does not match."""
    entries = {entry.key: entry for entry in tracked.entries}
    values: dict[str, np.ndarray] = {}
    different: dict[str, str] = {}
    for key in [key for key in entries if key in arrays]:  # in the same order in every process
        try:
            values[key] = _fitted(arrays[key], entries[key].variable)
        except ValueError as error:
            different[key] = str(error)
    return values, Unlike(
        missing=tuple(key for key in entries if key not in arrays),
        unexpected=tuple(key for key in arrays if key not in entries),
        different={key: different[key] for key in entries if key in different},
    )


def _fitted(stored: np.ndarray, variable: Any) -> np.ndarray:
    """Return a value in the dtype of its variable.

    Raises:
        ValueError: If it does not suit the variable, saying why.
    """
    shape = tuple(variable.shape)
    if stored.shape != shape:
        raise ValueError(f"shape {stored.shape} is stored, the Step has {shape}")
    # The declared and the actual dtype: on JAX an int64 is an int32, on torch a uint32 an int64.
    for kind in (variable.dtype, ops.convert_to_tensor(variable).dtype):
        stored = _cast(stored, np.dtype(keras.backend.standardize_dtype(kind)))
    return stored


def _cast(stored: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if stored.dtype == dtype:
        return stored
    if _family(stored.dtype) != _family(dtype):
        raise ValueError(f"{stored.dtype} is stored, the Step has {dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        fitted = stored.astype(dtype)
        back = fitted.astype(stored.dtype)
    # The sign detects values that wrap around both ways, as -1 does between int32 and uint32.
    kept = (back == stored) & ((fitted < 0) == (stored < 0)) | (stored != stored)
    if not kept.all():
        raise ValueError(f"{stored[~kept].flat[0]} ({stored.dtype}) does not fit into {dtype}")
    return fitted


def _family(dtype: np.dtype[Any]) -> str:
    """Return whether it is float, integer or other; bfloat16 and the like have kind V."""
    name = dtype.name
    return next((f for f in ("float", "int", "complex") if f in name), name)
