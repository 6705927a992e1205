"""Records within an epoch cover exactly the steps of their window, whatever happens in it."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee.writers import read_json_lines

BATCH, AN_EPOCH = 4, 13


class Summing(pg.Step):
    """Trains a kernel with a schedule; logs what can be computed from the rows alone."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        rate = keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5)
        self.optimizer = keras.optimizers.SGD(rate)
        self.size = keras.metrics.Mean(name="size")

    def train_step(self, batch):
        sums = ops.sum(batch, axis=1)
        self.size.update_state(sums)
        loss = self.minimize(
            lambda: ops.mean(ops.square(self.model(batch))), self.optimizer, self.model
        )
        return {"loss": loss, "sum": sums}


class Stop(pg.Hook):
    def __init__(self, step):
        self.every = pg.Every(steps=step)

    def on_steps(self, event):
        event.stop("deadline")


def records(path, rows, every, *hooks, **given):
    run = pg.Run(path, record_every=pg.Every(steps=every), save_every=pg.Every(steps=1))
    pg.fit(
        Summing(),
        rows,
        epochs=2,
        batch_size=BATCH,
        shuffle=False,
        progress="off",
        run=run,
        callbacks=[*hooks],
        **given,
    )
    lines = read_json_lines(path / "metrics.jsonl")
    return [(line["kind"], line["step"], line["values"]) for line in lines]


@pytest.mark.parametrize("cut_at", [5, 15])
@pytest.mark.parametrize(
    "every, given, bad",
    [
        (4, {}, []),
        (5, {"accumulate": 3}, []),
        (4, {"nonfinite": "skip"}, [9, 30]),
        (3, {"nonfinite": "skip", "accumulate": 2}, [9, 30]),
    ],
    ids=["plain", "accumulated", "skipped", "accumulated and skipped"],
)
def test_a_window_covers_its_steps_and_no_others(tmp_path, every, given, bad, cut_at):
    rows = np.random.default_rng(0).normal(size=(AN_EPOCH * BATCH, 3)).astype("float32")
    rows[bad] = np.nan
    sums = rows.sum(1).reshape(AN_EPOCH, BATCH)

    def mean(first, end):
        of_steps = [sums[step % AN_EPOCH] for step in range(first, end)]
        return np.mean([each for each in of_steps if np.isfinite(each).all()])

    logged = records(tmp_path / "whole", rows, every, **given)
    records(tmp_path / "cut", rows, every, Stop(cut_at), **given)

    assert records(tmp_path / "cut", rows, every, **given) == logged
    windows = [(step, values) for kind, step, values in logged if kind == "steps"]
    assert [step for step, _ in windows] == [*range(every, 2 * AN_EPOCH + 1, every)]
    for step, values in windows:
        assert values["sum"] == pytest.approx(mean(step - every, step), rel=1e-5)
        began = (step - 1) // AN_EPOCH * AN_EPOCH
        assert values["running/size"] == pytest.approx(mean(began, step), rel=1e-5)
    if not given:
        assert [values["learning_rate"] for _, values in windows] == pytest.approx(
            [0.1 / (1 + 0.5 * step) for step, _ in windows]
        )
