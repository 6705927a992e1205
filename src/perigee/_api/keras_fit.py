"""`keras_fit`: `keras.Model.fit`, argument for argument, with Perigee's loop behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import keras
import numpy as np

from perigee._api.arguments import check_count, named
from perigee._api.evaluate import as_compiled
from perigee._api.fit import fit
from perigee._api.limits import limited_epochs, limited_steps
from perigee._api.model_callbacks import CallbacksOfModel
from perigee._errors import ArgumentError, DataTypeError
from perigee._events.clock import Clock
from perigee._events.events import Hook
from perigee._events.schedule import Every
from perigee._execution import Choice, Execution
from perigee._runs.run import Run
from perigee._step.keras_names import model_of
from perigee._typing import Shuffle
from perigee.data import open_feed
from perigee.data._sparse import is_rows, rows_of
from perigee.steps.keras_step import KerasStep, check_compiled
from perigee.writers.terminal import Progress

_STEP = "_perigee_step"
"""Attribute under which a model keeps its Step, so that a second call compiles nothing again."""

_PROGRESS: Mapping[Any, Progress] = {"auto": "auto", 0: "off", 1: "bar", 2: "lines"}


@named
def keras_fit(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    epochs: int = 1,
    verbose: Any = "auto",
    callbacks: Any = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    shuffle: Shuffle = True,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    *,
    run: Run | str | PathLike[str] | None = None,
    execution: Execution | Choice = "auto",
    ignore_findings: Sequence[str] = (),
) -> keras.callbacks.History:
    """Train a compiled model as `model.fit` does: same arguments, callbacks, history and weights.

    Where its numbers are not those of the formulas, as for repeated rows of an `Embedding` on
    TensorFlow, the weights are Keras's: see the page on numbers.

    >>> history = pg.keras_fit(model, x, y, epochs=5, validation_split=0.2)

    Args:
        model: Compiled, with or without overridden steps; see `KerasStep`.
        x: Inputs: arrays, or a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch
            `DataLoader`, any iterable of batches or a generator function.
        y: Labels, for arrays only.
        batch_size: Rows a batch, for arrays only; by default 32, or as many as fill
            `steps_per_epoch`.
        epochs: The number of the last epoch, counted from 1.
        verbose: `"auto"`, 0 for silence, 1 for a bar, 2 for a line an epoch.
        callbacks: Keras callbacks and `Hook`s.
        validation_split: Share of the arrays, from their end, to validate on.
        validation_data: `(x, y)`, `(x, y, sample_weight)`, or a data set of batches.
        shuffle: Whether arrays and PyDatasets are drawn in another order each epoch; `"batch"`
            keeps the batches of arrays and shuffles the rows within each. The order is Perigee's,
            repeatable on every backend, and not that of `model.fit`.
        class_weight: From class id to weight, for one array of labels.
        sample_weight: Weights of the examples, for arrays only.
        initial_epoch: The epochs that are done already, for their numbers.
        steps_per_epoch: Steps an epoch; it continues in the data where the last one ended, and ends
            where the data does.
        validation_steps: Batches a validation.
        validation_batch_size: Rows a validation batch; `batch_size` by default.
        validation_freq: Validate every so many epochs, or after the epochs in a list.
        run: As in `pg.fit`.
        execution: As in `pg.fit`. By default a model compiled with `run_eagerly=True` runs eagerly,
            and `steps_per_execution` above 1 is the number of steps a call, and of batches between
            two calls of a hook of batches.
        ignore_findings: Codes such as `["PG206"]`; see `Step.ignore_findings`.

    Returns:
        Keras's `History`: `history.history` and `history.epoch`.

    Raises:
        ArgumentError: If arguments contradict each other.
        PerigeeError: For what is certainly wrong with the model or the data; see the error codes.
    """
    _check(model, x, y, validation_split, validation_data, sample_weight, class_weight)
    _check_progress(verbose)
    check_count("batch_size", batch_size)
    check_count("steps_per_epoch", steps_per_epoch)
    check_count("validation_steps", validation_steps)
    check_count("validation_batch_size", validation_batch_size)
    epochs = limited_epochs(epochs)
    frequency = _frequency(validation_freq, initial_epoch)
    data = _arrays(x, y, sample_weight) if _is_arrays(x) else None
    if data is not None and validation_split and validation_data is None:
        data, validation_data = _split(data, validation_split)
    size = _batch_size(batch_size, steps_per_epoch, data)
    if not _is_ever_due(frequency, epochs, initial_epoch):
        validation_data = None  # `fit` does not look at it either
    validation = _validation(validation_data, validation_batch_size or batch_size, validation_steps)
    asked = _flat_callbacks(callbacks)
    history = next((c for c in asked if isinstance(c, keras.callbacks.History)), None)
    if history is None:
        history = keras.callbacks.History()
        asked.append(history)
    adapted = _AsFit(asked)
    adapted.initial_epoch = initial_epoch
    adapted.params = {"epochs": epochs, "verbose": verbose}
    if steps_per_epoch is not None:
        adapted.params["steps"] = limited_steps(steps_per_epoch)
    step = _step(model, class_weight)
    _, interval = as_compiled(step, execution)
    step.ignore_findings = ignore_findings
    model.stop_training = False
    if epochs <= initial_epoch:
        params = {"steps": _length(x if data is None else data, size)}
        given = [c for c in asked if not isinstance(c, Hook)]
        nothing = adapted.adapted(given, step, params, interval)
        nothing.train_begin()
        nothing.train_end({})
        return history
    is_shuffled = data is not None or isinstance(x, keras.utils.PyDataset)
    stops = any(isinstance(c, keras.callbacks.TerminateOnNaN) for c in asked)
    fit(
        step,
        x if data is None else data,
        epochs=epochs - initial_epoch,
        steps_per_epoch=_whole(steps_per_epoch, interval),
        batch_size=None if data is None else size,
        shuffle=shuffle if is_shuffled and not _is_endless(x) else None,
        validation=validation,
        validation_steps=None if validation is None else _whole(validation_steps, interval),
        validate_every=None if validation is None else frequency,
        nonfinite="stop" if stops else "raise",
        run=run,
        callbacks=adapted,
        execution=execution,
        progress=_PROGRESS[verbose],
    )
    if keras.backend.backend() == "torch":
        model.eval()  # type: ignore[attr-defined]  # as `fit` leaves it
    return history


def given_to_fit(
    model: keras.Model,
    x: Any = None,
    y: Any = None,
    batch_size: int | None = None,
    validation_split: float = 0.0,
    validation_data: Any = None,
    class_weight: Mapping[int, float] | None = None,
    sample_weight: Any = None,
    steps_per_epoch: int | None = None,
    ignore_findings: Sequence[str] = (),
) -> tuple[KerasStep, Any, int | None, Any]:
    """Return what `model.fit` was given as `fit` and `check` take it.

    Returns:
        The Step, its data, the batch size (`None` where the data yields whole batches) and the
        validation data or `None`.
    """
    _check(model, x, y, validation_split, validation_data, sample_weight, class_weight)
    data = _arrays(x, y, sample_weight) if _is_arrays(x) else None
    if data is not None and validation_split and validation_data is None:
        data, validation_data = _split(data, validation_split)
    size = _batch_size(batch_size, steps_per_epoch, data)
    validation = validation_data
    if isinstance(validation, tuple):
        validation = keras.utils.unpack_x_y_sample_weight(validation)
        validation = _arrays(*validation) if _is_arrays(validation[0]) else validation_data
    step = KerasStep(model, class_weight=class_weight)
    step.ignore_findings = ignore_findings
    return (step, x, None, validation) if data is None else (step, data, size, validation)


class _AsFit(list[Any]):
    """Callbacks that are to be called as `model.fit` does."""

    at_end_of_data = "warn"
    initial_epoch: int
    params: dict[str, Any]

    def adapted(
        self,
        callbacks: Sequence[Any],
        step: KerasStep,
        params: Mapping[str, Any],
        interval: int,
        is_kept: bool = False,
    ) -> _FitCallbacks:
        """Return what calls them."""
        params = {**params, **self.params}
        return _FitCallbacks(callbacks, step, params, interval, is_kept, self.initial_epoch)


class _FitCallbacks(CallbacksOfModel):
    """Keras callbacks, with the epochs numbered and the logs named as in `model.fit`."""

    def __init__(
        self,
        callbacks: Sequence[Any],
        step: KerasStep,
        params: Mapping[str, Any],
        interval: int,
        is_kept: bool,
        initial: int,
    ) -> None:
        super().__init__(callbacks, step, params, interval, is_kept)
        self._initial_epoch = initial

    def epoch_begin(self, epoch: int) -> None:
        super().epoch_begin(epoch + self._initial_epoch)

    def train_batch_end(self, index: int, logs: Mapping[str, Any]) -> None:
        super().train_batch_end(index, self.joined(logs))

    def epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        super().epoch_end(epoch + self._initial_epoch, self.joined(_without_rates(logs)))

    def train_end(self, logs: Mapping[str, Any]) -> None:
        super().train_end(self.joined(_without_rates(logs)))


def _without_rates(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return logs without the learning rates, which Keras leaves to callbacks."""
    return {k: v for k, v in logs.items() if k.rpartition("/")[2] != "learning_rate"}


