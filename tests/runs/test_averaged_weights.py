"""Averaged weights: programs as users write them, against loops by hand, cut and given more epochs.

What a validation measures is what `best=` compares and what a run restores; what training continues
from is another matter, and a run keeps that too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.state import snapshot, track

ROWS, BATCH, FEATURES, EPOCHS = 26, 8, 3, 3
STEPS_AN_EPOCH = 4
"""The last batch of an epoch has two rows."""
RATE, MOMENTUM = 0.1, 0.75


def rows(seed):
    x = np.random.default_rng(seed).normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :1] - 2 * x[:, 1:2]


DATA, VALIDATION = rows(5), rows(6)


# The loop by hand.


@dataclass
class Loop:
    """What a loop in NumPy trained: values after each epoch.

    Attributes:
        raw: The losses of the weights themselves on the validation data.
        averaged: Those of their average.
        average: The last average.
    """

    raw: list[float] = field(default_factory=list)
    averaged: list[float] = field(default_factory=list)
    average: np.ndarray | None = None


@functools.cache
def by_hand(accumulate=1, overwrites_every=None, begins_with_first_update=True):
    def loss(weights, data=VALIDATION):
        return float(np.mean(np.square(data[0] @ weights - data[1])))

    weights = np.array(model().get_weights()[0], "float64")
    found, average, updates = Loop(), weights, 0
    for _ in range(EPOCHS):
        for first in range(0, ROWS, accumulate * BATCH):
            x, y = (array[first : first + accumulate * BATCH] for array in DATA)
            weights = weights - RATE * 2 * x.T @ (x @ weights - y) / len(x)
            share = 0.0 if updates == 0 and begins_with_first_update else MOMENTUM
            average = share * average + (1 - share) * weights
            updates += 1
            if overwrites_every and updates % overwrites_every == 0:
                weights = average
        found.raw.append(loss(weights))
        found.averaged.append(loss(average))
    found.average = average
    return found


# The programs.


def model():
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False)])


def averaging(**options):
    return keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=MOMENTUM, **options)


def supervised(**options):
    return pg.Supervised(model(), averaging(**options), "mse")


def compiled():
    network = model()
    network.compile(averaging(), "mse")
    return pg.KerasStep(network)


class Own(pg.Step):
    """Trains by hand, with the average of the optimizer."""

    def __init__(self):
        self.model, self.optimizer = model(), averaging()

    def loss(self, network, batch, training):
        x, y = batch
        return ops.mean(ops.square(y - network(x, training=training)), axis=-1)

    def train_step(self, batch):
        objective = lambda: self.loss(self.model, batch, True)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, batch):
        return {"loss": self.loss(self.model, batch, False)}


class SecondModel(Own):
    """Holds the average as a model of its own, and measures that."""

    def __init__(self):
        self.model = model()
        self.average = pg.copy_of(self.model)
        self.average.trainable = False
        self.optimizer = keras.optimizers.SGD(RATE)

    def train_step(self, batch):
        logs = super().train_step(batch)
        self.blend(self.model, self.average, 1 - MOMENTUM)
        return logs

    def test_step(self, batch):
        return {"loss": self.loss(self.average, batch, False)}


class OwnVariables(Own):
    """Holds the average as variables, and swaps them in to measure."""

    def __init__(self):
        self.model, self.optimizer = model(), keras.optimizers.SGD(RATE)
        self.averages = [
            keras.Variable(value, trainable=False, name=f"average_{index}")
            for index, value in enumerate(self.model.get_weights())
        ]

    def pairs(self):
        return zip(self.averages, self.model.trainable_variables, strict=True)

    def train_step(self, batch):
        logs = super().train_step(batch)
        for average, variable in self.pairs():
            average.assign(MOMENTUM * average + (1 - MOMENTUM) * variable)
        return logs

    def test_step(self, batch):
        for average, variable in self.pairs():
            variable.assign(average)
        return super().test_step(batch)


class Adversaries(pg.Step):
    """Two optimizers, each with averages of its own; one is overwritten by them."""

    def __init__(self):
        keras.utils.set_random_seed(3)
        self.generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(FEATURES)])
        self.critic = model()
        self.noise = keras.random.SeedGenerator(1)
        self.optimizers = [averaging(), averaging(ema_overwrite_frequency=3)]

    def train_step(self, batch):
        noise = keras.random.normal((ops.shape(batch[0])[0], 2), seed=self.noise)

        def fooling():
            return ops.mean(ops.softplus(-self.critic(self.generator(noise))))

        def telling():
            fake = ops.softplus(self.critic(self.generator(noise)))
            return ops.mean(ops.softplus(-self.critic(batch[0])) + fake)

        critic_loss = self.minimize(telling, self.optimizers[1], self.critic)
        return {
            "loss": self.minimize(fooling, self.optimizers[0], self.generator),
            "critic_loss": critic_loss,
        }

    def test_step(self, batch):
        return {"loss": ops.mean(self.critic(self.generator(batch[0][:, :2])))}


def swap():
    return [keras.callbacks.SwapEMAWeights()]


def swap_on_epoch():
    return [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]


@dataclass
class Program:
    """A program.

    Attributes:
        make: Makes its Step.
        measures: Which weights its validation measures.
        by_hand: The arguments of the loop by hand; `None` where there is none.
        callbacks: Makes its callbacks.
        options: Further arguments of `fit`.
    """

    make: Any
    measures: str
    by_hand: dict[str, Any] | None = field(default_factory=dict)
    callbacks: Any = list
    options: dict[str, Any] = field(default_factory=dict)


THIRD = {"overwrites_every": 3}
HELD = {"begins_with_first_update": False}

PROGRAMS = {
    "supervised": Program(supervised, "raw"),
    "overwritten": Program(lambda: supervised(ema_overwrite_frequency=3), "raw", THIRD),
    "overwritten, swapped": Program(
        lambda: supervised(ema_overwrite_frequency=3), "averaged", THIRD, swap
    ),
    "swapped": Program(supervised, "averaged", {}, swap),
    "swapped on epochs": Program(supervised, "averaged", {}, swap_on_epoch),
    "own": Program(Own, "raw"),
    "own, swapped, accumulated": Program(
        Own, "averaged", {"accumulate": 2}, swap, {"accumulate": 2}
    ),
    "own, swapped on epochs, accumulated": Program(
        Own, "averaged", {"accumulate": 2}, swap_on_epoch, {"accumulate": 2}
    ),
    "compiled, swapped on epochs": Program(compiled, "averaged", {}, swap_on_epoch),
    "a second model": Program(SecondModel, "averaged", HELD),
    "own variables": Program(OwnVariables, "averaged", HELD),
    "adversaries": Program(Adversaries, "raw", None),
}


def train(program, path, epochs=EPOCHS, step=None, callbacks=(), **more):
    """Train one into a run, from other random states each time; those of the run hold."""
    step = program.make() if step is None else step
    options: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": BATCH,
        "shuffle": False,
        "validation": VALIDATION,
        "callbacks": [*program.callbacks(), *callbacks],
        "progress": "off",
        "seed": 0,
        "execution": "eager",
        **program.options,
        **more,
    }
    run = pg.Run(path, best="val_loss", keep=None) if path else None
    return step, pg.fit(step, DATA, run=run, **options)


def measured(step):
    return pg.evaluate(step, VALIDATION, batch_size=BATCH, execution="eager")["loss"]


def state_of(step):
    tracked = track(step)
    values = snapshot(tracked.variables)
    return {entry.key: value.tolist() for entry, value in zip(tracked.entries, values, strict=True)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Return a function: the run of an uninterrupted program, its Step and its history."""

    @functools.cache
    def trained(name):
        path = tmp_path_factory.mktemp("straight") / "run"
        return path, *train(PROGRAMS[name], path)

    return trained


