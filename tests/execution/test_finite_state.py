"""A state that is no longer finite ends a training, whatever its steps return."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import NonFiniteError
from perigee._execution import finite
from tests.distribution.strategies import mirrored

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ("graph", "xla", "eager"), "jax": ("graph", "eager"), "torch": ("eager",)}
ONE = pg.Execution(steps_per_call=1)


class RuinedAt(pg.Step):
    """Returns 1 at every step; a variable becomes `value` at step number `at`, for good."""

    def __init__(self, at, value=float("nan"), begins_at=0.0):
        self.at, self.value = at, value
        self.count = keras.Variable(0, dtype="int32", trainable=False)
        self.moving = keras.Variable(begins_at, trainable=False, name="moving")

    def train_step(self, batch):
        self.count.assign_add(1)
        is_bad = ops.equal(ops.convert_to_tensor(self.count), self.at)
        self.moving.assign(ops.where(is_bad, self.value, self.moving + ops.mean(batch)))
        return {"loss": ops.ones(())}


class Root(pg.Step):
    """The loss is 0 and its gradient NaN where all inputs are 0; the output hides the weights'."""

    def __init__(self, optimizer=None):
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
        self.optimizer = optimizer or keras.optimizers.Adam(1e-2)

    def train_step(self, x):
        def loss():
            root = ops.mean(ops.sqrt(ops.square(self.model(x, training=True))))
            return ops.where(ops.isfinite(root), root, ops.zeros(()))

        return {"loss": self.minimize(loss, self.optimizer, self.model)}


def rows(count, zeros_at=()):
    x = np.random.default_rng(0).normal(size=(count, 3)).astype("float32")
    x[list(zeros_at)] = 0.0
    return x


def train(step, x, **arguments):
    arguments = {"batch_size": 1, "shuffle": False, "progress": "off", "seed": 1} | arguments
    return pg.fit(step, x, **arguments)


@pytest.mark.parametrize("mode", MODES[BACKEND])
@pytest.mark.parametrize("execution", ["blocks", "single"])
@pytest.mark.parametrize("guards", ["default", "off"])
def test_a_variable_that_becomes_nan_is_an_error_that_names_it(mode, execution, guards):
    single = pg.Execution(mode, steps_per_call=1)
    with pytest.raises(NonFiniteError) as caught:
        train(
            RuinedAt(5),
            rows(9),
            execution=mode if execution == "blocks" else single,
            guards=guards,
        )

    error = caught.value
    assert (error.code, error.name) == ("PG408", "moving") and np.isnan(error.value)
    if guards == "default":
        assert "'moving' became nan at step 5. Replaying" in str(error)
    else:
        assert "'moving' became nan in " in str(error) and error.step >= 5


@pytest.mark.parametrize("mode", MODES[BACKEND])
@pytest.mark.parametrize("execution", ["blocks", "single"])
def test_stopping_stops_after_that_very_step(mode, execution):
    single = pg.Execution(mode, steps_per_call=1)
    step = RuinedAt(5)

    with pytest.warns(pg.PerigeeWarning, match="'moving' became nan at step 5"):
        history = train(
            step, rows(9), execution=mode if execution == "blocks" else single, nonfinite="stop"
        )

    assert (history.stop_reason, history.clock.step, int(step.count)) == ("non-finite", 5, 5)
    assert history.history["loss"] == [1.0] and "perigee/state" not in history.history


@pytest.mark.parametrize("nonfinite", ["raise", "stop", "skip"])
@pytest.mark.parametrize("begins_at", [np.inf, np.nan])
def test_what_was_not_finite_before_does_not_count(nonfinite, begins_at):
    class Least(pg.Step):
        def __init__(self):
            self.least = keras.Variable(begins_at, trainable=False)
            self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            self.optimizer = keras.optimizers.SGD(0.0)

        def train_step(self, x):
            loss = self.minimize(
                lambda: ops.mean(ops.square(self.model(x))), self.optimizer, self.model
            )
            # Steps without a number to compare leave it as it was.
            seen = ops.where(ops.sum(x) > 1e9, loss, begins_at)
            self.least.assign(ops.minimum(self.least, seen))
            return {"loss": loss}

    history = train(Least(), rows(8), nonfinite=nonfinite, epochs=2)

    assert history.stop_reason == "epochs"
    if nonfinite == "skip":
        assert history.history["skipped_steps"] == [0, 0]


