"""What a training leaves in its directory for the report, and that the report is there."""

import json
import time

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._runs import keeping
from tests.report.kept import points_of


def data(rows=64):
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype("float32")
    return x, x[:, :1]


def make():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    return pg.Supervised(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())


def facts(path):
    return json.loads((path / "run.json").read_text())


def test_the_page_is_there_when_training_ends(tmp_path):
    history = pg.fit(make(), data(), epochs=3, validation=data(), run=tmp_path, progress="off")

    page = (tmp_path / "report.html").read_text()
    assert [value for _, value in points_of(page, "loss")] == history.history["loss"]
    assert [value for _, value in points_of(page, "loss", "validation")] == (
        history.history["val_loss"]
    )


def test_the_time_that_was_spent_adds_up(tmp_path):
    began = time.perf_counter()
    history = pg.fit(make(), data(), epochs=3, validation=data(), run=tmp_path, progress="off")
    took = time.perf_counter() - began

    said = facts(tmp_path)
    assert said["spent"] == dict(history.spent)
    assert set(said["spent"]) == {"data", "device", "validation", "saving", "compiling", "host"}
    assert sum(said["spent"].values()) == pytest.approx(said["seconds"])
    assert said["seconds"] <= took
    assert min(said["spent"].values()) >= 0
    assert said["spent"]["compiling"] > 0
    if keras.backend.backend() != "torch":  # which has nothing to compile
        assert said["spent"]["compiling"] > 0.2 * took
    assert said["spent"]["saving"] > 0


def test_a_second_training_of_the_same_step_compiles_little():
    step = make()
    first = pg.fit(step, data(), epochs=2, batch_size=8, seed=0, progress="off")
    again = pg.fit(step, data(), epochs=2, batch_size=8, seed=0, progress="off")

    assert again.spent["compiling"] < 0.3 * first.spent["compiling"]


def test_run_json_says_what_was_asked_for_and_on_what_it_ran(tmp_path):
    pg.fit(make(), data(), epochs=2, batch_size=16, accumulate=2, run=tmp_path, progress="off")

    said = facts(tmp_path)
    configuration = said["configuration"]
    assert configuration["step"] == "Supervised"
    assert configuration["models"]["model"]["trainable"] == 4
    assert configuration["optimizers"]["optimizer"]["class"] == "SGD"
    assert configuration["optimizers"]["optimizer"]["learning_rate"] == pytest.approx(0.1)
    assert configuration["data"]["data"] == {"kind": "arrays", "batches": 4}
    assert configuration["arguments"]["accumulate"] == 2
    assert said["machine"]["cores"] >= 1 and said["machine"]["devices"]


def test_what_was_found_is_kept_also_after_one_epoch(tmp_path):
    class Frozen(pg.Step):
        def __init__(self):
            self.used = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            self.left = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            self.optimizer = keras.optimizers.SGD(0.1)

        def train_step(self, batch):
            x, y = batch
            loss = self.minimize(
                lambda: keras.ops.square(self.used(x) - y)[:, 0], self.optimizer, self.used
            )
            return {"loss": loss}

    with pytest.warns(pg.PerigeeWarning):
        history = pg.fit(Frozen(), data(), run=tmp_path, progress="off")

    found = facts(tmp_path)["findings"]
    assert [each["code"] for each in found] == [each.code for each in history.findings] != []
    assert found[0]["happened"] in (tmp_path / "report.html").read_text()


def test_a_report_that_fails_is_said_and_the_training_is_done(tmp_path, monkeypatch):
    def fail(directory):
        raise RuntimeError("no room")

    monkeypatch.setattr(keeping, "write_report", fail)

    with pytest.warns(RuntimeWarning, match=r"report.html was not written: RuntimeError: no room"):
        history = pg.fit(make(), data(), epochs=2, run=tmp_path, progress="off")

    assert history.stop_reason == "epochs"
    assert facts(tmp_path)["state"] == "ended"


def test_a_training_that_fails_has_a_page_that_says_so(tmp_path):
    step = make()
    x, y = data()
    y = np.full_like(y, np.inf)

    with pytest.raises(pg.PerigeeError):
        pg.fit(step, (x, y), run=tmp_path, progress="off")

    page = (tmp_path / "report.html").read_text()
    assert "What ended it" in page and "NonFiniteError" in page


def test_a_page_is_written_fast(tmp_path):
    pg.fit(make(), data(), epochs=50, validation=data(), run=tmp_path, progress="off")

    began = time.process_time()
    keeping.write_report(tmp_path)

    assert time.process_time() - began < 0.5  # some 0.02
