"""One training with everything that a resume could lose, and ways to be killed in it."""

import hashlib
import importlib.util
import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if "XDG_CACHE_HOME" in os.environ:  # one process of many compiles
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.environ["XDG_CACHE_HOME"] + "/jax")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import keras
import numpy as np

if importlib.util.find_spec("tensorflow"):  # Keras imports it to seed it, whatever runs
    importlib.import_module("tensorflow")

import perigee as pg
from perigee._api import fit
from perigee._step.state import snapshot, track
from perigee.checkpoints import random_state
from perigee.steps.supervised import Supervised  # noqa: F401
from perigee.writers.json_lines import read_json_lines
from perigee.writers.tensorboard import TensorBoard  # noqa: F401

ROWS, FEATURES, BATCH = 43, 5, 8
STEPS_AN_EPOCH = -(-ROWS // BATCH)
EPOCHS = 3
SAVE_EVERY = 4
VALIDATE_EVERY = 5
LEARNING_RATE = 0.02

assert fit.fit


@dataclass(frozen=True)
class Case:
    """A training.

    Attributes:
        data: A name in `feed`.
        mode: Of the execution.
        steps_per_call: Of the execution.
        accumulate: As in `fit`.
        nonfinite: As in `fit`; with `"skip"` one row is not a number.
        optimizers: Two, one of them with a schedule; or one that a Keras callback slows down.
    """

    data: str = "arrays"
    mode: Literal["auto", "eager", "graph", "xla"] = "auto"
    steps_per_call: int | Literal["auto"] = "auto"
    accumulate: int = 1
    nonfinite: Literal["raise", "skip"] = "raise"
    optimizers: Literal["one", "two"] = "two"

    def __str__(self) -> str:
        usual = asdict(Case())
        named = [f"{v}" for k, v in asdict(self).items() if v != usual[k] or k == "data"]
        return "-".join(named)


@dataclass(frozen=True)
class Kill:
    """An instant at which a process kills itself.

    Attributes:
        when: `"step"`: after that step, before anything that follows it; `"epoch"`: when the epoch
            of that number begins, counted from 0; `"validation"`: before the batch of that number,
            counted from 1 over all validations.
        number: Which.
    """

    when: Literal["step", "epoch", "validation"]
    number: int

    def __str__(self) -> str:
        return f"{self.when}-{self.number}"


FIRST_STEP = Kill("step", 1)
MID_EPOCH = Kill("step", STEPS_AN_EPOCH + 3)
LAST_BATCH = Kill("step", 2 * STEPS_AN_EPOCH)
EPOCH_BOUNDARY = Kill("epoch", 2)
IN_VALIDATION = Kill("validation", 5)
KILLS = [FIRST_STEP, MID_EPOCH, LAST_BATCH, EPOCH_BOUNDARY, IN_VALIDATION]


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Everything(pg.Step):
    """Dropout, BatchNorm, moving averages of weights, optimizers, a metric, and a replay buffer."""

    def __init__(self, optimizers: str = "two", units: int = 6):
        layers = keras.layers
        self.trunk = keras.Sequential(
            [
                keras.Input((FEATURES,)),
                layers.Dense(units, activation="tanh"),
                layers.BatchNormalization(),
                layers.Dropout(0.3),
            ]
        )
        self.head = keras.Sequential([keras.Input((units,)), layers.Dense(1)])
        rate: Any = LEARNING_RATE
        if optimizers == "two":
            rate = keras.optimizers.schedules.ExponentialDecay(LEARNING_RATE, 3, 0.9)
            self.second = keras.optimizers.SGD(LEARNING_RATE, momentum=0.9)
        self.optimizer = keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.8)
        self.error = keras.metrics.MeanSquaredError(name="error")
        self.replay: list[float] = []

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.head(self.trunk(x, training=True), training=True)
            return keras.ops.mean(keras.ops.square(y_pred - y)), y_pred

        trunk, head = self.trunk.trainable_variables, self.head.trainable_variables
        if not hasattr(self, "second"):
            loss, y_pred = self.minimize(objective, self.optimizer, trunk + head)
        else:
            loss, y_pred = self.minimize(objective, self.optimizer, trunk)
            self.minimize(objective, self.second, head)
        self.error.update_state(y, y_pred)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        y_pred = self.head(self.trunk(x, training=False), training=False)
        self.error.update_state(y, y_pred)
        return {"loss": keras.ops.mean(keras.ops.square(y_pred - y))}

    def host_state(self):
        return {"replay": list(self.replay)}

    def load_host_state(self, state):
        self.replay = list(state["replay"])


