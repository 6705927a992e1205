"""Functions of a state, as hand-written loops on JAX have them, are refused with the Step to write.

A function that changes Keras's variables by itself trains as it is.
"""

import functools
import textwrap
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import perigee as pg

if keras.backend.backend() != "jax":
    pytest.skip("they use JAX itself", allow_module_level=True)

import jax

ROWS, BATCH = 43, 16  # the last batch is smaller
X = np.random.default_rng(0).normal(size=(ROWS, 8)).astype("float32")
Y = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)


def made():
    """Return what a loop stands around, the same in each call."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    optimizer = keras.optimizers.SGD(0.1)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)

    def compute_loss_and_updates(trainable, non_trainable, x, y):
        y_pred, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return loss_fn(y, y_pred), non_trainable

    grad_fn = jax.value_and_grad(compute_loss_and_updates, has_aux=True)

    @jax.jit
    def train_step(state, data):
        trainable, non_trainable, of_optimizer = state
        x, y = data
        (loss, non_trainable), grads = grad_fn(trainable, non_trainable, x, y)
        trainable, of_optimizer = optimizer.stateless_apply(of_optimizer, grads, trainable)
        return loss, (trainable, non_trainable, of_optimizer)

    state = tuple(
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
    )
    return SimpleNamespace(**locals())


def by_hand(steps):
    """Return the losses of the loop around such a function."""
    loop = made()
    state, losses = loop.state, []
    for first in range(0, steps * BATCH, BATCH):
        loss, state = loop.train_step(state, (X[first : first + BATCH], Y[first : first + BATCH]))
        losses.append(float(loss))
    return losses


def fit(step, data=(X, Y), **arguments):
    return pg.fit(step, data, batch_size=BATCH, shuffle=False, progress="off", **arguments)


def unpacked(loop):
    def train_step(trainable, non_trainable, of_optimizer, x, y):
        return loop.train_step((trainable, non_trainable, of_optimizer), (x, y))

    return train_step


def state_last(loop):
    def train_step(x, y):
        return loop.train_step(loop.state, (x, y))[::-1]

    return train_step


REFUSED = {
    "a state too much": (unpacked, "PG416"),
    "a bound state": (lambda loop: functools.partial(loop.train_step, loop.state), "PG402"),
    "a state of a lambda": (
        lambda loop: lambda *batch: loop.train_step(loop.state, batch),
        "PG402",
    ),
    "the state first": (state_last, "PG402"),
}


def train_as_shown(text, loop):
    """Train the Step that a text shows; returns the losses of the steps."""
    first = text.index("  class Train")
    last = text.index("\n", text.index("return {", first)) if "\n" in text[first:] else len(text)
    names = {"pg": pg, "loss_fn": loop.loss_fn}
    exec(textwrap.dedent(text[first:last]), names)
    step = names["Train"](loop.model, loop.optimizer)
    return [
        fit(step, (X[i : i + BATCH], Y[i : i + BATCH])).history["loss"][0]
        for i in range(0, ROWS, BATCH)
    ]


@pytest.mark.parametrize("case", REFUSED)
def test_a_function_of_a_state_is_refused_with_a_step_that_trains_alike(case):
    make, code = REFUSED[case]
    loop = made()

    with pytest.raises(pg.PerigeeError, match=code) as raised:
        fit(make(loop))

    losses = train_as_shown(str(raised.value), loop)
    np.testing.assert_allclose(losses, by_hand(len(losses)), rtol=1e-5)


def test_one_that_a_batch_fits_by_accident_says_how_it_was_called():
    loop = made()

    with pytest.raises(ValueError, match="unpack") as raised:
        fit(loop.train_step)

    note = "\n".join(raised.value.__notes__)
    assert f"`train_step(state=array ({BATCH}, 8), data=array ({BATCH},))`" in note
    losses = train_as_shown(note, loop)
    np.testing.assert_allclose(losses, by_hand(len(losses)), rtol=1e-5)


def test_a_function_that_changes_variables_itself_trains_as_it_is():
    loop = made()

    def train_step(x, y):
        def loss_of(weights):
            logits, _ = loop.model.stateless_call(weights, [], x, training=True)
            return loop.loss_fn(y, logits), logits

        weights = [variable.value for variable in loop.model.trainable_variables]
        (loss, logits), grads = jax.value_and_grad(loss_of, has_aux=True)(weights)
        loop.optimizer.apply(grads, loop.model.trainable_variables)
        return loss, logits

    history = fit(train_step)

    expected = np.average(by_hand(3), weights=[16, 16, 11])
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)
    assert list(history.findings) == []


def test_one_that_assigns_the_state_that_it_computes_trains_as_it_is():
    loop = made()

    def train_step(x, y):
        variables = [*loop.model.trainable_variables], [], [*loop.optimizer.variables]
        state = tuple([variable.value for variable in part] for part in variables)
        loss, state = loop.train_step(state, (x, y))
        for part, values in zip(variables, state, strict=True):
            for variable, value in zip(part, values, strict=True):
                variable.assign(value)
        return loss, x

    history = fit(train_step)

    expected = np.average(by_hand(3), weights=[16, 16, 11])
    np.testing.assert_allclose(history.history["loss"], [expected], rtol=1e-5)
