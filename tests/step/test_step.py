"""The three verbs of a Step, against closed forms and NumPy."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.gradients import Gradients

ROWS, FEATURES, RATE = 6, 3, 0.1


class Custom(pg.Step):
    """A linear model `x @ kernel`, and a body: `body(step, *batch)` returns what to log."""

    def __init__(self, body, optimizer=None, **held):
        self.body = body
        self.model = linear()
        self.optimizer = optimizer or keras.optimizers.SGD(RATE)
        for name, value in held.items():
            setattr(self, name, value)

    def train_step(self, batch):
        return self.body(self, *batch)

    @property
    def kernel(self):
        return np.array(ops.convert_to_numpy(self.model.layers[0].kernel))[:, 0]


def linear(**arguments):
    layer = keras.layers.Dense(1, use_bias=False, **arguments)
    return keras.Sequential([keras.Input((FEATURES,)), layer])


def minimizing(objective):
    """Return a body that minimizes `objective(step, *batch)` over the model."""

    def body(step, *batch):
        return {"loss": step.minimize(lambda: objective(step, *batch), step.optimizer, step.model)}

    return body


def errors(step, x, y):
    """Squared errors, shape `(batch,)`."""
    return ops.square(step.model(x) - y)[:, 0]


def train(step, data, **arguments):
    """Take one step on all rows in their order, and return what was logged."""
    arguments = {"batch_size": ROWS, "shuffle": False, "execution": "eager", **arguments}
    history = pg.fit(step, data, progress="off", **arguments)
    return {name: values[-1] for name, values in history.history.items()}


def bits(variables):
    return [np.asarray(ops.convert_to_numpy(v.value)).tobytes() for v in variables]


@pytest.fixture
def data():
    x = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, np.random.normal(size=(ROWS, 1)).astype("float32")


# Minimizing.


@pytest.mark.parametrize(
    "reduce",
    [ops.mean, lambda e: e, pg.mean, lambda e: pg.mean(e) * 0.5 + ops.mean(e) * 0.5],
    ids=["scalar", "vector", "average", "sum of averages"],
)
@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_one_step_follows_the_gradient_of_the_mean(data, reduce, execution):
    x, y = data
    step = Custom(minimizing(lambda step, x, y: reduce(errors(step, x, y))))
    before = step.kernel

    logged = train(step, data, execution=execution)

    residual = x @ before - y[:, 0]
    assert logged["loss"] == pytest.approx(np.mean(residual**2), rel=1e-5)
    assert step.kernel == pytest.approx(before - RATE * 2 * x.T @ residual / ROWS, rel=1e-5)


def test_weights_are_divided_by_once(data):
    x, y = data
    weights = np.array([0, 1, 2, 0, 0.5, 3], "float32")
    objective = lambda step, x, y, w: pg.mean(errors(step, x, y), weights=w)  # noqa: E731
    step = Custom(minimizing(objective))
    before = step.kernel

    logged = train(step, (x, y, weights))

    residual = x @ before - y[:, 0]
    slope = 2 * x.T @ (weights * residual) / weights.sum()
    assert logged["loss"] == pytest.approx(np.average(residual**2, weights=weights), rel=1e-5)
    assert step.kernel == pytest.approx(before - RATE * slope, rel=1e-5)


def test_aux_comes_back_with_the_loss(data):
    x, _ = data

    def body(step, x, y):
        def objective():
            y_pred = step.model(x)
            return ops.mean(ops.square(y_pred - y)), {"y_pred": y_pred, "kept": [y, None]}

        loss, aux = step.minimize(objective, step.optimizer, step.model)
        assert aux["kept"][1] is None
        return {"loss": loss, "mean": ops.mean(aux["y_pred"]), "label": ops.mean(aux["kept"][0])}

    step = Custom(body)
    before = step.kernel

    logged = train(step, data, execution="auto")

    assert logged["mean"] == pytest.approx(np.mean(x @ before), rel=1e-4)
    assert logged["label"] == pytest.approx(data[1].mean(), rel=1e-5)


@pytest.mark.parametrize(
    "chosen",
    [
        lambda step: step.model,
        lambda step: step.model.layers[0],
        lambda step: step.model.trainable_variables,
        lambda step: [[step.model], {"a": step.model.layers[0].kernel}],
        lambda step: None,
    ],
    ids=["model", "layer", "variables", "nested", "left out"],
)
def test_variables_are_given_in_any_form(data, chosen):
    def body(step, x, y):
        objective = lambda: ops.mean(errors(step, x, y))  # noqa: E731
        return {"loss": step.minimize(objective, step.optimizer, chosen(step))}

    step = Custom(body)
    x, y = data
    before = step.kernel

    train(step, data)

    slope = 2 * x.T @ (x @ before - y[:, 0]) / ROWS
    assert step.kernel == pytest.approx(before - RATE * slope, rel=1e-5)


def test_only_the_variables_that_an_update_names_are_changed(data):
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(2), keras.layers.Dense(1)]
    )

    def body(step, x, y):
        objective = lambda: ops.mean(ops.square(step.two(x) - y))  # noqa: E731
        return {"loss": step.minimize(objective, step.optimizer, step.two.layers[1])}

    step = Custom(body, two=model)
    step.model.trainable = model.layers[0].trainable = False
    first, second = bits(model.layers[0].variables), bits(model.layers[1].variables)

    train(step, data)

    assert bits(model.layers[0].variables) == first
    assert bits(model.layers[1].variables) != second


# Losses that are added.


def penalized(strength=0.3):
    return linear(kernel_regularizer=keras.regularizers.L2(strength))


class AddingLoss(keras.layers.Layer):
    """Adds the mean square of what goes through it to the loss."""

    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


def test_penalties_are_added_once_and_reported(data):
    x, y = data
    strength = 0.3
    step = Custom(minimizing(lambda step, x, y: ops.mean(errors(step, x, y))))
    step.model = penalized(strength)
    before = step.kernel

    logged = train(step, data, execution="auto")

    residual = x @ before - y[:, 0]
    loss = np.mean(residual**2) + strength * np.sum(before**2)
    slope = 2 * x.T @ residual / ROWS + 2 * strength * before
    assert logged["loss"] == pytest.approx(loss, rel=1e-5)
    assert step.kernel == pytest.approx(before - RATE * slope, rel=1e-5)


def test_penalties_of_variables_that_are_not_updated_are_left_out(data):
    x, y = data
    step = Custom(
        minimizing(lambda step, x, y: ops.mean(ops.square(step.model(x) + step.other(x) - y))),
        other=penalized(),
    )
    step.other.trainable = False
    before, other = step.kernel, np.array(step.other.get_weights()[0])[:, 0]

    logged = train(step, data)

    residual = x @ (before + other) - y[:, 0]
    assert logged["loss"] == pytest.approx(np.mean(residual**2), rel=1e-5)


@pytest.mark.parametrize("calls", [1, 2])
def test_losses_of_layers_are_added_for_each_call(data, calls):
    x, y = data

    def objective(step, x, y):
        for scale in range(1, calls):
            step.model(x * (scale + 1.0))
        return ops.mean(errors(step, x, y))

    step = Custom(minimizing(objective))
    step.model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False), AddingLoss()]
    )
    before = step.kernel

    logged = train(step, data, execution="auto")

    output, residual = x @ before, x @ before - y[:, 0]
    factor = sum(scale**2 for scale in range(1, calls + 1))
    slope = 2 * x.T @ (residual + factor * output) / ROWS
    assert logged["loss"] == pytest.approx(
        np.mean(residual**2) + factor * np.mean(output**2), rel=1e-5
    )
    assert step.kernel == pytest.approx(before - RATE * slope, rel=1e-5)


def test_no_losses_are_added_if_so_asked(data):
    x, y = data

    def body(step, x, y):
        objective = lambda: ops.mean(errors(step, x, y))  # noqa: E731
        return {"loss": step.minimize(objective, step.optimizer, add_losses=False)}

    step = Custom(body)
    step.model = penalized()
    before = step.kernel

    logged = train(step, data)

    assert logged["loss"] == pytest.approx(np.mean((x @ before - y[:, 0]) ** 2), rel=1e-5)


def test_losses_added_outside_the_objective_do_not_count(data):
    x, y = data

    def body(step, x, y):
        step.model(x)
        return minimizing(lambda step, x, y: ops.mean(ops.square(x @ step.weight - y)))(step, x, y)

    step = Custom(body, weight=keras.Variable(np.ones((FEATURES, 1), "float32")))
    step.model = keras.Sequential([keras.Input((FEATURES,)), AddingLoss()])
    step.body = lambda step, x, y: (
        step.model(x),
        {
            "loss": step.minimize(
                lambda: ops.mean(ops.square(ops.matmul(x, step.weight) - y)),
                step.optimizer,
                [step.weight],
            )
        },
    )[1]

    logged = train(step, data)

    assert logged["loss"] == pytest.approx(np.mean((x.sum(axis=1) - y[:, 0]) ** 2), rel=1e-5)


# The two halves.


def test_gradients_are_a_sequence_with_their_variables(data):
    x, y = map(ops.convert_to_tensor, data)
    step = Custom(None)

    grads = step.gradients(lambda: ops.mean(errors(step, x, y)), step.model)

    assert isinstance(grads, Gradients)
    assert [v.path for v in grads.variables] == [v.path for v in step.model.trainable_variables]
    assert len(grads) == 1
    assert tuple(grads[0].shape) == (FEATURES, 1)
    assert float(grads.returned) == pytest.approx(float(ops.mean(errors(step, x, y))))
    assert not grads.is_altered
    assert grads.replaced([grads[0] * 2.0]).is_altered


def test_minimizing_is_taking_gradients_and_applying_them(data):
    def halves(step, x, y):
        grads = step.gradients(lambda: errors(step, x, y), step.model)
        step.apply(step.optimizer, grads)
        return {"loss": grads.returned}

    def pairs(step, x, y):
        grads = step.gradients(lambda: errors(step, x, y), step.model)
        step.apply(step.optimizer, zip(grads, grads.variables, strict=True))
        return {"loss": grads.returned}

    steps = [Custom(body) for body in (minimizing(errors), halves, pairs)]
    for step in steps[1:]:
        step.model.set_weights(steps[0].model.get_weights())

    logged = [train(step, data) for step in steps]

    assert logged[0] == logged[1] == logged[2]
    assert (
        bits(steps[0].model.weights) == bits(steps[1].model.weights) == bits(steps[2].model.weights)
    )


def numpy_gradients():
    return [np.array([[3.0, 0.0], [0.0, -4.0]], "float32"), np.array([0.0, 12.0], "float32")]


def as_gradients(values):
    return Gradients([ops.convert_to_tensor(v) for v in values], [None] * len(values))


def arrays(gradients):
    return [ops.convert_to_numpy(gradient) for gradient in gradients]


def test_clipping_by_value_limits_each_element():
    limit = 2.5

    clipped = as_gradients(numpy_gradients()).clip_by_value(limit)

    for ours, theirs in zip(arrays(clipped), numpy_gradients(), strict=True):
        assert np.array_equal(ours, np.clip(theirs, -limit, limit))
    assert clipped.is_altered


@pytest.mark.parametrize("max_norm", [2.0, 6.0, 100.0])
def test_clipping_by_norm_scales_each_by_itself(max_norm):
    clipped = as_gradients(numpy_gradients()).clip_by_norm(max_norm)

    for ours, theirs in zip(arrays(clipped), numpy_gradients(), strict=True):
        norm = np.linalg.norm(theirs)
        assert ours == pytest.approx(theirs * min(1.0, max_norm / norm), rel=1e-6)


@pytest.mark.parametrize("max_norm", [1.0, 100.0])
def test_clipping_by_the_global_norm_scales_all_by_one_factor(max_norm):
    joint = 13.0

    clipped, norm = as_gradients(numpy_gradients()).clip_by_global_norm(max_norm)

    assert float(norm) == pytest.approx(joint)
    for ours, theirs in zip(arrays(clipped), numpy_gradients(), strict=True):
        assert ours == pytest.approx(theirs * min(1.0, max_norm / joint), rel=1e-6)


def test_gradients_of_zero_are_clipped_to_zero():
    zeros = as_gradients([np.zeros(3, "float32")])

    assert not np.any(arrays(zeros.clip_by_norm(1.0))[0])
    clipped, norm = zeros.clip_by_global_norm(1.0)
    assert float(norm) == 0.0
    assert not np.any(arrays(clipped)[0])


def test_clipped_gradients_are_what_is_applied(data):
    x, y = data
    max_norm = 0.01

    def body(step, x, y):
        grads = step.gradients(lambda: errors(step, x, y), step.model)
        clipped, norm = grads.clip_by_global_norm(max_norm)
        step.apply(step.optimizer, clipped)
        return {"loss": grads.returned, "norm": norm}

    step = Custom(body)
    before = step.kernel

    logged = train(step, data, execution="auto")

    slope = 2 * x.T @ (x @ before - y[:, 0]) / ROWS
    assert logged["norm"] == pytest.approx(np.linalg.norm(slope), rel=1e-5)
    direction = slope / np.linalg.norm(slope)
    assert step.kernel == pytest.approx(before - RATE * max_norm * direction, rel=1e-5)


# Gradients within objectives, and for inputs.


def test_gradients_for_inputs_have_the_form_of_the_inputs(data):
    x, _ = map(ops.convert_to_tensor, data)
    step = Custom(None)

    single = step.gradients(lambda x: ops.sum(step.model(x)), x)
    several = step.gradients(lambda a, b: ops.sum(step.model(a) * b), [x, ops.ones((ROWS, 1))])

    assert arrays([single])[0] == pytest.approx(np.tile(step.kernel, (ROWS, 1)))
    assert isinstance(several, list)
    assert arrays(several)[0] == pytest.approx(np.tile(step.kernel, (ROWS, 1)))
    assert arrays(several)[1][:, 0] == pytest.approx(np.asarray(x) @ step.kernel, rel=1e-5)


def test_gradients_for_inputs_work_in_a_test_step(data):
    class Saliency(Custom):
        def test_step(self, batch):
            x, _ = batch
            slope = self.gradients(lambda x: ops.sum(ops.square(self.model(x))), x)
            return {"slope": ops.sqrt(ops.sum(ops.square(slope), axis=1))}

    x, _ = data
    step = Saliency(None)

    logged = pg.evaluate(step, data)

    slopes = 2 * (x @ step.kernel)[:, None] * step.kernel
    assert logged["slope"] == pytest.approx(np.linalg.norm(slopes, axis=1).mean(), rel=1e-5)


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_a_gradient_penalty_is_differentiated_through(data, execution):
    """The slope of a linear critic is its kernel, so the penalty `(|kernel| - 1)**2` is known."""
    factor = 10.0

    def objective(step, x, y):
        slopes = step.gradients(lambda x: ops.sum(step.model(x)), x)
        norms = ops.sqrt(ops.sum(ops.square(slopes), axis=1))
        return ops.mean(step.model(x)) + factor * ops.mean(ops.square(norms - 1.0))

    x, _ = data
    step = Custom(minimizing(objective))
    before = step.kernel

    logged = train(step, data, execution=execution)

    norm = np.linalg.norm(before)
    slope = x.mean(axis=0) + factor * 2 * (norm - 1) * before / norm
    assert logged["loss"] == pytest.approx(np.mean(x @ before) + factor * (norm - 1) ** 2, rel=1e-4)
    assert step.kernel == pytest.approx(before - RATE * slope, rel=1e-4)


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_second_order_through_variables_is_exact(data, execution):
    """Of least squares the gradient is `H w - b`, so the gradient of its square is `2 H g`."""

    def objective(step, x, y):
        grads = step.gradients(lambda: ops.mean(errors(step, x, y)), step.model)
        return sum(ops.sum(ops.square(grad)) for grad in grads)

    x, y = data
    step = Custom(minimizing(objective))
    before = step.kernel

    logged = train(step, data, execution=execution)

    hessian = 2 * x.T @ x / ROWS
    slope = hessian @ before - 2 * x.T @ y[:, 0] / ROWS
    assert logged["loss"] == pytest.approx(slope @ slope, rel=1e-4)
    assert step.kernel == pytest.approx(before - RATE * 2 * hessian @ slope, rel=1e-4)


def test_an_inner_gradient_adds_no_losses_of_its_own(data):
    def objective(step, x, y):
        [slope] = step.gradients(lambda: ops.mean(errors(step, x, y)), step.model)
        return ops.sum(ops.square(slope))

    x, y = data
    strength = 0.3
    step = Custom(minimizing(objective))
    step.model = penalized(strength)
    before = step.kernel

    logged = train(step, data)

    slope = 2 * x.T @ (x @ before - y[:, 0]) / ROWS
    once = strength * np.sum(before**2)
    assert logged["loss"] == pytest.approx(slope @ slope + once, rel=1e-4)


# Conditions.


def adam():
    return keras.optimizers.Adam(
        RATE, use_ema=True, ema_momentum=0.9, weight_decay=0.1, global_clipnorm=1.0
    )


def conditional(step, x, y, is_wanted):
    grads = step.gradients(lambda: ops.mean(errors(step, x, y)), step.model)
    step.apply(step.optimizer, grads, when=ops.all(ops.cast(is_wanted, "bool")))
    return {"calm": ops.ones(())}


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_nothing_changes_where_a_condition_is_false_even_under_nan(data, execution):
    x, y = data
    step = Custom(conditional, optimizer=adam())
    train(step, (x, y, np.ones(ROWS)), execution=execution)
    state = [*step.model.variables, *step.optimizer.variables]
    before = bits(state)

    train(step, (x * np.nan, y, np.zeros(ROWS)), execution=execution)

    assert bits(state) == before
    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == 1


def test_a_true_condition_is_none_at_all(data):
    x, y = data

    def unconditional(step, x, y, _):
        grads = step.gradients(lambda: ops.mean(errors(step, x, y)), step.model)
        step.apply(step.optimizer, grads)
        return {"calm": ops.ones(())}

    steps = [Custom(body, optimizer=adam()) for body in (conditional, unconditional)]
    steps[1].model.set_weights(steps[0].model.get_weights())

    for step in steps:
        train(step, (x, y, np.ones(ROWS)), epochs=3, execution="auto")

    assert steps[0].kernel == pytest.approx(steps[1].kernel, rel=1e-6)


def test_a_condition_is_read_at_each_step(data):
    x, y = data
    step = Custom(conditional)
    wanted = np.array([1, 0, 1, 1, 0, 1])

    train(step, (x, y, wanted), batch_size=1, execution="auto")

    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == wanted.sum()


# What counts.


class Weighing(pg.Step):
    def test_step(self, batch):
        return {"v": ops.mean(batch["inputs"])}


class WeighingTokens(Weighing):
    def num_examples(self, batch):
        return ops.sum(batch["length"])


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_the_step_may_say_how_many_examples_a_batch_holds(execution):
    data = [
        {"inputs": np.full((2, 1), 1.0, "float32"), "length": np.array([1, 2])},
        {"inputs": np.full((2, 1), 5.0, "float32"), "length": np.array([6, 1])},
    ]

    logged = pg.evaluate(WeighingTokens(), data, execution=execution)

    assert logged["v"] == pytest.approx((1.0 * 3 + 5.0 * 7) / 10)


@pytest.mark.filterwarnings("ignore:ExamplesUnknown")
@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_batches_without_a_common_first_axis_weigh_one_each(execution):
    data = [
        {"inputs": np.full((8, 1), 1.0, "float32"), "other": np.zeros(5, "float32")},
        {"inputs": np.full((2, 1), 5.0, "float32"), "other": np.zeros(5, "float32")},
    ]

    assert pg.evaluate(Weighing(), data, execution=execution)["v"] == pytest.approx(3.0)


@pytest.mark.parametrize("other", [None, np.float32(0.5)], ids=["nothing", "a scalar"])
@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_what_has_no_first_axis_does_not_count(other, execution):
    data = [
        {"inputs": np.full((3, 1), 1.0, "float32"), "other": other},
        {"inputs": np.full((1, 1), 5.0, "float32"), "other": other},
    ]

    assert pg.evaluate(Weighing(), data, execution=execution)["v"] == pytest.approx(2.0)


class Noting(Custom):
    """Notes whether it is rehearsed, in the method and in the objective."""

    def __init__(self, note):
        super().__init__(None)
        self.error = keras.metrics.Mean(name="error")
        self.note = note

    def train_step(self, batch):
        def objective():
            self.note(self.rehearsing)
            return ops.mean(ops.square(self.model(batch)))

        self.note(self.rehearsing)
        loss = self.minimize(objective, self.optimizer)
        self.error.update_state(loss)
        return {"loss": loss, "twice": 2 * self.error.result()}


@pytest.mark.parametrize("execution", ["auto", "eager"])
def test_a_step_knows_whether_it_is_rehearsed(execution):
    notes, steps = [], 3
    step = Noting(notes.append)

    pg.fit(step, np.ones((steps, FEATURES), "float32"), batch_size=1, execution=execution)

    rehearsed = notes.count(True)
    assert rehearsed >= 2
    assert notes == [True] * rehearsed + [False] * (len(notes) - rehearsed)
    assert len(notes) - rehearsed == 2 * steps or execution == "auto"
    assert not step.rehearsing


def test_a_step_knows_that_it_is_checked():
    notes = []
    step = Noting(notes.append)

    pg.check(step, np.ones((ROWS, FEATURES), "float32"))

    assert set(notes) == {True}


def test_a_step_is_no_longer_rehearsed_after_an_error():
    notes = []
    step = Noting(notes.append)
    step.optimizer = None

    with pytest.raises(pg.PerigeeError):
        pg.fit(step, np.ones((ROWS, FEATURES), "float32"))

    assert set(notes) <= {True}
    assert not step.rehearsing