def test_the_weights_of_a_hidden_loss_are_looked_at_and_the_gradients_named():
    step = Root()

    with pytest.raises(NonFiniteError) as caught:
        train(step, rows(8, zeros_at=[2]))

    assert "became nan at step 3" in str(caught.value)
    assert "in the gradients of step 3, whose loss was finite" in str(caught.value)


def test_skipping_still_undoes_such_a_step():
    step = Root()

    history = train(step, rows(8, zeros_at=[2, 5]), nonfinite="skip")

    assert history.history["skipped_steps"] == [2]
    assert np.isfinite(step.model.get_weights()[0]).all()


@pytest.mark.parametrize("zeros_at", [[0], [7], [8]])
def test_accumulated_gradients_are_seen_where_they_are_applied(zeros_at):
    step = Root()

    with pytest.raises(NonFiniteError, match="kernel"):
        train(step, rows(9, zeros_at), accumulate=4)

    assert int(step.optimizer.iterations) == (3 if zeros_at == [8] else zeros_at[0] // 4 + 1) or (
        np.isnan(step.model.get_weights()[0]).any()
    )


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("nonfinite", ["raise", "stop"])
def test_updates_that_a_loss_scale_skips_are_no_error(accumulate, nonfinite):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1e-3), initial_scale=2.0**15
    )
    step = Root(optimizer)

    history = train(
        step, rows(8, zeros_at=[2]), accumulate=accumulate, nonfinite=nonfinite, epochs=2
    )

    assert history.stop_reason == "epochs"
    assert np.isfinite(step.model.get_weights()[0]).all()


def test_nothing_of_such_a_state_is_logged_validated_or_saved(tmp_path):
    run = pg.Run(tmp_path / "run", save_every=pg.Every(steps=2), record_every=pg.Every(steps=2))

    with pytest.raises(NonFiniteError):
        train(RuinedAt(5), rows(9), run=run)

    restored = RuinedAt(5)
    clock = run.restore(restored)
    assert clock.step == 4 and np.isfinite(float(restored.moving))


def test_a_loop_of_ones_own_looks_at_it_too():
    with pg.prepare(RuinedAt(3), progress="off") as loop, pytest.raises(NonFiniteError) as caught:
        for row in rows(100):
            loop.train_step(row[None])
            if loop.clock.step == 64:
                break

    assert caught.value.name == "moving"


def test_on_another_device_one_call_answers_for_all(monkeypatch):
    values = [0.0, np.nan, 1.0, -np.inf]
    variables = [keras.Variable(np.full((2, 3), v), trainable=False) for v in values]
    variables.append(keras.Variable(np.ones(2), dtype="float16", trainable=False))
    here = finite._looker(variables)()
    monkeypatch.setattr(finite, "_is_on_cpu", lambda: False)

    there = finite._looker(variables)()

    assert list(here) == list(there) == [True, False, True, False, True]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_large_values_are_finite(dtype):
    largest = 3e38 if dtype == "bfloat16" else np.finfo(dtype).max
    variable = keras.Variable(np.full(64, largest), dtype=dtype, trainable=False)

    assert list(finite._looker([variable])()) == [True]


@pytest.mark.only_tensorflow
def test_replicas_are_looked_at():
    with mirrored(2).scope():
        step = Root()
        with pytest.raises(NonFiniteError, match="kernel"):
            train(step, rows(8, zeros_at=[4, 5]), batch_size=2)
