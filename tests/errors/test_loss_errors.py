"""PG201, PG202, PG207 to PG211: losses that cannot be meant, and averages that lose their count."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import (
    AccumulationError,
    ArgumentError,
    AverageError,
    InnerLossError,
    LossShapeError,
    LossTypeError,
    PairingError,
    RegularizationTwiceError,
)

ROWS, FEATURES, OUTPUTS = 8, 3, 2


class Fitting(pg.Step):
    """Minimizes `objective(step, x, y)` over one model."""

    def __init__(self, objective, model=None):
        self.model = linear() if model is None else model
        self.optimizer = keras.optimizers.SGD(0.1)
        self.objective = objective

    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.objective(self, *batch), self.optimizer)}


def linear(**arguments):
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(OUTPUTS, **arguments)])


def squared(step, x, y):
    return ops.mean(ops.square(y - step.model(x, training=True)))


@pytest.fixture
def data():
    x = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :OUTPUTS]


def test_a_loss_for_each_output_is_refused_with_its_shape(data, refused):
    step = Fitting(lambda step, x, y: ops.square(y - step.model(x)))

    error = refused(LossShapeError, step, data)

    assert isinstance(error, ValueError)
    assert error.code == "PG201"
    assert (error.shape, error.batch) == ((ROWS, OUTPUTS), ROWS)
    assert f"a loss of shape {(ROWS, OUTPUTS)} for a batch of {ROWS}" in str(error)
    assert "`pg.mean(values, weights)`" in error.expected


def test_a_loss_vector_that_is_not_one_value_an_example_is_refused(data, refused):
    step = Fitting(lambda step, x, y: ops.mean(ops.square(y - step.model(x)), axis=0))

    error = refused(LossShapeError, step, data)

    assert error.shape == (OUTPUTS,)


@pytest.mark.parametrize("dtype", ["int32", "bool"])
def test_a_loss_that_is_not_floating_is_refused(data, refused, dtype):
    step = Fitting(lambda step, x, y: ops.cast(squared(step, x, y), dtype))

    error = refused(LossTypeError, step, data)

    assert isinstance(error, TypeError)
    assert error.code == "PG202"
    assert f"a tensor of {dtype}" in str(error)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (1.5, "float (1.5)"),
        (np.float32(0.5), "float32"),
        (np.zeros(ROWS, "float32"), "ndarray"),
        ("low", "str ('low')"),
    ],
    ids=["float", "NumPy scalar", "array", "string"],
)
def test_a_loss_that_is_no_tensor_is_refused(data, refused, wrong, named):
    step = Fitting(lambda step, x, y: (squared(step, x, y), wrong)[1])

    error = refused(LossTypeError, step, data)

    assert f"The objective returned {named}" in str(error)
    assert "without `float()`, `.numpy()`" in error.fix


def test_a_tuple_that_is_not_loss_and_aux_is_refused(data, refused):
    step = Fitting(lambda step, x, y: (squared(step, x, y), x, y))

    assert "returned a tuple of 3" in str(refused(LossTypeError, step, data))


def test_an_objective_that_returns_nothing_is_refused(data, refused):
    step = Fitting(lambda step, x, y: (squared(step, x, y), None)[1])

    assert "returned nothing" in str(refused(LossTypeError, step, data))


def test_labels_that_meet_every_prediction_are_refused(refused):
    x = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    step = Fitting(
        lambda step, x, y: ops.mean(ops.square(y - step.model(x)[:, :1])), model=linear()
    )

    error = refused(PairingError, step, (x, x[:, 0]))

    assert error.code == "PG211"
    assert (error.leaf, error.shape) == ("batch[1]", (ROWS,))
    assert "`y[:, None]`" in error.fix


def test_labels_that_meet_their_own_prediction_are_taken(data):
    x, y = data
    step = Fitting(lambda step, x, y: ops.mean(ops.square(y - step.model(x)[:, 0])))

    assert pg.fit(step, (x, y[:, 0]), progress="off").stop_reason == "epochs"


def of_inputs(loss):
    """Return an objective whose penalty differentiates `loss(y_pred)` for the inputs."""

    def objective(step, x, y):
        slope = step.gradients(lambda x: loss(step.model(x)), x)
        return squared(step, x, y) + ops.mean(ops.square(slope))

    return objective


def of_variables(loss):
    """Return an objective whose penalty differentiates `loss(y_pred)` for the variables."""

    def objective(step, x, y):
        slopes = step.gradients(lambda: loss(step.model(x)), step.model)
        return squared(step, x, y) + sum(ops.mean(ops.square(slope)) for slope in slopes)

    return objective


@pytest.mark.parametrize("inner", [of_inputs, of_variables])
def test_an_inner_loss_of_several_values_is_refused(data, refused, inner):
    step = Fitting(inner(lambda y_pred: y_pred[:, 0]))

    error = refused(InnerLossError, step, data)

    assert error.code == "PG207"
    assert error.shape == (ROWS,)
    assert f"An inner objective returned values of shape {(ROWS,)}" in str(error)
    assert "`ops.sum(...)`" in error.fix


def test_an_objective_for_tensors_that_takes_none_is_refused(data, refused):
    def objective(step, x, y):
        return ops.sum(step.gradients(lambda: ops.sum(step.model(x)), x))

    error = refused(ArgumentError, Fitting(objective), data)

    assert error.given == "<a function of no arguments>"
    assert "1 tensor(s)" in error.expected
    assert "`self.gradients(lambda x: loss(x), x)`" in error.fix


@pytest.mark.parametrize("inner", [of_inputs, of_variables])
def test_an_inner_loss_that_is_an_average_is_refused(data, refused, inner):
    refused(InnerLossError, Fitting(inner(pg.mean)), data)


@pytest.mark.parametrize("inner", [of_inputs, of_variables])
def test_an_inner_loss_that_is_no_tensor_is_refused(data, refused, inner):
    assert "float (1.0)" in str(refused(LossTypeError, Fitting(inner(lambda _: 1.0)), data))


def test_reading_the_losses_that_are_added_anyway_is_refused(data, refused):
    step = Fitting(
        lambda step, x, y: squared(step, x, y) + sum(step.model.losses),
        linear(kernel_regularizer="l2", name="net"),
    )

    error = refused(RegularizationTwiceError, step, data)

    assert error.code == "PG208"
    assert error.terms == 1
    assert f"reads the 1 losses of {step.model.name!r}" in str(error)
    assert "`add_losses=False`" in error.fix


def test_losses_may_be_added_by_hand_where_they_are_not_added_anyway(data):
    class ByHand(Fitting):
        def train_step(self, batch):
            x, y = batch

            def objective():
                return squared(self, x, y) + sum(self.model.losses)

            return {"loss": self.minimize(objective, self.optimizer, add_losses=False)}

    model = linear(kernel_regularizer="l2")
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    by_hand, anyway = ByHand(None, model), Fitting(squared, twin)

    losses = [
        pg.fit(step, data, seed=0, progress="off").history["loss"] for step in (by_hand, anyway)
    ]

    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert np.allclose(model.get_weights()[0], twin.get_weights()[0], rtol=1e-6)


def test_losses_may_be_read_within_an_inner_objective(data):
    """What an inner objective differentiates is its own affair: nothing is added there."""

    def objective(step, x, y):
        slopes = step.gradients(lambda: squared(step, x, y) + sum(step.model.losses), step.model)
        return squared(step, x, y) + sum(ops.mean(ops.square(slope)) for slope in slopes)

    step = Fitting(objective, linear(kernel_regularizer="l2"))

    assert pg.fit(step, data, execution="eager", progress="off").stop_reason == "epochs"


def weighted_sum(step, x, y):
    y_pred = step.model(x)
    return pg.mean(ops.square(y - y_pred), weights=ops.abs(y)) + pg.mean(y_pred)


class Altering(Fitting):
    def train_step(self, batch):
        grads = self.gradients(lambda: squared(self, *batch), self.model)
        self.apply(self.optimizer, grads.clip_by_value(1.0))
        return {"loss": grads.returned}


class Twice(Fitting):
    def train_step(self, batch):
        self.minimize(lambda: squared(self, *batch), self.optimizer)
        return {"loss": self.minimize(lambda: squared(self, *batch), self.optimizer)}


class Following(Fitting):
    """A second model is trained on what the first has become."""

    def __init__(self):
        super().__init__(squared)
        self.second, self.second_optimizer = linear(), keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        self.minimize(lambda: squared(self, x, y), self.optimizer, self.model)

        def objective():
            return ops.mean(ops.square(self.model(x) - self.second(x)))

        return {"loss": self.minimize(objective, self.second_optimizer, self.second)}


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Fitting(weighted_sum), "divided by different counts"),
        (lambda: Altering(squared), "altered between `gradients` and `apply`"),
        (lambda: Twice(squared), "applied several times per step"),
        (Following, "a later objective reads 'model/"),
    ],
    ids=["different counts", "altered gradients", "one optimizer twice", "later objective"],
)
def test_what_cannot_be_accumulated_exactly_is_refused(data, refused, make, why):
    micro_batches = 2

    error = refused(AccumulationError, make(), data, batch_size=2, accumulate=micro_batches)

    assert error.code == "PG209"
    assert why in error.why
    assert "This step cannot be accumulated exactly" in str(error)


@pytest.mark.parametrize(
    "make", [lambda: Fitting(weighted_sum), lambda: Altering(squared), lambda: Twice(squared)]
)
def test_the_same_steps_train_without_accumulation(data, make):
    assert pg.fit(make(), data, progress="off").stop_reason == "epochs"


def test_an_optimizer_that_only_later_steps_apply_cannot_accumulate(data):
    class Switching(Fitting):
        def __init__(self):
            super().__init__(squared)
            self.late = keras.optimizers.SGD(0.1)
            self.late.build(self.model.trainable_variables)

        def train_step(self, batch):
            optimizer = self.optimizer if self.rehearsing else self.late
            return {"loss": self.minimize(lambda: squared(self, *batch), optimizer)}

    with pytest.raises(AccumulationError, match="the rehearsal of the step did not see"):
        pg.fit(Switching(), data, batch_size=2, accumulate=2, progress="off")


OPERATIONS = {
    "+ vector": lambda a: a + ops.ones(3),
    "+ string": lambda a: a + "1",
    "* vector": lambda a: a * ops.ones(3),
    "* average": lambda a: a * a,
    "/ average": lambda a: 1.0 / a,
    "average /": lambda a: a / a,
    "/ vector": lambda a: a / ops.ones(3),
    "**": lambda a: a**2,
    "reversed **": lambda a: 2.0**a,
    "//": lambda a: a // 2,
    "%": lambda a: a % 2,
    "@": lambda a: a @ a,
    "abs": abs,
    "<": lambda a: a < 1,
    "<=": lambda a: a <= 1,
    ">": lambda a: a > 1,
    ">=": lambda a: a >= 1,
    "==": lambda a: a == 1,
    "!=": lambda a: a != 1,
    "float": float,
    "int": int,
    "bool": bool,
    "numpy": np.asarray,
    "np.log": np.log,
    "ops.log": ops.log,
    "ops.mean": ops.mean,
    "attribute": lambda a: a.shape,
    "method": lambda a: a.numpy(),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_an_average_refuses_what_would_lose_its_count(data, refused, operation):
    def objective(step, x, y):
        return operation(pg.mean(ops.square(y - step.model(x))))

    if operation in (OPERATIONS["attribute"], OPERATIONS["method"]):
        with pytest.raises(AttributeError, match=r"AverageError \[PG210\]"):
            pg.fit(Fitting(objective), data, progress="off")
        return

    error = refused(AverageError, Fitting(objective), data)

    assert isinstance(error, TypeError)
    assert error.code == "PG210"
    assert "An Average does not support" in str(error)
    assert "`pg.mean(values, weights)`" in error.fix


SUPPORTED = {
    "+ average": lambda a: a + a,
    "+ number": lambda a: a + 1.0,
    "number +": lambda a: 1.0 + a,
    "+ scalar tensor": lambda a: a + ops.ones(()),
    "scalar tensor +": lambda a: ops.ones(()) + a,
    "sum": lambda a: sum([a, a]),
    "* number": lambda a: a * 2.0,
    "number *": lambda a: 2 * a,
    "NumPy number *": lambda a: np.float32(2) * a,
    "scalar tensor *": lambda a: ops.ones(()) * a,
    "/ number": lambda a: a / 2,
    "- average": lambda a: a * 2.0 - a,
    "- number": lambda a: a - 1.0,
    "number -": lambda a: 1.0 - a * -1.0,
    "scalar tensor -": lambda a: ops.ones(()) - a * -1.0,
    "negative": lambda a: a * 2.0 + -a,
}


@pytest.mark.parametrize("operation", SUPPORTED.values(), ids=SUPPORTED.keys())
def test_an_average_bears_what_keeps_its_count(data, operation):
    step = Fitting(lambda step, x, y: operation(pg.mean(ops.square(y - step.model(x)))))

    assert pg.fit(step, data, execution="eager", progress="off").stop_reason == "epochs"
