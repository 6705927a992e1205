"""What an eager step changes in attributes is its state, on every framework."""

import random
from collections import deque

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import CheckpointContentError, KeptTensorError
from perigee.testing import verify_resume

ROWS, BATCH, EPOCHS = 12, 4, 2
STEPS = ROWS // BATCH * EPOCHS


def data():
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


class Schedule:
    """Lowers a rate: an object of the user's, with plain attributes."""

    def __init__(self):
        self.calls, self.rate = 0, 1.0

    def next(self):
        self.calls += 1
        self.rate *= 0.9
        return self.rate


class Collecting(pg.Step):
    """Changes numbers, containers, generators, arrays, tensors and an object in each step."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.count, self.last, self.seen = 0, None, []
        self.recent, self.by_parity = deque(maxlen=2), {"odd": 0, "even": 0}
        self.noise, self.dice = np.random.default_rng(3), random.Random(4)
        self.rows = np.zeros(3)
        self.average, self.tree = ops.zeros((3,)), {"low": [ops.ones(())]}
        self.schedule = Schedule()

    def train_step(self, batch):
        x, y = batch
        self.count += 1
        self.by_parity["odd" if self.count % 2 else "even"] += 1
        self.rows += ops.convert_to_numpy(x).sum(axis=0)
        self.average = 0.9 * self.average + 0.1 * ops.mean(x, axis=0)
        self.tree = {"low": [ops.minimum(self.tree["low"][0], ops.min(x))]}
        scale = float(self.noise.uniform(0.5, 1)) * self.dice.random() * self.schedule.next()
        scale *= min(1.0, self.count / 4) * (2.0 if self.last is None else 1.0)

        def objective():
            return scale * ops.mean((self.model(x, training=True) - y) ** 2)

        loss = self.minimize(objective, self.optimizer, self.model)
        self.last = float(loss)
        self.seen.append(self.last)
        self.recent.append(self.last)
        return {"loss": loss, "average": ops.mean(self.average), "low": self.tree["low"][0]}


def attributes(step):
    """Everything that a step of this kind changes in attributes, as plain values."""
    return {
        "count": step.count,
        "last": step.last,
        "seen": step.seen,
        "recent": list(step.recent),
        "by_parity": step.by_parity,
        "noise": step.noise.bit_generator.state["state"],
        "dice": step.dice.getstate(),
        "rows": step.rows.tolist(),
        "average": ops.convert_to_numpy(step.average).tolist(),
        "tree": float(step.tree["low"][0]),
        "schedule": (step.schedule.calls, step.schedule.rate),
    }


GIVEN = {"batch_size": BATCH, "shuffle": False, "progress": "off", "execution": "eager"}


def by_hand():
    """Train without Perigee's loop: each step once, on each batch in order."""
    step, (x, y) = Collecting(), data()
    step.optimizer.build(step.model.trainable_variables)
    for start in [*range(0, ROWS, BATCH)] * EPOCHS:
        step.train_step((ops.array(x[start : start + BATCH]), ops.array(y[start : start + BATCH])))
    return step


@pytest.fixture(scope="module")
def trained():
    step = Collecting()
    pg.fit(step, data(), epochs=EPOCHS, **GIVEN)
    return attributes(step)


def test_each_step_changes_them_once(trained):
    assert trained["count"] == STEPS and len(trained["seen"]) == STEPS
    assert trained["schedule"] == (STEPS, pytest.approx(0.9**STEPS))
    assert trained["by_parity"] == {"odd": STEPS / 2, "even": STEPS / 2}


def test_a_validation_and_a_check_change_none(trained):
    class Validated(Collecting):
        def test_step(self, batch):
            self.average = self.average * 0.0
            return {"loss": ops.mean((self.model(batch[0]) - batch[1]) ** 2)}

    step = Validated()
    pg.check(step, data())
    pg.fit(step, data(), validation=data(), epochs=EPOCHS, **GIVEN)

    assert attributes(step) == trained


def test_a_run_resumes_bit_for_bit():
    given = {name: value for name, value in GIVEN.items() if name != "progress"}
    verify_resume(Collecting, data, steps=STEPS, at=4, arguments=given)


def test_a_resumed_run_has_them(trained, tmp_path):
    for epochs in (1, EPOCHS):
        step = Collecting()
        pg.fit(step, data(), epochs=epochs, run=tmp_path / "run", **GIVEN)

    assert attributes(step) == trained


def test_they_are_restored_for_use(trained, tmp_path):
    pg.fit(Collecting(), data(), epochs=EPOCHS, run=tmp_path / "run", **GIVEN)

    step = Collecting()
    pg.Run(tmp_path / "run").restore(step)

    assert attributes(step) == trained


def test_what_no_checkpoint_can_hold_is_refused_before_the_first_step(tmp_path):
    class Holding(Collecting):
        def train_step(self, batch):
            self.places.append(object())
            return super().train_step(batch)

    step = Holding()
    step.places = []
    with pytest.raises(CheckpointContentError, match="places"):
        pg.fit(step, data(), run=tmp_path / "run", **GIVEN)
    assert step.count == 0 and step.places == []


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch compiles no steps")
def test_a_compiled_step_keeps_no_tensors():
    class Averaging(Collecting):
        def train_step(self, batch):
            self.average = 0.9 * self.average + 0.1 * ops.mean(batch[0], axis=0)
            return {"loss": ops.mean(self.average)}

    with pytest.raises(KeptTensorError):
        pg.fit(Averaging(), data(), **{**GIVEN, "execution": "auto"})
