"""A Step with all that makes training random and stateful, and all that a training comes to."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import perigee as pg
from perigee import _backends
from perigee._step.state import restore, snapshot, track
from perigee._step.updates import internals

BATCH, FEATURES = 3, 2
FUSES = _backends.current().capabilities.fuses
TAKES_RAGGED = "graph" in _backends.current().capabilities.fuses_ragged
TAKES_RAGGED_END = _backends.current().capabilities.fuses_ragged_end
STREAMS = _backends.current().capabilities.streams


class Everything(pg.Step):
    """Trains with dropout, noise, slots, a metric and a moving average, or without the draws."""

    def __init__(self, is_random: bool = True) -> None:
        keras.utils.set_random_seed(3)
        dropped = [keras.layers.Dropout(0.3, seed=1)] if is_random else []
        self.model = keras.Sequential(
            [keras.Input((FEATURES,)), keras.layers.Dense(4), *dropped, keras.layers.Dense(1)]
        )
        self.optimizer = keras.optimizers.SGD(0.02, momentum=0.9)
        self.noise = keras.random.SeedGenerator(5) if is_random else None
        self.moving = keras.Variable(0.0, trainable=False)
        self.size = keras.metrics.Mean(name="size")

    def train_step(self, batch: Any) -> dict[str, Any]:
        x = batch
        if self.noise is not None:
            x = x + 0.1 * keras.random.normal((FEATURES,), seed=self.noise)

        def objective() -> Any:
            errors = ops.square(self.model(x, training=True) - batch[:, :1])
            # A sum: in the gradient of a mean TensorFlow looks up how many values there are.
            return ops.sum(errors) / BATCH, errors

        loss, errors = self.minimize(objective, self.optimizer, self.model)
        self.size.update_state(ops.abs(x))
        self.moving.assign(0.9 * self.moving + 0.1 * ops.sum(x))
        return {"loss": loss, "error": pg.mean(errors)}

    def test_step(self, batch: Any) -> dict[str, Any]:
        y_pred = self.model(batch, training=True)  # draws
        self.size.update_state(ops.abs(y_pred))
        return {"error": pg.mean(ops.square(y_pred - batch[:, :1]))}


class Beginning:
    """Where a Step stands, once everything in it is built; the way back keeps what is compiled."""

    def __init__(self, step: pg.Step) -> None:
        self.step = step
        self._variables = track(step).variables
        self._values = snapshot(self._variables)

    def go_back(self) -> None:
        restore(self._variables, self._values)


class Counting(pg.Hook):
    """Keeps how many steps each call ran."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_steps(self, event: Any) -> None:
        self.counts.append(event.count)


class Telling(pg.Hook):
    """Keeps everything that it is told, but for the time; may ask to stop at a step."""

    def __init__(self, every: pg.Every | None, stop_at: int | None = None) -> None:
        self.every = every or pg.Every(epochs=1)  # of steps it is not told then
        self.told: list[Any] = []
        self._stop_at = stop_at

    def on_start(self, event: Any) -> None:
        self.told.append(("start", event.clock, event.epochs, event.steps, event.steps_per_epoch))

    def on_steps(self, event: Any) -> None:
        self.told.append(("steps", event.clock, dict(event.read())))
        if self._stop_at is not None and event.clock.step >= self._stop_at:
            event.stop("enough")

    def on_record(self, event: Any) -> None:
        self.told.append((event.scope, event.clock, dict(event.values)))

    def on_end(self, event: Any) -> None:
        self.told.append(("end", event.clock, event.reason))


class Calls(keras.callbacks.Callback):
    """Keeps each call but those for single batches, which would cut the blocks."""

    def __init__(self, last_epoch: int | None = None) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self._last_epoch = last_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self.calls.append(("train begin", dict(logs or {})))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(("epoch begin", epoch, dict(logs or {})))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(("epoch end", epoch, dict(logs or {})))
        if epoch == self._last_epoch:
            self.model.stop_training = True

    def on_test_begin(self, logs: Any = None) -> None:
        self.calls.append(("test begin", dict(logs or {})))

    def on_test_end(self, logs: Any = None) -> None:
        self.calls.append(("test end", dict(logs or {})))

    def on_train_end(self, logs: Any = None) -> None:
        self.calls.append(("train end", dict(logs or {})))


