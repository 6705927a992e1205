"""A signal at any call of the user's code: the run is saved there, and resumes bit for bit."""

import json
import signal

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._step.state import snapshot, track
from perigee.checkpoints import Checkpoints, random_state
from perigee.writers.json_lines import read_json_lines

ROWS, BATCH, EPOCHS = 14, 8, 4
VALIDATED = 3
"""Batches a validation."""

pytestmark = [
    pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning"),
    pytest.mark.usefixtures("capfd"),
]


def rows(seed=0):
    x = np.random.default_rng(seed).normal(size=(ROWS, 3)).astype("float32")
    return x, x.sum(1, keepdims=True)


class Watching(keras.callbacks.Callback):
    """Counts its calls and those of the data; lets a signal come in one of them."""

    def __init__(self, at=None, number=signal.SIGINT):
        super().__init__()
        self.at, self.number = at, number
        self.calls, self.begun, self.measured, self.epochs = [], 0, 0, 0
        self.seen = None

    def called(self, what):
        self.calls.append(what)
        if self.at == len(self.calls) - 1:
            signal.raise_signal(self.number)

    def state(self):
        return {"begun": self.begun, "measured": self.measured, "epochs": self.epochs}

    def load_state(self, state):
        vars(self).update(state)

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1
        self.called("epoch begins")

    def on_epoch_end(self, epoch, logs=None):
        self.called("epoch ends")

    def on_train_batch_end(self, batch, logs=None):
        self.called("step")

    def on_test_begin(self, logs=None):
        self.begun += 1
        self.called("validation begins")

    def on_test_batch_end(self, batch, logs=None):
        self.measured += 1
        self.called("validation batch")

    def on_test_end(self, logs=None):
        self.called("validation ends")


class Noise(pg.Supervised):
    """Draws in training and in validation, and measures by a metric."""

    def __init__(self):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.4, seed=5)])
        model.add(keras.layers.Dense(1))
        super().__init__(
            model,
            keras.optimizers.Adam(0.05),
            keras.losses.MeanSquaredError(),
            metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
        )

    def test_step(self, batch):
        x, y = batch
        y_pred = self.model(x, training=True)
        self.metrics[0].update_state(y, y_pred)
        return {"loss": keras.ops.mean(keras.ops.square(y_pred - y))}


def train(path, watching, validation=None, **arguments):
    keras.utils.set_random_seed(7)
    x, y = rows(1)

    def drawn():
        watching.called("validation data")
        for i in range(VALIDATED):
            # The first batch is drawn before training begins, to rehearse the step on it.
            noise = np.random.normal(size=(4, 3)) if i else 0.0
            yield (x[4 * i : 4 * i + 4] + noise).astype("float32"), y[4 * i : 4 * i + 4]

    step = Noise()
    # The loss may fall as it likes: it stops after three epochs without a higher one.
    stops = keras.callbacks.EarlyStopping("loss", mode="max", patience=2)
    arguments = {"epochs": EPOCHS, "execution": "eager", **arguments}
    history = pg.fit(
        step,
        rows(),
        batch_size=BATCH,
        validation=drawn if validation is None else validation,
        callbacks=[watching, stops],
        run=pg.Run(path, save_every=arguments.pop("save_every", pg.Every(epochs=2))),
        progress="off",
        seed=3,
        **arguments,
    )
    state = {e.key: v for e, v in zip(track(step).entries, snapshot(track(step).variables))}
    records = [
        {k: repr(v) for k, v in line.items() if k != "seconds"}
        for line in read_json_lines(path / "metrics.jsonl")
        if line["kind"] != "finding"
    ]
    return {
        "state": {key: value.tobytes().hex() for key, value in state.items()},
        "history": history.history,
        "clock": history.clock,
        "reason": history.stop_reason,
        "records": records,
        "watching": watching.state(),
        "random": json.dumps(random_state()),
    }


def interrupted(path, at, **arguments):
    """Train with a signal at a call; return the calls, and those that followed the signal."""
    watching = Watching(at)
    with pytest.raises(KeyboardInterrupt):
        train(path, watching, **arguments)
    return watching.calls, watching.calls[at + 1 :]


WAYS = {
    "epochs": {},
    "steps": {"validate_every": pg.Every(steps=3), "save_every": pg.Every(steps=2)},
    "accumulated": {"epochs": 2, "accumulate": 3},
    "to a step": {"epochs": None, "steps": 3},
}


@pytest.mark.spread(2)
@pytest.mark.parametrize("way", WAYS)
def test_a_signal_at_any_call_changes_nothing(tmp_path, way):
    watching = Watching()
    straight = train(tmp_path / "straight", watching, **WAYS[way])
    calls = watching.calls
    assert {"validation batch", "validation data", "epoch ends", "step"} <= {*calls}

    for at in range(len(calls)):
        path = tmp_path / f"run-{at}"
        made, after = interrupted(path, at, **WAYS[way])
        resumed = train(path, Watching(), **WAYS[way])

        for name, value in straight.items():
            assert resumed[name] == value, (at, calls[at], name)
        assert made[: at + 1] == calls[: at + 1]
        assert "step" not in after and "epoch begins" not in after, (at, calls[at], after)
        assert after.count("validation batch") <= (calls[at] == "validation data"), (at, after)
