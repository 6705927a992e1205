"""The results of metrics within an epoch, in every place where a training is logged."""

import sqlite3

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee.report import read_kept, render
from perigee.writers import Csv
from tests.project.pages import blocks_of
from tests.report.kept import points_of
from tests.writers import reading

EVERY = 3
ROWS = np.array([0.9, 0.2, 0.8, 0.7, 0.1, 0.6, 0.3, 0.4], "float32")[:, None]


class Counting(pg.Step):
    """Trains nothing, and tells how many rows are above one half."""

    def __init__(self):
        self.above = keras.metrics.BinaryAccuracy(name="above")

    def train_step(self, batch):
        self.above.update_state(ops.ones_like(batch), batch)
        return {"size": ops.mean(batch)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train for an epoch and a half with all writers, and return their folder."""
    folder = tmp_path_factory.mktemp("trained")
    run = pg.Run(folder / "run", record_every=pg.Every(steps=EVERY), tensorboard=True)
    namespace = {"__name__": "writers.md"}
    exec(blocks_of("writers.md")[0][1], namespace)
    database = namespace["Sqlite"](folder / "records.db")
    pg.fit(
        Counting(),
        ROWS,
        steps=12,
        batch_size=1,
        shuffle=False,
        run=run,
        callbacks=[Csv(folder / "log.csv"), database],
        progress="off",
    )
    return folder


SEEN = [*ROWS[:, 0], *ROWS[:4, 0]]  # an epoch, and half of another
SIZES = {step: float(np.mean(SEEN[step - EVERY : step])) for step in (3, 6, 9, 12)}
RUNNING = {3: 2 / 3, 6: 4 / 6, 9: 1 / 1, 12: 3 / 4}  # since the epoch began
EPOCHS = {8: 4 / 8, 12: 3 / 4}


def test_lines_of_json_name_them(trained):
    lines = reading.lines(trained / "run")

    windows = {line["step"]: line["values"] for line in lines if line["kind"] == "steps"}
    epochs = {line["step"]: line["values"] for line in lines if line["kind"] == "epoch"}
    assert {step: set(values) for step, values in windows.items()} == {
        step: {"size", "running/above"} for step in RUNNING
    }
    assert {s: v["size"] for s, v in windows.items()} == pytest.approx(SIZES)
    assert {s: v["running/above"] for s, v in windows.items()} == pytest.approx(RUNNING)
    assert {s: v["above"] for s, v in epochs.items()} == pytest.approx(EPOCHS)


def test_a_table_has_a_column_for_each_kind(trained):
    rows = reading.rows(trained / "log.csv")

    windows = {int(row["step"]): row for row in rows if row["kind"] == "steps"}
    assert {s: float(row["running/above"]) for s, row in windows.items()} == pytest.approx(RUNNING)
    assert all(row["above"] == "" for row in windows.values())
    assert all(row["running/above"] == "" for row in rows if row["kind"] == "epoch")


def test_tensorboard_has_a_curve_for_each_kind(trained):
    curves = reading.scalars(trained / "run")

    tags = {tag for _, tag in curves if "above" in tag}
    assert tags == {"batch_running/above", "epoch_above"}
    assert dict(curves["train", "batch_running/above"]) == pytest.approx(RUNNING)


def test_a_writer_of_a_users_own_gets_them_by_name(trained):
    database = sqlite3.connect(trained / "records.db")

    found = database.execute("select step, value from records where name = 'running/above'")

    assert dict(found.fetchall()) == pytest.approx(RUNNING)
    database.close()


def test_the_page_draws_them_in_the_chart_of_the_metric(trained):
    page = render([read_kept(trained / "run")])

    assert dict(points_of(page, "above", "running")) == pytest.approx(RUNNING)
    assert dict(points_of(page, "above", "training")) == pytest.approx(EPOCHS)
    assert dict(points_of(page, "size", "window")) == pytest.approx(SIZES)
    assert "running, over the epoch so far" in page