@dataclass(frozen=True, slots=True)
class _Frequency(Every):
    """Every so many epochs, or after some, counted as `model.fit` does."""

    initial_epoch: int = 0
    numbers: tuple[int, ...] | None = None

    def is_due(self, clock: Clock) -> bool:
        """Tell whether an epoch has just ended after which to validate."""
        if clock.batch != 0 or clock.epoch == 0:
            return False
        number = clock.epoch + self.initial_epoch
        return number % (self.epochs or 1) == 0 if self.numbers is None else number in self.numbers


# Arguments.


def _check(
    model: Any,
    x: Any,
    y: Any,
    validation_split: float,
    validation_data: Any,
    sample_weight: Any,
    class_weight: Any,
) -> None:
    if not isinstance(model, keras.Model):
        raise ArgumentError(
            "model", type(model).__name__, "a compiled `keras.Model`.", model_of(model)
        )
    check_compiled(model)
    if x is None:
        raise ArgumentError("x", "None", "arrays or a data set.", "pass the data second.")
    if not _is_arrays(x):
        for name, value in {"y": y, "sample_weight": sample_weight}.items():
            if value is not None:
                raise ArgumentError(
                    name,
                    f"<{type(value).__name__}>",
                    f"none: {type(x).__name__} yields whole batches.",
                    "make arrays of both: `np.asarray(x)` and `np.asarray(y)`."
                    if hasattr(x, "__getitem__") and hasattr(x, "__len__")
                    else "leave it out, and let the data yield `(x, y, sample_weight)`.",
                )
        if validation_split and validation_data is None:
            raise ArgumentError(
                "validation_split",
                repr(validation_split),
                f"arrays, which can be split; {type(x).__name__} was given.",
                "pass `validation_data`.",
            )
    if not 0 <= validation_split < 1:
        raise ArgumentError(
            "validation_split", repr(validation_split), "0 or more, below 1.", "pass 0.2."
        )
    if class_weight is not None and sample_weight is not None:
        raise ArgumentError(
            "class_weight",
            repr(class_weight),
            "class weights or sample weights, not both.",
            "multiply the sample weights by the class weights.",
        )


