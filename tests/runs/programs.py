"""Programs as users write them, whose settings can be changed one by one."""

import keras
import numpy as np
from keras import ops

import perigee as pg
from perigee._runs.changes import Changes, Record, changes_between, record_of
from perigee._runs.program import program_of
from perigee.data import open_feed

ROWS = 64


def arrays(rows=ROWS, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype("float32") + np.float32(shift)
    return x, x[:, :1] * 2


def model(units=3, activation="relu", rate=0.5, l2=None, frozen=False, extra=False, name=None):
    made = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                units,
                activation=activation,
                kernel_regularizer=None if l2 is None else keras.regularizers.L2(l2),
                name=name,
            ),
            *([keras.layers.Dense(units)] if extra else []),
            keras.layers.Dropout(rate),
            keras.layers.Dense(1),
        ]
    )
    made.layers[0].trainable = not frozen
    return made


def wired(swapped=False, factor=2.0):
    """A functional model whose connections can be changed, and nothing else."""
    x = keras.Input((4,))
    one = keras.layers.Dense(3)(x)
    other = keras.layers.Dense(3)(one)
    joined = keras.layers.Subtract()([other, one] if swapped else [one, other])
    return keras.Model(x, keras.layers.Dense(1)(joined * factor))


class Settings:
    """Settings of a user, in an object."""

    def __init__(self, margin=0.2, where="/data/a"):
        self.margin, self.where = margin, where


class Distill(pg.Step):
    """A step with attributes of all kinds."""

    def __init__(self, temperature=4.0, weights=(1.0, 2.0), mode="soft", lr=0.01, **more):
        self.student = model()
        self.optimizer = keras.optimizers.SGD(lr)
        self.temperature, self.weights, self.mode = temperature, list(weights), mode
        self.classes = frozenset(more.pop("classes", ("cat", "dog")))
        self.table = np.asarray(more.pop("table", np.arange(12.0)), "float32")
        self.use_mask = more.pop("use_mask", False)
        self.settings = Settings(more.pop("margin", 0.2), more.pop("where", "/data/a"))
        self.by_name = {"image": 1.0, "text": more.pop("text", 0.5)}
        self.run_name = more.pop("run_name", "first")  # read by no method
        self.verbose = more.pop("verbose", 0)
        self.seed = more.pop("seed", 1)
        self.count = more.pop("count", 0)
        self.folder = more.pop("folder", "/data/a")
        self.made_by = more.pop("made_by", object())
        self.scale = more.pop("scale", lambda value: value)

    def train_step(self, batch):
        self.count += 1  # a counter, not a setting
        return {"loss": self.minimize(lambda: self.objective(batch), self.optimizer, self.student)}

    def objective(self, batch):
        x, y = batch
        loss = ops.mean(ops.square(self.student(x, training=True) - y)) * self.temperature
        loss = loss * self.weights[0] + self.settings.margin * self.by_name["text"]
        if self.mode == "soft" and not self.use_mask and self.classes:
            loss = loss + ops.sum(ops.convert_to_tensor(self.table)) * 0
        if self.verbose:
            print(self.folder, self.seed, self.settings.where, self.made_by)
        return self.scale(loss)


class Counted(keras.callbacks.Callback):
    """A callback of a user, which changes what is trained."""

    def __init__(self, factor=0.5):
        super().__init__()
        self.factor = factor

    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.01 * self.factor


def supervised(loss="mse", optimizer=None, metrics=("mae",), kind=model, **more):
    step_more = {n: more.pop(n) for n in ("loss_weights", "class_weight") if n in more}
    optimizer = keras.optimizers.Adam(0.01) if optimizer is None else optimizer
    return pg.Supervised(kind(**more), optimizer, loss, list(metrics), **step_more)


ARGUMENTS = {"accumulate": 1, "nonfinite": "raise", "validate_every": pg.Every(epochs=1)}


def recorded(step=None, callbacks=(), data=None, validation=None, fed=None, **arguments) -> Record:
    """Return what a start of a program records."""
    step = supervised() if step is None else step
    given = {"data": arrays() if data is None else data}
    if validation is not None:
        given["validation"] = validation
    fed = {} if fed is None else fed
    feeds = {name: open_feed(each, **fed) for name, each in given.items()}
    found = record_of(
        program_of(step, callbacks),
        {**ARGUMENTS, **arguments},
        {name: (feeds[name], given[name]) for name in given},
    )
    for feed in feeds.values():
        feed.close()
    assert found.not_compared == {}
    return found


def between(was: Record, now: Record) -> Changes:
    """Compare two records, as they come back from the file."""
    import json

    kept = Record.from_facts(json.loads(json.dumps(was.facts(), allow_nan=False)))
    assert kept is not None
    return changes_between(kept, now)
