"""Trainings of which an earlier version of Perigee left a run directory each, in `tests/runs/old`.

They were written on TensorFlow by the source of commit 80485df, and cut short in their third epoch:

    git worktree add --detach ../then 80485df
    cd ../then
    PYTHONPATH=src KERAS_BACKEND=tensorflow python $OLDPWD/tests/runs/old_runs.py

`expected.json` holds what the same source made of the same trainings where nothing cut them short.
The files are never written again: later versions must resume what is there.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np

import perigee as pg
from perigee._step.state import snapshot, track

PLACE = Path(__file__).parent / "old"
ROWS, BATCH, EPOCHS = 20, 4, 4
STEPS_AN_EPOCH = ROWS // BATCH
CUT_AT = 2 * STEPS_AN_EPOCH + 3


class Cut(pg.Hook):
    """Leaves the training as a `Preemption` does."""

    every = pg.Every(steps=CUT_AT)

    def on_steps(self, event):
        if event.clock.step == CUT_AT:
            event.stop("deadline")


class Remember(keras.callbacks.Callback):
    """A callback of a user's, which counts and collects."""

    def __init__(self, weight=2.0):
        super().__init__()
        self.weight, self.epochs, self.losses, self.table = weight, 0, [], {}

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.losses.append(self.weight * logs["loss"])
        self.table[f"epoch {epoch}"] = {"loss": logs["loss"]}


class Rows(keras.utils.PyDataset):
    """Rows in batches, in a new order each epoch."""

    def __len__(self):
        return STEPS_AN_EPOCH

    def __getitem__(self, index):
        return tuple(part[index * BATCH : (index + 1) * BATCH] for part in rows())


def rows() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(5).normal(size=(ROWS, 3)).astype("float32")
    return x, x[:, :1] - 2 * x[:, 1:2]


def model() -> keras.Model:
    keras.utils.set_random_seed(2)
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "tanh"), layers.BatchNormalization(), layers.Dense(1)]
    )


def with_callbacks(path: Path, *hooks: pg.Hook) -> dict[str, Any]:
    """Train with callbacks, validation and a best value."""
    step = pg.Supervised(model(), keras.optimizers.Adam(0.05), "mse")
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=3),
        keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=2.0),
        Remember(),
    ]
    history = pg.fit(
        step,
        rows(),
        batch_size=BATCH,
        epochs=EPOCHS,
        seed=1,
        validation=rows(),
        callbacks=[*callbacks, *hooks],
        progress="off",
        run=pg.Run(path, best="val_loss", keep=2),
    )
    stopping, reducing, own = callbacks
    known = {
        "best": stopping.best,
        "wait": [stopping.wait, reducing.wait],
        "rate": float(step.optimizer.learning_rate),
        "epochs": own.epochs,
        "losses": own.losses,
        "table": own.table,
    }
    return outcome(step, history, known)


def accumulated(path: Path, *hooks: pg.Hook) -> dict[str, Any]:
    """Train on a `PyDataset`, two batches an update."""
    step = pg.Supervised(model(), keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    history = pg.fit(
        step,
        Rows(),
        shuffle=True,
        epochs=EPOCHS,
        seed=3,
        accumulate=2,
        callbacks=hooks,
        progress="off",
        run=pg.Run(path, save_every=pg.Every(steps=2), keep=2),
    )
    return outcome(step, history, {})


def outcome(step: pg.Step, history: Any, known: dict[str, Any]) -> dict[str, Any]:
    tracked = track(step)
    values = snapshot(tracked.variables)
    return {
        "weights": {
            entry.key: np.asarray(value).tolist()
            for entry, value in zip(tracked.entries, values, strict=True)
        },
        "history": history.history,
        "callbacks": known,
        "step": history.clock.step,
    }


TRAININGS = {"with_callbacks": with_callbacks, "accumulated": accumulated}


def main() -> None:
    sys.argv = ["train.py"]
    expected = {}
    for name, train in TRAININGS.items():
        expected[name] = train(PLACE / "straight")
        train(PLACE / name, Cut())
        shutil.rmtree(PLACE / "straight")
        for left in ("run.lock", "report.html"):  # they name a machine, and a place on it
            (PLACE / name / left).unlink()
    (PLACE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
