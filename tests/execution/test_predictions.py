"""Predictions of many batches in one call are those of single batches."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._execution.program import Program, _predictions_a_block
from perigee._execution.timing import timed_by
from tests.execution.trainings import BATCH, FEATURES, FUSES, KINDS, as_data, cut, rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draws", [False, True])
def test_predictions_of_blocks_are_those_of_single_batches(kind, draws):
    class Predicting(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dropout(0.5)])

        def predict_step(self, batch):
            return {"y": self.model(batch, training=draws), "first": batch[0, :1]}

    given = cut(rows(32), [BATCH] * 10 + [2])
    step, found = Predicting(), {}

    for steps_per_call in (1, 4, "auto"):
        data = as_data(kind, given)
        options = {"batch_size": BATCH} if kind == "arrays" else {}
        execution = pg.Execution(steps_per_call=steps_per_call)
        found[steps_per_call] = pg.predict(step, data, execution=execution, seed=1, **options)
        first = pg.predict(step, data, execution=execution, steps=6, seed=1, **options)
        assert np.array_equal(first["y"], found[steps_per_call]["y"][: 6 * BATCH])

    assert found[1]["y"].shape == (32, FEATURES)
    assert np.array_equal(found[1]["first"], np.stack([batch[0, 0] for batch in given]))
    for other in (4, "auto"):
        for name in ("y", "first"):
            assert np.array_equal(found[other][name], found[1][name])


@pytest.mark.skipif(not FUSES, reason="the framework runs one step a call")
def test_predictions_run_in_blocks_no_larger_than_asked_or_than_their_size_allows(monkeypatch):
    counts, original = [], Program.run_block

    def run_block(self, arrays, batch_size, first, count):
        counts.append(count)
        return original(self, arrays, batch_size, first, count)

    monkeypatch.setattr(Program, "run_block", run_block)

    class Predicting(pg.Step):
        def predict_step(self, batch):
            return batch

    step, x = Predicting(), rows(10 * BATCH + 1)
    pg.predict(step, x, batch_size=BATCH, execution=pg.Execution(steps_per_call=4))
    assert counts == [4, 4, 2]

    counts.clear()
    monkeypatch.setitem(
        _predictions_a_block.__globals__, "_PREDICTED_BYTES", 3 * 8 * BATCH * FEATURES
    )
    with timed_by(lambda: 0.0):  # nothing takes long, so that blocks grow as far as they can
        pg.predict(Predicting(), x, batch_size=BATCH)
    assert counts == [1, 1, 3, 3, 2]
