"""`verify_resume` passes a Step that resumes exactly, and names what another one forgets."""

import itertools
import random

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import ArgumentError
from perigee.testing import verify_resume

ROWS, BATCH, STEPS = 24, 8, 8
EAGER = {"batch_size": BATCH, "execution": "eager"}


def rows():
    x = np.random.default_rng(1).normal(size=(ROWS, 3)).astype("float32")
    return x, x[:, :1]


class Noisy(pg.Step):
    """A regression whose loss is scaled by a number that subclasses draw."""

    def __init__(self):
        self.model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dropout(0.5)]
        )
        self.optimizer = keras.optimizers.Adam(0.01)

    def scale(self):
        return 1.0

    def train_step(self, batch):
        x, y = batch
        scale = self.scale()

        def objective():
            return scale * ops.mean(ops.square(self.model(x, training=True) - y))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


class Counting(Noisy):
    """Counts in Python."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def scale(self):
        self.count += 1
        return float(self.count)


class CountingElsewhere(Noisy):
    """Counts where no checkpoint looks."""

    def __init__(self):
        super().__init__()
        counts = itertools.count(1)
        self.next = lambda: next(counts)

    def scale(self):
        return float(self.next())


class CountingForGood(Counting):
    def host_state(self):
        return {"count": self.count}

    def load_host_state(self, state):
        self.count = state["count"]


class Drawing(Noisy):
    """Draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.drawn = random.Random(1)

    def scale(self):
        return self.drawn.uniform(0.5, 1.5)


class DrawingGlobally(Noisy):
    def scale(self):
        return np.random.uniform(0.5, 1.5)


class Remembering(Noisy):
    """Keeps on the host what changes no variable."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def scale(self):
        self.seen += 1
        return 1.0

    def host_state(self):
        return {"seen": self.seen}


@pytest.mark.parametrize("make", [Noisy, CountingForGood, DrawingGlobally])
def test_a_step_whose_state_is_all_saved_passes(make):
    report = verify_resume(make, rows, steps=STEPS, arguments=EAGER)

    assert (report.steps, report.at) == (STEPS, STEPS // 2)
    assert any(key.endswith("kernel") for key in report.variables)
    assert report.records > STEPS


@pytest.mark.parametrize("at", [1, 3, STEPS - 1])
def test_it_passes_compiled_wherever_it_stops(at):
    assert verify_resume(Noisy, rows, steps=STEPS, at=at, arguments={"batch_size": BATCH}).at == at


@pytest.mark.parametrize("make", [Counting, Drawing])
def test_attributes_of_eager_steps_are_state(make):
    assert verify_resume(make, rows, steps=STEPS, at=3, arguments=EAGER).at == 3


def test_hidden_state_is_found_with_the_variable_and_the_log_that_differ_first():
    with pytest.raises(AssertionError) as caught:
        verify_resume(CountingElsewhere, rows, steps=STEPS, at=3, arguments=EAGER)

    said = str(caught.value)
    assert "after step 3" in said
    assert "model/" in said and "kernel, by up to" in said
    assert "the log loss at step 4" in said
    assert "host_state" in said


def test_host_state_that_is_not_loaded_is_found():
    with pytest.raises(AssertionError, match=r"`host_state`: \{'seen': \d+\} and"):
        verify_resume(Remembering, rows, steps=STEPS, arguments=EAGER)


def test_data_that_depends_on_what_was_drawn_before_is_found():
    counts = iter(range(10**6))

    def batches():
        for _ in range(ROWS // BATCH):
            yield np.full((BATCH, 3), next(counts), "float32"), np.ones((BATCH, 1), "float32")

    with pytest.raises(AssertionError, match="the log loss"):
        verify_resume(Noisy, lambda: batches, steps=STEPS, arguments={"execution": "eager"})


def test_the_global_generators_are_put_back():
    keras.random.uniform(())  # Keras seeds its own from Python's, at its first use
    before = np.random.get_state()[1].tolist(), random.getstate()

    verify_resume(DrawingGlobally, rows, steps=4, arguments=EAGER)

    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


@pytest.mark.parametrize("steps, at", [(1, None), (4, 4), (4, 0)])
def test_there_must_be_a_step_at_which_to_stop(steps, at):
    with pytest.raises(ArgumentError, match="at="):
        verify_resume(Noisy, rows, steps=steps, at=at)
