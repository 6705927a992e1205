"""One process of several that train together on JAX, and write what they came to.

    KERAS_DISTRIBUTION_...=... python -m tests.distribution.train_together FOLDER WHAT...

Each WHAT is a function of this module, and all of them run in one process: a framework takes
seconds to import, and processes take as long to find each other.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np

import perigee as pg
from perigee import _backends, _state

ROWS, BATCH, INPUTS = 44, 16, 6
EPOCHS = 4
"""Three batches an epoch; the last one has 12 rows, which are halved too."""
RAGGED_ROWS = 39
"""With these, the last batch has 7 rows, which are not."""
SAVE_EVERY = 4


class Classifier(pg.Step):
    """Statistics, random draws, a metric and clipping: what is easily done for each process."""

    def __init__(self):
        layers = [
            keras.layers.Dense(8, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.25, seed=3),
            keras.layers.Dense(3),
        ]
        self.model = keras.Sequential([keras.Input((INPUTS,)), *layers])
        self.optimizer = keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.5)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.model(x, training=True)
            return self.loss(y, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        logits = self.model(x, training=False)
        self.accuracy.update_state(y, logits)
        return {"loss": self.loss(y, logits)}


def data(rows=ROWS):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, INPUTS)).astype("float32")
    return x, random.integers(3, size=rows).astype("int32")


def make_step():
    """Return a Step, with the names that Keras gives in a new process."""
    distribution = keras.distribution.distribution()
    keras.utils.clear_session()  # which forgets the distribution
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(7)
    return Classifier()


def fit(step, rows=ROWS, *, epochs=EPOCHS, steps_per_call=8, seed=5, **arguments):
    return pg.fit(
        step,
        data(rows),
        epochs=epochs,
        batch_size=BATCH,
        seed=seed,
        progress="off",
        execution=pg.Execution(steps_per_call=steps_per_call),
        **arguments,
    )


def outcome(step, history):
    """Return what a training came to, for JSON."""
    entries = _state.track(step).entries
    return {
        "history": history.history,
        "reason": history.stop_reason,
        "values": {e.key: np.asarray(e.variable, "float64").tolist() for e in entries},
    }


def in_blocks(folder):
    step = make_step()
    history = fit(step, seed=None, validation=data(RAGGED_ROWS), run=folder / "in_blocks")
    return outcome(step, history)


def step_by_step(folder):
    step = make_step()
    return outcome(step, fit(step, RAGGED_ROWS, steps_per_call=1))


def shares(folder):
    """Return which rows of a batch this process was given."""
    spread = _backends.current().spread(np.arange(2 * BATCH), None, BATCH)
    return sorted(int(i) for shard in spread.addressable_shards for i in np.ravel(shard.data))


def signaled_in_one(folder):
    """A signal comes to one process alone; each returns the last step that it finished."""
    steps = []

    class Signal(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            steps.append(event.clock.step)
            if jax.process_index() == jax.process_count() - 1 and event.clock.step == 5:
                os.kill(os.getpid(), signal.SIGINT)

    with contextlib.suppress(KeyboardInterrupt):
        fit(make_step(), epochs=100, run=folder / "signaled", callbacks=[Signal()])
    return steps[-1]


def other_batches(folder):
    x, y = data()
    others = x + jax.process_index(), y
    return refusal(lambda: pg.fit(make_step(), others, batch_size=BATCH, progress="off"))


def no_distribution(folder):
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        return refusal(lambda: fit(Classifier()))
    finally:
        keras.distribution.set_distribution(distribution)


def split_kernels(folder):
    """Kernels are split over the processes."""
    distribution = keras.distribution.distribution()
    mesh = keras.distribution.DeviceMesh(
        (1, jax.process_count()), ("batch", "model"), keras.distribution.list_devices()
    )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*/dense/kernel"] = (None, "model")
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")
    )
    try:
        return refusal(lambda: fit(make_step()))
    finally:
        keras.distribution.set_distribution(distribution)


def refusal(call):
    try:
        call()
    except pg.PerigeeError as error:
        return [error.code, str(error)]
    return None


def never_killed(folder):
    step = make_step()
    run = pg.Run(folder / "straight", save_every=pg.Every(steps=SAVE_EVERY))
    return outcome(step, fit(step, run=run, steps_per_call=1))


def to_be_killed(folder):
    """Train, and be killed after a step where there is a file that says so."""
    step = make_step()
    plan = folder / f"kill-{jax.process_index()}"
    dies_at = int(plan.read_text()) if plan.exists() else None

    class Death(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            if event.clock.step == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)

    run = pg.Run(folder / "killed", save_every=pg.Every(steps=SAVE_EVERY))
    history = fit(step, run=run, steps_per_call=1, callbacks=[Death()])
    return outcome(step, history)


def main(folder, names):
    if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
        keras.distribution.initialize()
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    for name in names:
        found = globals()[name](folder)
        path = folder / f"{name}-{jax.process_index()}-of-{jax.process_count()}.json"
        path.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