class BatchCalls(Calls):
    """Keeps the calls for single batches too."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.calls.append(("batch begin", batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.calls.append(("batch end", batch, dict(logs or {})))


@dataclass
class Outcome:
    """What a training came to."""

    state: dict[str, np.ndarray]
    history: dict[str, list[float]]
    clock: Any
    reason: str | None
    told: list[Any]
    calls: list[Any]
    plan: Any = field(repr=False)


def train(
    step: pg.Step,
    data: Any,
    *,
    record_every: pg.Every | None = None,
    hook_every: pg.Every | None = None,
    stop_at: int | None = None,
    last_epoch: int | None = None,
    looks_at_batches: bool = False,
    may_lag: bool = False,
    **arguments: Any,
) -> Outcome:
    """Train a Step, and return everything that can be compared."""
    telling, counting = Telling(hook_every, stop_at), Counting()
    telling.may_lag = counting.may_lag = may_lag
    calls = (BatchCalls if looks_at_batches else Calls)(last_epoch)
    with tempfile.TemporaryDirectory() as folder:
        run = record_every and pg.Run(Path(folder) / "run", record_every=record_every)
        history = pg.fit(
            step,
            data,
            run=run,
            callbacks=[telling, counting, calls],
            seed=11,
            progress="off",
            **arguments,
        )
    assert sum(counting.counts) == history.clock.step
    entries = track(step).entries
    values = snapshot([entry.variable for entry in entries])
    return Outcome(
        state={entry.key: value for entry, value in zip(entries, values, strict=True)},
        history=history.history,
        clock=history.clock,
        reason=history.stop_reason,
        told=telling.told,
        calls=calls.calls,
        plan=history.plan,
    )


def exact(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome in a form that is equal only bit for bit."""
    return {
        "state": {key: (value.dtype.str, value.tobytes()) for key, value in outcome.state.items()},
        "history": outcome.history,
        "clock": outcome.clock,
        "reason": outcome.reason,
        "told": outcome.told,
        "calls": outcome.calls,
    }


def numbers(tree: Any) -> tuple[Any, list[float]]:
    """Tell what is exact in a tree of records from the floating-point numbers in it, in order."""
    if isinstance(tree, float):
        return "number", [tree]
    if isinstance(tree, np.ndarray):
        if tree.dtype.kind != "f":
            return tree.tobytes(), []
        return ("array", tree.shape), tree.astype("float64").ravel().tolist()
    if isinstance(tree, dict):
        parts = [(key, numbers(value)) for key, value in tree.items()]
    elif isinstance(tree, list | tuple):
        parts = [(index, numbers(value)) for index, value in enumerate(tree)]
    else:
        return tree, []
    form = [(key, inner) for key, (inner, _) in parts]
    return form, [number for _, (_, inner) in parts for number in inner]


def rows(count: int) -> np.ndarray:
    """Return rows that are always the same, shape `(count, FEATURES)`."""
    return np.random.default_rng(4).normal(size=(count, FEATURES)).astype("float32")


def cut(array: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Return batches of these sizes, one after another."""
    ends = np.cumsum(sizes)
    return [array[end - size : end] for size, end in zip(sizes, ends, strict=True)]


class InBatches(keras.utils.PyDataset):
    """A list of batches as a `PyDataset`."""

    def __init__(self, batches: Sequence[Any]) -> None:
        super().__init__()
        self.batches = batches
        self.passes = 0

    @property
    def num_batches(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]

    def on_epoch_end(self) -> None:
        self.passes += 1


def tf_dataset(batches: Sequence[np.ndarray]) -> Any:
    """Return batches as a `tf.data.Dataset` that does not tell how many it holds."""
    import tensorflow as tf

    spec = tf.TensorSpec([None, *batches[0].shape[1:]], batches[0].dtype)
    return tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=spec)


def as_data(kind: str, batches: list[np.ndarray]) -> Any:
    """Return batches as data of some kind."""
    if kind == "arrays":
        return np.concatenate(batches)
    if kind == "function":
        return lambda: iter(batches)
    if kind == "PyDataset":
        return InBatches(batches)
    return tf_dataset(batches) if kind == "tf.data" else batches


HOST_KINDS = ["batches", "function", "PyDataset"]
KINDS = ["arrays", *HOST_KINDS, *(["tf.data"] if STREAMS else [])]


def traces(step: pg.Step) -> list[int]:
    """Return how often each method of a Step was compiled."""
    return [program.traces for program in internals(step).programs.values()]
