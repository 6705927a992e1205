"""Metrics that a step resets itself: their results cover one step, and nothing is left to log."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee.writers.json_lines import read_json_lines

ROWS = np.arange(10, dtype="float32")[:, None]


class Resetting(pg.Step):
    """Resets a metric after each update, and returns its result or not."""

    def __init__(self, returns=True, first=False):
        self.returns, self.first = returns, first
        self.kept = keras.metrics.Mean(name="kept")
        self.each = keras.metrics.Mean(name="each")

    def train_step(self, batch):
        self.kept.update_state(batch[:, 0])
        if self.first:
            self.each.reset_state()
        self.each.update_state(batch[:, 0])
        logs = {"loss": ops.mean(batch)}
        if self.returns:
            logs["each"] = self.each.result()
        if not self.first:
            self.each.reset_state()
        return logs

    test_step = train_step


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("calls", [1, "auto"])
def test_a_returned_result_is_the_mean_over_the_steps(first, calls):
    step = Resetting(first=first)

    history = pg.fit(
        step,
        ROWS,
        batch_size=4,
        epochs=2,
        progress="off",
        execution=pg.Execution(steps_per_call=calls),
    )

    assert history.history["kept"] == history.history["loss"] == [4.5, 4.5]
    assert history.history["each"] == pytest.approx([4.5, 4.5])


def test_a_metric_that_is_empty_after_each_step_is_not_logged(tmp_path):
    run = pg.Run(tmp_path / "run", record_every=pg.Every(steps=2))

    history = pg.fit(Resetting(False), ROWS, batch_size=2, run=run, progress="off")

    assert "each" not in history.history and history.history["kept"] == [4.5]
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    windows = [r["values"] for r in records if r["kind"] == "steps"]
    assert windows and not any("each" in name for values in windows for name in values)


def test_measuring_does_the_same():
    assert pg.evaluate(Resetting(), ROWS, batch_size=4)["each"] == pytest.approx(4.5)
    assert set(pg.evaluate(Resetting(False), ROWS, batch_size=4)) == {"loss", "kept"}
