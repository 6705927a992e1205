"""What Keras's own ways to resume repeat and forget (KERAS_FACTS E14, E15)."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._step.state import snapshot, track

ROWS, BATCH, EPOCHS = 32, 4, 4
STEPS_AN_EPOCH = ROWS // BATCH


class Interrupted(Exception):
    pass


class InterruptAt(pg.Hook):
    def __init__(self, step):
        self.every = pg.Every(steps=step)
        self.step = step

    def on_steps(self, event):
        if event.clock.step == self.step:
            raise Interrupted


def rows():
    x = np.random.default_rng(5).normal(size=(ROWS, 3)).astype("float32")
    return x, x[:, :1]


def dropping_out():
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    return pg.Supervised(model, keras.optimizers.Adam(0.05), "mse")


def train(step, data, run, callbacks=(), **arguments):
    return pg.fit(
        step,
        data,
        epochs=EPOCHS,
        callbacks=callbacks,
        progress="off",
        run=pg.Run(run, save_every=pg.Every(steps=1)),
        **arguments,
    )


def values(step):
    tracked = track(step)
    found = snapshot(tracked.variables)
    return {e.key: v.tobytes() for e, v in zip(tracked.entries, found, strict=True)}


@pytest.fixture
def straight(tmp_path_factory):
    """Return what a training on arrays comes to that nothing interrupts."""
    step = dropping_out()
    train(step, rows(), tmp_path_factory.mktemp("straight"), batch_size=BATCH, seed=0)
    return values(step)


def test_e14_an_interrupted_epoch_repeats_no_batch_and_dropout_goes_on(tmp_path, straight):
    """`BackupAndRestore` makes 36 steps of 32, and resumes no epoch exactly with Dropout."""
    at, resumed = STEPS_AN_EPOCH + 4, dropping_out()
    with pytest.raises(Interrupted):
        train(dropping_out(), rows(), tmp_path / "run", [InterruptAt(at)], batch_size=BATCH, seed=0)

    train(resumed, rows(), tmp_path / "run", batch_size=BATCH, seed=0)

    assert int(resumed.optimizer.iterations) == EPOCHS * STEPS_AN_EPOCH
    assert values(resumed) == straight


def pipeline():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(rows()).shuffle(ROWS, seed=6).batch(BATCH)


@pytest.fixture
def straight_from_pipeline(tmp_path_factory):
    """Return what a training on a shuffled pipeline comes to that nothing interrupts."""
    pytest.importorskip("tensorflow")
    step = dropping_out()
    train(step, pipeline(), tmp_path_factory.mktemp("straight"))
    return values(step)


def test_e15_seeds_and_a_shuffled_pipeline_go_on_exactly_in_mid_epoch(
    tmp_path, straight_from_pipeline
):
    """No file of Keras's and no `tf.train.Checkpoint` holds the state of a SeedGenerator."""
    at, resumed = STEPS_AN_EPOCH + 4, dropping_out()
    with pytest.raises(Interrupted):
        train(dropping_out(), pipeline(), tmp_path / "run", [InterruptAt(at)])

    train(resumed, pipeline(), tmp_path / "run")

    assert any("seed" in key for key in straight_from_pipeline)
    assert values(resumed) == straight_from_pipeline
