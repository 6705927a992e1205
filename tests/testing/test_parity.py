"""`parity` says that equal trainings are equal, and finds planted differences with their cause."""

import itertools
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee._errors import ArgumentError
from perigee._step.state import INTERNALS, snapshot, track
from perigee.testing import parity
from tests.backends.problems import BATCH as PROBLEM_BATCH
from tests.backends.problems import PROBLEMS

ROWS, BATCH, STEPS = 20, 8, 4  # the third batch has 4 rows


def data(seed=1):
    x = np.random.default_rng(seed).normal(size=(ROWS, 4)).astype("float32")
    return x, (x[:, :1] + x[:, 1:2] ** 2).astype("float32")


def classes():
    x, y = data()
    return x, np.eye(3, dtype="float32")[np.clip(np.round(np.abs(y[:, 0])), 0, 2).astype(int)]


class Regression(pg.Step):
    """A regression in which subclasses and arguments plant what a loop may get wrong."""

    def __init__(self, dropout=0.0, penalty=None, optimizer=None, factor=1.0, training=True):
        keras.utils.set_random_seed(2)
        middle = [layers.Dropout(dropout, seed=3)] if dropout else []
        self.model = keras.Sequential(
            [
                keras.Input((4,)),
                layers.Dense(6, activation="tanh", kernel_regularizer=penalty),
                *middle,
                layers.Dense(1),
            ]
        )
        self.optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
        self.error = keras.metrics.Mean(name="error")
        self.factor, self.training = factor, training
        self.adds_losses = True

    def objective(self, x, y):
        return self.factor * ops.mean(ops.square(self.model(x, training=self.training) - y))

    def measure(self, x, y):
        self.error.update_state(ops.abs(self.model(x, training=False) - y))

    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(
            lambda: self.objective(x, y), self.optimizer, self.model, add_losses=self.adds_losses
        )
        self.measure(x, y)
        return {"loss": loss}


class Sum(Regression):
    def objective(self, x, y):
        return ops.sum(ops.square(self.model(x, training=True) - y))


class FullBatches(Regression):
    """Divides by the size that batches usually have."""

    def objective(self, x, y):
        return ops.sum(ops.square(self.model(x, training=True) - y)) / BATCH


class Twice(Regression):
    """Adds the penalty a second time."""

    def objective(self, x, y):
        kernel = self.model.layers[0].kernel
        return super().objective(x, y) + kernel.regularizer(kernel)


class ByHand(Regression):
    """Adds a penalty that it computes itself."""

    def objective(self, x, y):
        kernel = self.model.layers[0].kernel
        return super().objective(x, y) + 0.01 * ops.sum(ops.square(kernel))


class NoisyInputs(Regression):
    """Draws noise from a seed of its own."""

    seed = 1

    def __init__(self):
        super().__init__()
        self.generator = keras.random.SeedGenerator(self.seed)

    def objective(self, x, y):
        # A number as the seed is the same in each step.
        noise = keras.random.normal(ops.shape(x), seed=self.seed)
        return super().objective(x + noise, y)


class OtherNoise(NoisyInputs):
    seed = 2


class MeanOfMeans(Regression):
    def measure(self, x, y):
        self.error.update_state(ops.mean(ops.abs(self.model(x, training=False) - y)))


class TwoUpdates(Regression):
    """Lets the optimizer count an update that changes nothing."""

    def train_step(self, batch):
        logs = super().train_step(batch)
        self.optimizer.iterations.assign(self.optimizer.iterations + 1)
        return logs


class ClipsEach(Regression):
    def train_step(self, batch):
        x, y = batch
        gradients = self.gradients(lambda: self.objective(x, y), self.model)
        self.apply(self.optimizer, gradients.clip_by_norm(0.05))
        self.measure(x, y)
        return {"loss": gradients.returned}


