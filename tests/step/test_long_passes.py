"""Logs stay exact over very long passes, and under mixed precision."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.averages import Column, Tally

STEPS, ROWS = 10_000_000, 100
"""A billion examples, of which float32 could not even count the last ones."""


def test_a_mean_over_ten_million_steps_is_exact():
    columns, tally = (Column("loss", "mean"), Column("skipped", "sum")), Tally()
    draw, total, part = np.random.default_rng(0), 0.0, STEPS // 10
    for _ in range(10):
        rows = np.empty((part, 2, 2), "float32")
        rows[:, 0, 0] = draw.normal(0.1, 1.0, part)
        rows[:, 1, 0], rows[..., 1] = 1.0, ROWS
        tally.add(columns, rows)
        total += rows[:, 0, 0].astype("float64").sum()

    means = tally.means()

    assert means["loss"] == pytest.approx(total / STEPS, rel=1e-9)
    assert means["skipped"] == STEPS


class Measuring(pg.Step):
    def __init__(self, policy):
        keras.utils.set_random_seed(3)
        self.model = keras.Sequential(
            [keras.Input((8,)), keras.layers.Dense(16, "tanh", dtype=policy)]
        )

    def test_step(self, batch):
        y = self.model(batch)
        return {"mean": ops.mean(y * y), "values": ops.mean(ops.abs(y), axis=-1)}


@pytest.mark.parametrize("policy, epsilon", [("mixed_float16", 1e-3), ("mixed_bfloat16", 8e-3)])
def test_logs_under_mixed_precision_are_those_of_float32(policy, epsilon):
    x = np.random.default_rng(1).normal(size=(64 * 400, 8)).astype("float32")

    exact = pg.evaluate(Measuring("float32"), x, batch_size=64)
    found = pg.evaluate(Measuring(policy), x, batch_size=64)

    assert found == pytest.approx(exact, rel=epsilon)