class StopAt(pg.Hook):
    every = pg.Every(steps=1)

    def __init__(self, step):
        self.step = step

    def on_steps(self, event):
        if event.clock.step == self.step:
            event.stop("deadline")


# One and the same.


@pytest.mark.parametrize("name", [n for n, p in PROGRAMS.items() if p.by_hand is not None])
def test_what_is_measured_and_left_is_that_of_a_loop_by_hand(straight, name):
    program, (_, step, history) = PROGRAMS[name], straight(name)
    loop = by_hand(**program.by_hand)

    assert history.history["val_loss"] == pytest.approx(getattr(loop, program.measures), rel=1e-4)
    if getattr(step, "optimizer", None) is None or step.optimizer.use_ema:
        left = track(step).of_kind("trainable")
        np.testing.assert_allclose(snapshot(left)[0], loop.average, rtol=1e-4, atol=1e-5)


@pytest.mark.spread(6)
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_restored_is_what_was_measured(straight, name):
    path, _, history = straight(name)
    logged = history.history["val_loss"]

    for which, value in {"best": min(logged), "newest": logged[-1]}.items():
        step = PROGRAMS[name].make()
        pg.Run(path).restore(step, which)
        assert measured(step) == value


@pytest.mark.spread(6)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_training_that_is_cut_and_given_more_epochs_is_the_uninterrupted_one(
    straight, tmp_path, name
):
    program, (_, step, history) = PROGRAMS[name], straight(name)

    train(program, tmp_path / "run", epochs=1)
    train(program, tmp_path / "run", callbacks=[StopAt(STEPS_AN_EPOCH + 1)])  # within a sum of two
    train(program, tmp_path / "run", callbacks=[StopAt(2 * STEPS_AN_EPOCH)])  # before a validation
    again, resumed = train(program, tmp_path / "run")

    assert resumed.history == history.history
    assert state_of(again) == state_of(step)