class ClipsTogether(ClipsEach):
    def train_step(self, batch):
        x, y = batch
        gradients = self.gradients(lambda: self.objective(x, y), self.model)
        clipped, _ = gradients.clip_by_global_norm(0.05)
        self.apply(self.optimizer, clipped)
        self.measure(x, y)
        return {"loss": gradients.returned}


def without_added_losses():
    step = Regression(penalty="l2")
    step.adds_losses = False
    return step


def frozen():
    step = Regression()
    step.model.layers[0].trainable = False
    return step


def sgd(**options):
    return Regression(optimizer=keras.optimizers.SGD(**({"learning_rate": 0.1} | options)))


def scheduled(boundary):
    return sgd(learning_rate=keras.optimizers.schedules.PiecewiseConstantDecay([boundary], [1, 2]))


def classifier(loss, activation=None):
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=activation)])
    return pg.Supervised(model, keras.optimizers.SGD(0.1), loss)


def entropy(**options):
    return classifier(keras.losses.CategoricalCrossentropy(**({"from_logits": True} | options)))


PLANTED = {
    "sum": (Regression, Sum, "reduction"),
    "sum under Adam": (
        lambda: Regression(optimizer=keras.optimizers.Adam(0.01)),
        lambda: Sum(optimizer=keras.optimizers.Adam(0.01)),
        "reduction",
    ),
    "a constant factor": (Regression, lambda: Regression(factor=3.0), "reduction"),
    "full batches": (Regression, FullBatches, "ragged last batch"),
    "no penalty": (lambda: Regression(penalty="l2"), without_added_losses, "regularization"),
    "penalty twice": (
        lambda: Regression(penalty="l2"),
        lambda: Twice(penalty="l2"),
        "regularization",
    ),
    "penalty by hand": (
        lambda: Regression(penalty="l2"),
        lambda: ByHand(penalty="l2"),
        "regularization",
    ),
    "training": (
        lambda: Regression(dropout=0.3),
        lambda: Regression(dropout=0.3, training=False),
        "training flag",
    ),
    "noise": (NoisyInputs, OtherNoise, "seeds"),
    "mean of means": (Regression, MeanOfMeans, "metric state"),
    "learning rate": (sgd, lambda: sgd(learning_rate=0.11), "learning rate or schedule clock"),
    "schedule": (
        lambda: scheduled(1),
        lambda: scheduled(2),
        "learning rate or schedule clock",
    ),
    "two updates": (Regression, TwoUpdates, "learning rate or schedule clock"),
    "momentum": (lambda: sgd(momentum=0.9), lambda: sgd(momentum=0.5), "unknown"),
    "clipping by the optimizer": (
        lambda: sgd(clipnorm=0.05),
        lambda: sgd(global_clipnorm=0.05),
        "clipping",
    ),
    "clipping in the step": (ClipsEach, ClipsTogether, "clipping"),
    "clipping left out": (Regression, ClipsTogether, "clipping"),
    "frozen": (Regression, frozen, "frozen variables"),
    "loss scale": (Regression, lambda: Regression(factor=1024.0), "loss scale"),
    "label smoothing": (entropy, lambda: entropy(label_smoothing=0.1), "label smoothing"),
    "from_logits": (entropy, lambda: entropy(from_logits=False), "from_logits"),
}


@pytest.mark.spread(3, once=True)
@pytest.mark.filterwarnings("ignore:.*from_logits")
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found_with_its_cause(name):
    right, wrong, cause = PLANTED[name]
    rows = classes() if name in ("label smoothing", "from_logits") else data()
    step, other = right(), wrong()
    before = values_of(step), values_of(other)

    report = parity(step, other, rows, steps=STEPS, batch_size=BATCH)

    assert not report
    assert report.parting.cause == cause, str(report)
    assert report.parting.values[0] != report.parting.values[1]
    assert unlike(before[0], values_of(step)) == unlike(before[1], values_of(other)) == []


def values_of(step):
    return {e.key: snapshot([e.variable])[0] for e in track(step).entries}


def unlike(before, after):
    return [key for key in before if before[key].tobytes() != after[key].tobytes()]


