"""A custom step under mixed float16 trains as it does in float32 (E1)."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.state import snapshot, track
from perigee._step.updates import internals

FIRST_SCALE = 2.0**15
TAME = 0.1  # a factor under which the gradients fit into float16 with the first scale
FAINT = 1e-7  # float16 holds nothing below 6e-8: unscaled, the gradients of such a loss are 0
ROWS = 64
EPOCHS = 30


class Fit(pg.Step):
    """Least squares, the loss times a factor."""

    def __init__(self, model, optimizer, factor=1.0):
        self.model, self.optimizer, self.factor = model, optimizer, factor

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = ops.cast(self.model(x, training=True), "float32")
            return self.factor * ops.mean(ops.square(y - y_pred))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def line(precision):
    """Return a model of three weights, all zero."""
    dense = keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False, dtype=precision)
    return keras.Sequential([keras.layers.Input((3,)), dense])


def points():
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype("float32")
    return x, x @ np.array([[1.0], [-2.0], [0.5]], "float32")


def fit(step, batches, epochs=1):
    return pg.fit(step, batches, epochs=epochs, progress="off").history


def kernel(step):
    return step.model.get_weights()[0]


def plain(learning_rate):
    return keras.optimizers.SGD(learning_rate)


def wrapped(learning_rate):
    """Keras's own wrapper, which divides gradients by a scale that the loss should carry."""
    inner = keras.optimizers.SGD(learning_rate)
    return keras.optimizers.LossScaleOptimizer(inner, dynamic_growth_steps=2)


def scaled(learning_rate):
    return keras.optimizers.SGD(learning_rate, loss_scale_factor=1024.0)


def test_e1_a_mixed_float16_step_trains_as_float32_does():
    """Gradients too small for float16 are scaled into its range, and back."""
    learning_rate = 0.1 / FAINT
    exact = Fit(line("float32"), plain(learning_rate), FAINT)
    mixed = Fit(line("mixed_float16"), plain(learning_rate), FAINT)

    exact_losses = fit(exact, [points()], EPOCHS)["loss"]
    mixed_losses = fit(mixed, [points()], EPOCHS)["loss"]

    assert exact_losses[-1] < 0.01 * exact_losses[0]
    np.testing.assert_allclose(mixed_losses[:10], exact_losses[:10], rtol=0.02)
    np.testing.assert_allclose(kernel(mixed), kernel(exact), atol=0.01)


@pytest.mark.parametrize("optimizer", [wrapped, scaled])
@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_e1_an_optimizer_with_a_loss_scale_of_its_own_scales_nothing_twice(precision, optimizer):
    """An optimizer that divides by a loss scale takes the same steps as one that does not."""
    learning_rate, epochs = 0.5, 6
    bare = Fit(line(precision), plain(learning_rate), TAME)
    other = Fit(line(precision), optimizer(learning_rate), TAME)

    fit(bare, [points()], epochs)
    fit(other, [points()], epochs)

    assert np.abs(kernel(bare)).max() > 0.1
    # Every scale is a power of two, so nothing is rounded on the way there and back.
    np.testing.assert_array_equal(kernel(other), kernel(bare))
    assert int(other.optimizer.iterations) == epochs


@pytest.mark.parametrize(
    "wrap", [lambda inner: inner, keras.optimizers.LossScaleOptimizer], ids=["bare", "wrapped"]
)
def test_e1_a_gradient_beyond_float16_changes_nothing_and_halves_the_scale(wrap):
    """An update with an infinite gradient is left out: weights, slots and counters stay."""
    step = Fit(line("mixed_float16"), wrap(keras.optimizers.Adam(0.01)), TAME)
    x, y = points()
    far = 1000.0 * y  # the loss is finite in float32, its scaled gradient is not in float16
    fit(step, [(x, y)])
    held = [*step.model.variables, *step.optimizer.variables]
    before = snapshot(held)

    losses = fit(step, [(x, far)])["loss"]

    assert np.isfinite(losses).all()
    for variable, old, new in zip(held, before, snapshot(held), strict=True):
        np.testing.assert_array_equal(new, old, err_msg=variable.path)
    assert int(step.optimizer.iterations) == 1
    assert float(internals(step).loss_scale.value) == FIRST_SCALE / 2


def test_e1_a_wrapped_optimizer_leaves_out_such_a_gradient_in_float32_too():
    """Who wraps an optimizer in Keras's loss scaling expects its check for finite gradients."""

    class AtACusp(Fit):
        def train_step(self, batch):
            def objective():
                y_pred = self.model(batch[0], training=True)
                return ops.sqrt(ops.sum(ops.square(y_pred)))  # 0, and its slope there is NaN

            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    step = AtACusp(line("float32"), wrapped(0.1))

    losses = fit(step, [points()])["loss"]

    assert losses == [0.0]
    assert not kernel(step).any()
    assert int(step.optimizer.iterations) == 0


def test_e1_the_scale_falls_until_gradients_fit_and_then_training_goes_on():
    """Every halving costs one update, and no update is lost after the last of them."""
    steps = 12
    step = Fit(line("mixed_float16"), plain(0.5), TAME)
    x, y = points()
    far = 50.0 * y

    losses = fit(step, [(x, far)], epochs=steps)["loss"]

    halvings = int(np.log2(FIRST_SCALE / float(internals(step).loss_scale.value)))
    assert 0 < halvings < steps - 3
    assert int(step.optimizer.iterations) == steps - halvings
    assert losses[halvings] == losses[0]  # the losses of steps whose updates were left out
    assert losses[-1] < 0.9 * losses[0]


def test_e1_a_float32_step_has_no_scale():
    step = Fit(line("float32"), plain(0.1))

    fit(step, [points()])

    assert internals(step).loss_scale is None
    assert not [entry.key for entry in track(step).entries if "loss_scale" in entry.key]