def _check_progress(verbose: Any) -> None:
    if verbose not in _PROGRESS:
        raise ArgumentError(
            "verbose",
            repr(verbose),
            '"auto", 0, 1 or 2.',
            "pass 0 for silence, 1 for a bar, 2 for a line an epoch.",
        )


def _frequency(given: Any, initial_epoch: int) -> _Frequency:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
        return _Frequency(epochs=given, initial_epoch=initial_epoch)
    if isinstance(given, list | tuple | set | frozenset):
        return _Frequency(epochs=1, initial_epoch=initial_epoch, numbers=tuple(given))
    raise ArgumentError(
        "validation_freq",
        repr(given),
        "a positive integer, or a list of epochs.",
        "pass `validation_freq=1`.",
    )


def _is_ever_due(frequency: _Frequency, epochs: Any, initial_epoch: Any) -> bool:
    if not isinstance(epochs, int) or not isinstance(initial_epoch, int):
        return True  # refused later
    return any(frequency.is_due(Clock(epoch=e)) for e in range(1, epochs - initial_epoch + 1))


def _flat_callbacks(given: Any) -> list[Any]:
    if isinstance(given, keras.callbacks.CallbackList):
        given = given.callbacks
    flat = [] if given is None else keras.tree.flatten(given)
    for callback in flat:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ArgumentError(
                "callbacks",
                "<a BackupAndRestore>",
                "a run: this callback forgets the batch, the seeds and the order of the data.",
                'pass `run="runs/first"`, which resumes exactly where it stopped.',
            )
    # A display is Perigee's own.
    return [c for c in flat if not isinstance(c, keras.callbacks.ProgbarLogger)]