def test_where_they_part_is_told():
    report = parity(Regression(), FullBatches(), data(), steps=STEPS, batch_size=BATCH)

    parting = report.parting
    assert (parting.step, report.steps) == (2, 3)
    assert parting.name.startswith("model/")
    said = str(report)
    assert f"differ at step 2: {parting.name}[" in said
    assert "ragged last batch" in said and "4 of 8 rows" in said


def compiled(step, **options):
    keras.utils.set_random_seed(2)
    model = keras.models.clone_model(step.model)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", **options)
    return model


def test_a_step_equals_the_fit_of_a_compiled_model():
    step = Regression(penalty="l2")

    report = parity(step, compiled(step), data(), steps=STEPS, batch_size=BATCH)

    assert report, str(report)
    assert any(name.endswith("kernel") for name in report.variables)
    assert "Equal" in str(report)


@pytest.mark.only_tensorflow
def test_a_model_that_has_a_train_step_and_no_call_is_compared():
    import tensorflow as tf

    class Trainer(keras.Model):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def train_step(self, data):
            x, y = data  # as `fit` gives it, without weights
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self.net(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, self.net.trainable_variables)
            self.optimizer.apply(gradients, self.net.trainable_variables)
            return {"loss": loss}

    step, other = Regression(), Regression()
    model = Trainer(other.model)
    model.compile(other.optimizer)

    report = parity(step, model, data(), STEPS, batch_size=BATCH)
    assert report, str(report)

    other.optimizer.learning_rate = 0.2
    assert not parity(step, model, data(), STEPS, batch_size=BATCH)


def test_a_compiled_model_with_dropout_equals_the_step():
    step = Regression(dropout=0.3)

    report = parity(step, compiled(step), data(), steps=STEPS, batch_size=BATCH)

    assert report, str(report)


@pytest.mark.spread(1)
@pytest.mark.parametrize(
    "make, cause",
    [
        (Sum, "reduction"),
        (without_added_losses, "regularization"),
        (FullBatches, "ragged last batch"),
    ],
)
def test_a_step_that_differs_from_fit_is_found(make, cause):
    step = make()

    report = parity(step, compiled(step), data(), steps=STEPS, batch_size=BATCH)

    assert report.parting.cause == cause, str(report)


def loop(model, optimizer, training=True, reduce=ops.mean):
    """Return a plain function that trains a model, as it is written for each framework."""
    framework = keras.backend.backend()

    def loss_of(x, y):
        return reduce(ops.square(model(x, training=training) - y))

    def step(batch):
        x, y = batch
        variables = model.trainable_variables
        if framework == "tensorflow":
            import tensorflow as tf

            with tf.GradientTape() as tape:
                loss = loss_of(x, y)
            gradients = tape.gradient(loss, [v.value for v in variables])
        elif framework == "torch":
            import torch

            loss = loss_of(x, y)
            gradients = torch.autograd.grad(loss, [v.value for v in variables])
        else:
            import jax

            def pure(values):
                with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
                    loss = loss_of(x, y)
                states = [scope.get_current_value(v) for v in model.non_trainable_variables]
                return loss, states

            values = [v.value for v in variables]
            (loss, states), gradients = jax.value_and_grad(pure, has_aux=True)(values)
            for variable, value in zip(model.non_trainable_variables, states, strict=True):
                if value is not None:
                    variable.assign(value)
        optimizer.apply(list(gradients), variables)
        return {"loss": loss}

    return step


def test_a_step_equals_a_plain_loop_on_its_own_model():
    step = Regression()

    report = parity(step, loop(step.model, step.optimizer), data(), steps=STEPS, batch_size=BATCH)

    assert [name for name in report.variables if "kernel" in name]
    # A loop that updates no metric differs in metrics only.
    assert report.parting.cause == "metric state", str(report)