@pytest.mark.filterwarnings("ignore")  # that nothing is left to train
def test_a_finished_run_leaves_the_averages_again(straight):
    path, step, _ = straight("swapped on epochs")

    again, _ = train(PROGRAMS["swapped on epochs"], path)

    assert state_of(again) == state_of(step)


@pytest.mark.parametrize("callbacks", [list, swap, swap_on_epoch])
def test_an_early_end_leaves_the_averages_too(callbacks):
    impatient = keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=99.0)
    program = Program(supervised, "averaged", {}, callbacks)

    step, history = train(program, None, epochs=9, callbacks=[impatient])

    assert len(history.history["loss"]) == 2
    assert measured(step) == pytest.approx(by_hand().averaged[1], rel=1e-4)


@pytest.mark.parametrize("callbacks", [swap, swap_on_epoch])
def test_an_error_in_a_validation_leaves_the_weights_that_train(callbacks):
    class Fails(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            raise OSError("the disk is full")

    class Sees(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            self.trained = self.model.get_weights()

    sees, given = Sees(), callbacks()
    program = Program(supervised, "averaged", {}, lambda: [sees, Fails(), *given])
    step = program.make()
    with pytest.raises(OSError, match="disk"):
        train(program, None, epochs=1, step=step)

    np.testing.assert_array_equal(step.model.get_weights(), sees.trained)
    twin = Program(supervised, "averaged", {}, lambda: given)  # the same one, once more
    _, history = train(twin, None, epochs=2, step=step)
    assert history.history["val_loss"] == pytest.approx(by_hand().averaged[1:], rel=1e-4)


# Where they are not one and the same, a finding says so.


def codes(history):
    return [finding.code for finding in history.findings]


def best_weights():
    return keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)


@pytest.mark.filterwarnings("ignore:AveragesApart")
@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        (lambda: [*swap(), best_weights()], ["PG240"]),
        (lambda: [best_weights(), *swap_on_epoch()], ["PG240"]),
        (lambda: [*swap_on_epoch(), best_weights()], []),
        (lambda: [best_weights()], []),
        (lambda: [*swap(), keras.callbacks.EarlyStopping("val_loss", patience=9)], []),
    ],
)
def test_callbacks_that_keep_other_weights_than_were_measured_are_reported(callbacks, expected):
    program = Program(supervised, "", None, callbacks)

    step, history = train(program, None)

    assert codes(history) == expected
    assert (measured(step) == pytest.approx(min(history.history["val_loss"]))) == (not expected)


def test_a_training_that_begins_with_the_averages_of_another_one_is_reported(tmp_path):
    program, step = PROGRAMS["supervised"], supervised()

    _, first = train(program, None, epochs=1, step=step)
    with pytest.warns(pg.PerigeeWarning, match=r"PG240[\s\S]*run="):
        _, second = train(program, None, epochs=1, step=step)

    assert (codes(first), codes(second)) == ([], ["PG240"])
    assert second.history["val_loss"] != pytest.approx(by_hand().raw[1:2], rel=1e-2)


def test_a_run_continues_in_the_same_process_from_the_weights_that_train(tmp_path):
    program, step = PROGRAMS["supervised"], supervised()

    for epochs in (1, 2):
        _, history = train(program, tmp_path / "run", epochs=epochs, step=step)

    assert codes(history) == []
    assert history.history["val_loss"] == pytest.approx(by_hand().raw[:2], rel=1e-4)


def test_the_averages_of_a_run_without_swaps_can_be_used(straight):
    path, trained, _ = straight("supervised")
    step = supervised()

    step.optimizer.build(step.model.trainable_variables)
    pg.Run(path).restore(step)
    step.optimizer.finalize_variable_values(step.model.trainable_variables)

    np.testing.assert_array_equal(step.model.get_weights(), trained.model.get_weights())