def _step(model: Any, class_weight: Mapping[int, float] | None) -> KerasStep:
    step = vars(model).get(_STEP)
    fresh = KerasStep(model, class_weight=class_weight)  # also checks the model
    if step is None:
        # Past Keras's own `__setattr__`, which would look for layers in it.
        vars(model)[_STEP] = step = fresh
    step.class_weight = fresh.class_weight
    return step


# Data.


def _is_arrays(x: Any) -> bool:
    """Tell whether `x` is arrays, as against something that yields batches."""
    leaves = keras.tree.flatten(x)
    is_dataset = isinstance(x, keras.utils.PyDataset)
    return not is_dataset and bool(leaves) and all(_is_array(leaf) for leaf in leaves)


def _is_array(leaf: Any) -> bool:
    return (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) or hasattr(leaf, "to_numpy")


def _arrays(x: Any, y: Any, sample_weight: Any) -> Any:
    """Return arrays as one data set, numbers with a point in Keras's `floatx`.

    As in Keras, a step gets `x` alone without a tuple around it, unless it is a tuple or a list.
    """
    parts = [x, y, sample_weight]
    while parts[-1] is None:
        parts.pop()
    arrays = tuple(keras.tree.map_structure(_array, part) for part in parts)
    return arrays[0] if len(arrays) == 1 and not isinstance(x, tuple | list) else arrays


def _array(value: Any) -> Any:
    if value is None:
        return None
    rows = rows_of(value)
    if rows is not None:
        return rows
    if isinstance(value, bool | int | float | str | bytes):
        kind = f"list of {type(value).__name__}"
        raise DataTypeError(kind, "make it an array with `np.asarray(...)`.")
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
        value = value[:, None] if value.ndim == 1 else value  # one column of a data frame
    array = value if isinstance(value, np.ndarray) else keras.ops.convert_to_numpy(value)
    return array.astype(keras.backend.floatx()) if array.dtype.kind == "f" else array


def _rows(data: Any) -> int:
    return next(len(leaf) for leaf in keras.tree.flatten(data) if leaf is not None)


def _cut(data: Any, start: int, end: int | None) -> Any:
    return keras.tree.map_structure(lambda a: None if a is None else a[start:end], data)


def _part(data: Any, start: int, end: int | None) -> Any:
    """Return rows as `_cut` does, but sparse and ragged ones not as tensors yet."""
    return keras.tree.map_structure(
        lambda a: a.part(start, end) if is_rows(a) else _cut(a, start, end), data
    )


def _split(data: Any, share: float) -> tuple[Any, Any]:
    rows = _rows(data)
    at = math.floor(rows * (1.0 - share))
    if at in (0, rows):
        raise ArgumentError(
            "validation_split",
            repr(share),
            f"rows on both sides; there are {rows}.",
            "pass another share, or `validation_data`.",
        )
    return _part(data, 0, at), _part(data, at, None)


def _batch_size(given: int | None, steps: int | None, data: Any) -> int:
    """Return rows a batch: if they are not given, as many as fill the steps."""
    return given or (32 if steps is None or data is None else math.ceil(_rows(data) / steps))


def _validation(given: Any, batch_size: int | None, steps: int | None) -> Any:
    """Return validation data as `fit` takes it: arrays as batches of their own size."""
    if given is None or not isinstance(given, tuple | list | np.ndarray):
        return given
    parts = keras.utils.unpack_x_y_sample_weight(tuple(given) if isinstance(given, list) else given)
    if not _is_arrays(parts[0]):
        return given
    data = _arrays(*parts)
    size = _batch_size(batch_size, steps, data)
    return [_cut(data, at, at + size) for at in range(0, _rows(data), size)]


def _whole(steps: int | None, interval: int) -> int | None:
    """Return steps that fill all calls of so many steps: Keras rounds up, too."""
    return None if steps is None else -(-steps // interval) * interval


def _length(data: Any, batch_size: int) -> int | None:
    feed = open_feed(data, usual_batch_size=batch_size)
    feed.close()
    return feed.length


def _is_endless(x: Any) -> bool:
    return isinstance(x, keras.utils.PyDataset) and x.num_batches is None