class Remember(pg.Hook):
    """Fills the replay buffer with numbers of the global generators."""

    every = pg.Every(steps=3)

    def __init__(self, step: Everything, draws_from_numpy: bool) -> None:
        self.step, self.draws_from_numpy = step, draws_from_numpy

    def on_steps(self, event):
        drawn = np.random.normal() if self.draws_from_numpy else 0.0
        self.step.replay.append(event.clock.step + random.random() + drawn)


class KillAtStep(pg.Hook):
    """Does something after a step, if told of one, however large the blocks are until then."""

    def __init__(self, step: int | None, act: Callable[[], None] = kill_this_process) -> None:
        self.every = pg.Every(steps=step or 10**9)
        self.step, self.act = step, act

    def on_steps(self, event):
        if event.clock.step == self.step:
            self.act()


class Logbook(keras.callbacks.Callback):
    """Writes down every call, and kills the process at one of them."""

    def __init__(self, kill: Kill | None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.validated = 0
        self._kill_at = lambda when, number: kill == Kill(when, number) and kill_this_process()

    def on_epoch_begin(self, epoch, logs=None):
        self._kill_at("epoch", epoch)
        self.calls.append(f"epoch {epoch} begins")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch} ends with {json.dumps(logs, sort_keys=True)}")

    def on_test_begin(self, logs=None):
        self.calls.append("validation begins")

    def on_test_batch_begin(self, batch, logs=None):
        self.validated += 1
        self._kill_at("validation", self.validated)

    def on_test_end(self, logs=None):
        self.calls.append("validation ends")


def rows(nonfinite: str = "raise") -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(11)
    x = generator.normal(size=(ROWS, FEATURES)).astype("float32")
    y = (x @ np.linspace(-1, 1, FEATURES, dtype="float32"))[:, None]
    if nonfinite == "skip":
        x[ROWS // 3] = np.nan
    return x, y


def feed(case: Case) -> Any:
    """Return the data of a case."""
    x, y = rows(case.nonfinite)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, ROWS, BATCH)]

    def drawn():
        for i in np.random.permutation(len(batches)):
            a, b = batches[i]
            yield a + np.random.normal(size=a.shape).astype("float32"), b

    class Rows(keras.utils.PyDataset):
        def __len__(self):
            return len(batches)

        def __getitem__(self, index):
            return batches[index]

    def shuffled():
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(ROWS, seed=5).batch(BATCH)

    def by_index():
        import tensorflow as tf

        def nth(i):
            passes, index = i // ROWS, i % ROWS
            at = tf.random.experimental.index_shuffle(index, [1, passes], ROWS - 1)
            return tf.gather(x, at), tf.gather(y, at)

        return tf.data.Dataset.range(ROWS * EPOCHS).map(nth).batch(BATCH)

    def data_loader():
        import torch

        tensors = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
        order = torch.Generator().manual_seed(4)
        return torch.utils.data.DataLoader(tensors, BATCH, shuffle=True, generator=order)

    made: dict[str, Callable[[], Any]] = {
        "arrays": lambda: (x, y),
        "pydataset": Rows,
        "list": lambda: batches,
        "generator": lambda: lambda: iter(batches),
        "drawn": lambda: drawn,
        "tf.data": shuffled,
        "tf.data-by-index": by_index,
        "torch": data_loader,
    }
    return made[case.data]()


