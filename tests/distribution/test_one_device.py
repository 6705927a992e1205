"""A strategy of one device is one device: the numbers without a strategy, and nothing refused."""

from __future__ import annotations

import contextlib
import functools

import keras
import numpy as np
import pytest

import perigee as pg
from perigee import _backends
from tests.backends.problems._problem import clusters
from tests.distribution.one_device import (
    BATCH,
    PROGRAMS,
    ROWS,
    STRATEGIES,
    WAYS,
    Lazy,
    Minimized,
    Taped,
    classifier,
    compiled,
    fitted,
    ran,
    strategy_of,
)
from tests.distribution.strategies import mirrored

pytestmark = pytest.mark.only_tensorflow

EACH = 2
"""Every program is run in so many of the ways; all pairs of a strategy and a way are run."""


def cases() -> list[tuple[str, str, str]]:
    """Return what is run: programs, kinds of strategies, and ways to enter them."""
    ways = [(kind, way) for way in WAYS for kind in STRATEGIES]
    return [
        (name, *ways[(index + place * len(ways) // EACH) % len(ways)])
        for index, name in enumerate(PROGRAMS)
        for place in range(EACH)
    ]


@functools.cache
def without_strategy(name: str):
    return ran(name)


def assert_same(found, expected):
    leaves, others = keras.tree.flatten(found), keras.tree.flatten(expected)
    assert len(leaves) == len(others)
    for leaf, other in zip(leaves, others, strict=True):
        if isinstance(leaf, str):
            assert leaf == other
        else:
            np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-6)


@pytest.mark.tried(
    "the updates and logs of one device, ragged batches included", one_device="works"
)
@pytest.mark.tried("steps with a tape of their own, `KerasStep`", one_device="works")
@pytest.mark.corpus
@pytest.mark.spread(6)
@pytest.mark.parametrize(("name", "kind", "way"), cases())
def test_a_program_is_that_without_a_strategy(name, kind, way):
    assert_same(ran(name, strategy_of(kind, name, way), way), without_strategy(name))


def fit(step, run, epochs):
    arguments = {"batch_size": BATCH, "seed": 7, "progress": "off", "execution": "eager"}
    return pg.fit(step, clusters(ROWS), epochs=epochs, run=run, **arguments)


def made(strategy=None):
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    if strategy is None:
        return Minimized(classifier())
    with strategy.scope():
        return Minimized(classifier())


@pytest.mark.parametrize("kind", STRATEGIES)
def test_a_run_resumes_with_and_without_the_strategy_to_the_bit(kind, tmp_path):
    strategy = strategy_of(kind, "", "make")
    straight = made()
    fit(straight, None, epochs=2)

    for first, second, name in ((strategy, None, "left"), (None, strategy, "entered")):
        fit(made(first), tmp_path / name, epochs=1)
        resumed = made(second)
        fit(resumed, tmp_path / name, epochs=2)

        for ours, theirs in zip(resumed.model.variables, straight.model.variables, strict=True):
            held = _backends.current().read(ours)
            assert held.tobytes() == np.asarray(theirs).tobytes(), ours.path


@pytest.mark.parametrize("kind", STRATEGIES)
def test_what_a_step_builds_later_is_where_the_strategy_says(kind):
    with strategy_of(kind, "", "make").scope():
        step = Lazy(None)

    fit(step, None, epochs=1)

    kernel, slot = step.model.layers[0].kernel, step.optimizer.variables[2]
    for variable in (kernel, slot):
        assert "CPU:1" in variable.value.device
        assert isinstance(variable.value, type(step.optimizer.iterations.value))


class Distributed(Taped):
    """A loop as TensorFlow's guides write it, which runs its own replicas."""

    def __init__(self, model, strategy):
        super().__init__(model)
        self.strategy = strategy

    def train_step(self, batch):
        losses = self.strategy.run(super().train_step, args=(batch,))
        return {"loss": self.strategy.reduce("SUM", losses["loss"], axis=None)}


@pytest.mark.parametrize("kind", STRATEGIES)
@pytest.mark.parametrize("is_around", [False, True])
def test_a_step_may_run_its_own_replica(kind, is_around):
    strategy = strategy_of(kind, "", "make")
    keras.utils.clear_session()
    keras.utils.set_random_seed(7)
    with strategy.scope():
        step = Distributed(classifier(), strategy)
    with strategy.scope() if is_around else contextlib.nullcontext():
        found = fitted()(step)

    assert_same(found, without_strategy("a raw tape"))


@pytest.mark.parametrize("kind", STRATEGIES)
def test_keras_trains_on_what_was_trained_in_its_scope(kind):
    x, y = clusters(ROWS)
    with strategy_of(kind, "", "make").scope():
        model = compiled(classifier())
        pg.keras_fit(model, x, y, verbose=0)

        model.fit(x, y, verbose=0)


USES = {
    "fit": lambda step: pg.fit(step, clusters(ROWS), batch_size=BATCH, progress="off"),
    "evaluate": lambda step: pg.evaluate(step, clusters(ROWS), batch_size=BATCH),
    "predict": lambda step: pg.predict(step, clusters(ROWS)[0], batch_size=BATCH),
}


@pytest.mark.tried("a Step made outside a scope and used inside", mirrored="refused")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_step_made_outside_the_scope_of_replicas_is_refused_inside(use, is_known):
    step = made()
    if is_known:  # and compiled already
        USES[use](step)

    with mirrored(2).scope(), pytest.raises(pg.PerigeeError, match="PG452") as raised:
        USES[use](step)

    said = str(raised.value)
    assert "made under no strategy, and is used in the scope of MirroredStrategy" in said
    assert "    with strategy.scope():\n        step = make_step()\n    pg.fit(step, data)" in said


def test_the_line_that_the_refusal_shows_works():
    strategy, data = mirrored(2), [clusters(BATCH)]
    keras.utils.clear_session()

    def make_step():
        return Minimized(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))

    with strategy.scope():
        step = make_step()
    history = pg.fit(step, data, progress="off", execution="eager")

    assert len(history.history["loss"]) == 1


def test_a_step_of_replicas_is_refused_in_another_scope():
    with mirrored(2).scope():
        step = Minimized(classifier())
    other = strategy_of("OneDevice", "", "make")

    with other.scope(), pytest.raises(pg.PerigeeError, match=r"PG452.*MirroredStrategy, and is"):
        USES["fit"](step)


def test_tensorflow_has_its_own_methods_after_training_in_a_scope():
    import tensorflow as tf

    update = tf.distribute.StrategyExtended.update

    ran("eager", strategy_of("OneDevice", "", "both"), "both")

    assert tf.distribute.StrategyExtended.update is update
    assert not tf.distribute.has_strategy()