def test_a_step_equals_a_plain_loop_on_a_model_of_its_own():
    step, other = Regression(), Regression()
    holds = {"model": other.model, "optimizer": other.optimizer}
    other.optimizer.build(other.model.trainable_variables)

    report = parity(step, loop(**holds), data(), steps=STEPS, batch_size=BATCH, holds=holds)

    assert report, str(report)


@pytest.mark.parametrize(
    "options, cause", [({"training": False}, "training flag"), ({"reduce": ops.sum}, "reduction")]
)
def test_a_plain_loop_that_differs_is_found(options, cause):
    step, other = Regression(dropout=0.3), Regression(dropout=0.3)
    if cause == "reduction":
        step, other = Regression(), Regression()
    holds = {"model": other.model, "optimizer": other.optimizer}
    other.optimizer.build(other.model.trainable_variables)

    report = parity(
        step, loop(**holds, **options), data(), steps=STEPS, batch_size=BATCH, holds=holds
    )

    assert report.parting.cause == cause, str(report)


def only_there(framework):
    """Return the marks of a problem that one framework is enough for: the comparison knows none."""
    return [pytest.mark.slow, getattr(pytest.mark, f"only_{framework}")]


EVERYWHERE = ("vector loss", "batch statistics and dropout", "two outputs", "conditional updates")
SHARED_OUT = itertools.cycle(("tensorflow", "jax", "torch"))
COMPARED = [
    pytest.param(name, marks=() if name in EVERYWHERE else only_there(next(SHARED_OUT)))
    for name, problem in PROBLEMS.items()
    if problem.fit.get("accumulate", 1) == 1
]


@pytest.mark.spread(1)
@pytest.mark.parametrize("name", COMPARED)
def test_a_problem_of_the_conformance_table_equals_itself(name):
    problem = PROBLEMS[name]

    def made():
        keras.utils.clear_session()
        keras.utils.set_random_seed(7)
        return problem.make_step()

    size = None if isinstance(problem.data, list) else PROBLEM_BATCH
    report = parity(made(), made(), problem.data, steps=6, batch_size=size)

    assert report, str(report)
    assert report.result == "equal"


def test_everything_is_left_as_it_was():
    step, rows = Regression(dropout=0.3), data()
    other = Sum(dropout=0.3)
    kept = [part.copy() for part in rows]
    pg.fit(step, rows, epochs=1, progress="off")
    attributes, before = dict(vars(step)), values_of(step)
    programs = dict(vars(step)[INTERNALS].programs)
    drawn = np.random.get_state()[1].tolist()
    other_attributes = dict(vars(other))

    parity(step, other, rows, steps=STEPS, batch_size=BATCH)

    assert vars(step) == attributes and vars(other) == other_attributes
    assert vars(step)[INTERNALS].programs == programs
    assert unlike(before, values_of(step)) == []
    assert np.random.get_state()[1].tolist() == drawn
    assert all(np.array_equal(a, b) for a, b in zip(rows, kept, strict=True))


def test_the_model_is_left_compiled_as_it_was():
    step = Sum()
    model = compiled(step)
    model.train_on_batch(*data())
    function, before = model.train_function, model.get_weights()

    parity(step, model, data(), steps=STEPS, batch_size=BATCH)

    assert model.train_function is function and not model.run_eagerly
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_another_model_is_refused_with_its_variables():
    other = Regression()
    other.model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])

    with pytest.raises(ArgumentError, match="kernel"):
        parity(Regression(), other, data(), batch_size=BATCH)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"against": 3}, "against"),
        ({"against": keras.Sequential()}, "compile"),
        ({"steps": 0}, "steps"),
        ({"step": 3}, "step"),
        ({"holds": []}, "holds"),
    ],
)
def test_bad_arguments_are_refused(arguments, said):
    given = {"step": Regression(), "against": Regression(), "data": data()}

    with pytest.raises(ArgumentError, match=said):
        parity(**(given | arguments))


@pytest.mark.once
def test_the_code_on_the_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "parity.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))

    exec(compile(code, "docs/parity.md", "exec"), {})