def keras_callbacks(case: Case, kill: Kill | None) -> list[Any]:
    made: list[Any] = [
        Logbook(kill),
        keras.callbacks.EarlyStopping("val_loss", patience=8, restore_best_weights=True),
    ]
    if case.optimizers == "one":
        made.append(keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.5))
    return made


def train(
    path: str,
    case: Case,
    kill: Kill | None = None,
    more: tuple[Any, ...] = (),
    data: Any = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Run the command that a case is, and return all that can be compared afterwards."""
    keras.utils.set_random_seed(3)
    step = Everything(case.optimizers)
    callbacks = keras_callbacks(case, kill)
    at = kill.number if kill and kill.when == "step" else None
    hooks = [Remember(step, case.data != "drawn"), *more, KillAtStep(at)]
    if case.data in ("arrays", "pydataset"):
        arguments = {"batch_size" if case.data == "arrays" else "shuffle": BATCH} | arguments
    if case.data == "pydataset":
        arguments["shuffle"] = True
    if case.data == "tf.data-by-index":
        arguments["steps_per_epoch"] = STEPS_AN_EPOCH
    arguments.setdefault("epochs", EPOCHS)
    run = pg.Run(path, **{**RUN, **arguments.pop("run", {})})
    history = pg.fit(
        step,
        feed(case) if data is None else data,
        validation=rows(),
        validate_every=pg.Every(steps=VALIDATE_EVERY),
        accumulate=case.accumulate,
        nonfinite=case.nonfinite,
        execution=pg.Execution(case.mode, case.steps_per_call),
        callbacks=[*callbacks, *hooks],
        progress="off",
        run=run,
        **arguments,
    )
    return outcome(path, step, history, callbacks)


RUN: dict[str, Any] = {
    "save_every": pg.Every(steps=SAVE_EVERY),
    "record_every": pg.Every(steps=3),
    "best": "val_loss",
    "tensorboard": True,
}


def outcome(path: str, step: Everything, history: Any, callbacks: list[Any]) -> dict[str, Any]:
    return {
        "state": state_of(step),
        "global generators": digest(json.dumps(random_state())),
        "host": step.host_state(),
        "history": history.history,
        "epochs": history.epoch,
        "clock": asdict(history.clock),
        "stop_reason": history.stop_reason,
        "metrics": metrics(path),
        "events": events(path),
        "callbacks": [plain(callback) for callback in callbacks],
    }


def state_of(step: pg.Step) -> dict[str, str]:
    """Return a checksum of every variable, by its key."""
    tracked = track(step)
    values = snapshot(tracked.variables)
    return {entry.key: digest(v) for entry, v in zip(tracked.entries, values, strict=True)}


def digest(value: Any) -> str:
    content = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
    return hashlib.sha256(content).hexdigest()


def metrics(path: str) -> list[Any]:
    """Return the lines of `metrics.jsonl` without their times."""
    lines = read_json_lines(Path(path, "metrics.jsonl"))
    return [{k: repr(v) for k, v in line.items() if k != "seconds"} for line in lines]


def events(path: str) -> list[Any]:
    """Return the scalars of TensorBoard's files."""
    from tests.writers.reading import scalars

    return sorted([*key, [list(pair) for pair in v]] for key, v in scalars(Path(path)).items())


def plain(callback: Any) -> dict[str, Any]:
    """Return what a callback knows."""
    known = {k: v for k, v in vars(callback).items() if isinstance(v, int | float | str | list)}
    known.pop("min_delta", None)  # Keras turns its sign when it is first used
    weights = known.pop("best_weights", None) or []
    return known | {"best_weights": [digest(w) for w in itertools.chain(weights)]}


if __name__ == "__main__":
    path, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    print(json.dumps(train(path, case)))
