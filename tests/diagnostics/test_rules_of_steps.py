"""Rules about what steps do with gradients, modes and state, and programs that only look wrong."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import perigee as pg
from tests.diagnostics.programs import (
    FEATURES,
    Own,
    answers,
    classes,
    codes,
    compiled,
    inputs,
    model,
    numbers,
    reader,
    small,
    sparse,
    squares,
    supervised,
    words,
)


def sgd(rate=0.1, **options):
    return keras.optimizers.SGD(rate, **options)


def severities(report):
    return {finding.code: finding.severity for finding in report}


def scaled(factor):
    return lambda gradients: [factor * gradient for gradient in gradients]


# Gradients.


@pytest.mark.parametrize("make", [sgd, keras.optimizers.Adam], ids=["sgd", "adam"])
def test_a_step_that_follows_the_gradient_of_its_loss_uphill_is_found(make):
    assert "PG222" in codes(
        Own(small(1), squares, optimizer=make(0.01), change=scaled(-1.0)), numbers()
    )
    assert codes(Own(small(1), squares, optimizer=make(0.01), change=scaled(0.9)), numbers()) == []


class Reward(pg.Step):
    """Moves its weights by hand along the gradient of what it logs under some name."""

    def __init__(self, name, sign):
        self.model, self.name, self.sign = small(1), name, sign

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.mean(squares(y, self.model(x, training=True)))

        gradients = self.gradients(objective, self.model)
        for variable, gradient in zip(gradients.variables, gradients, strict=True):
            variable.assign_add(self.sign * 0.01 * gradient)
        return {self.name: gradients.returned}


def test_what_is_not_named_a_loss_may_be_maximized():
    found = {
        (name, sign): "PG222" in codes(Reward(name, sign), numbers())
        for name in ("loss", "reward")
        for sign in (1.0, -1.0)
    }

    assert [key for key, is_found in found.items() if is_found] == [("loss", 1.0)]


@pytest.mark.parametrize("limit", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_gradients_that_an_optimizer_clips_to_nothing_are_found(limit):
    tiny, usual = {limit: 1e-6}, {limit: 0.5}

    assert codes(compiled(small(3), sparse(), optimizer=sgd(**tiny)), classes()) == ["PG141"]
    assert codes(supervised(small(3), sparse(), optimizer=sgd(**tiny)), classes()) == ["PG141"]
    assert codes(compiled(small(3), sparse(), optimizer=sgd(**usual)), classes()) == []


def test_gradients_that_a_step_scales_to_nothing_are_found():
    assert codes(Own(small(1), squares, optimizer=sgd(), change=scaled(1e-6)), numbers()) == [
        "PG141"
    ]


def test_what_adam_clips_is_of_no_size_anyway():
    adam = keras.optimizers.Adam(1e-3, clipnorm=1e-5)

    assert codes(compiled(small(3), sparse(), optimizer=adam), classes()) == []


def test_a_low_rate_by_itself_is_not_clipped():
    assert "PG141" not in codes(supervised(small(3), sparse(), optimizer=sgd(1e-5)), classes())


def test_a_sum_that_is_meant_is_a_hint():
    def of(optimizer):
        summed = keras.losses.MeanSquaredError(reduction="sum")
        report = pg.check(supervised(small(1), summed, optimizer=optimizer), numbers())
        return severities(report).get("PG220")

    assert of(sgd(0.001)) == "hint"
    assert of(sgd(0.1)) == "warning"


def test_padding_with_a_label_of_its_own_that_most_tokens_have_is_a_warning():
    ids, y = words()
    ids[:, 2:] = 0
    step = lambda: Own(reader(mask_zero=False), sparse())  # noqa: E731
    own = np.where(ids == 0, 0, y % 2 + 1).astype("int32")
    shared = np.where(ids == 0, 0, y).astype("int32")

    assert severities(pg.check(step(), (ids, own)))["PG214"] == "warning"
    assert severities(pg.check(step(), (ids, shared)))["PG214"] == "hint"


class Penalized(pg.Step):
    """Adds the penalties of its model some times."""

    def __init__(self, times):
        regularizer = keras.regularizers.L2(0.1)
        self.model = model(kl.Dense(8, "relu", kernel_regularizer=regularizer), kl.Dense(3))
        self.loss, self.times, self.optimizer = sparse(), times, keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        x, y = batch

        def objective():
            loss = self.loss(y, self.model(x, training=True))
            return loss + self.times * sum(self.model.losses)

        loss = self.minimize(objective, self.optimizer, self.model, add_losses=False)
        return {"loss": loss}


def test_penalties_that_are_added_twice_are_found():
    assert codes(Penalized(2), classes()) == ["PG208"]
    assert codes(Penalized(1), classes()) == []


# Modes.


class Imitation(pg.Step):
    """Learns to answer as another model does; `moves`: the other one follows it."""

    def __init__(self, teacher, student, training, moves=False):
        self.teacher, self.student = teacher, student
        self.training, self.moves = training, moves
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, x):
        answer = ops.stop_gradient(self.teacher(x, training=self.training))
        loss = self.minimize(
            lambda: ops.mean(squares(answer, self.student(x, training=True))),
            self.optimizer,
            self.student,
        )
        if self.moves:
            for ours, theirs in zip(self.teacher.weights, self.student.weights, strict=True):
                ours.assign(0.9 * ours + 0.1 * theirs)
        return {"loss": loss}


def teacher(*layers, is_frozen=True):
    network = model(kl.Dense(8, "relu"), *layers, kl.Dense(2))
    network.layers[0].bias.assign(np.linspace(-1, 1, 8))
    network.layers[-1].bias.assign([0.5, -0.5])
    network.trainable = not is_frozen
    return network


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_teacher_with_dropout_in_training_mode_is_found(is_frozen):
    def of(training):
        other = teacher(kl.Dropout(0.5), is_frozen=is_frozen)
        return codes(Imitation(other, small(2), training), inputs())

    assert "PG461" in of(True)
    assert "PG461" not in of(False)


def test_statistics_of_a_teacher_that_change_are_found():
    norm = kl.BatchNormalization()
    other = teacher(norm)
    norm.trainable = True  # a frozen one keeps its statistics

    assert "PG461" in codes(Imitation(other, small(2), True), inputs())
    assert "PG461" not in codes(
        Imitation(teacher(kl.BatchNormalization()), small(2), True), inputs()
    )


def test_a_moving_average_may_be_noisy():
    noisy = lambda: model(kl.Dense(8, "relu"), kl.Dropout(0.5), kl.Dense(2))  # noqa: E731
    other = noisy()
    other.trainable = False

    assert "PG461" not in codes(Imitation(other, noisy(), True, moves=True), inputs())


class Modeless(keras.Model):
    """Its `call` takes no mode, so that its Dropout is never on."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = kl.Dense(8, "relu"), kl.Dropout(0.5), kl.Dense(1)

    def call(self, x):
        return self.last(self.drop(self.first(x)))


def test_a_model_that_takes_no_mode_is_told_to():
    report = pg.check(compiled(Modeless(), "mse"), numbers())

    assert [(finding.code, "`call`" in finding.fix) for finding in report] == [("PG440", True)]


# What is never trained.


def frozen(count, *, is_trained=False, **options):
    layers = [kl.Dense(8, "relu", trainable=False, **options) for _ in range(count)]
    network = model(*layers, kl.Dense(3))
    for layer in layers if is_trained else ():
        layer.kernel.assign(layer.kernel + 0.01)
    return network


def test_layers_that_are_frozen_and_never_trained_are_found():
    for make in (compiled, supervised):
        assert codes(make(frozen(2), sparse()), classes()) == ["PG142"]
    assert codes(supervised(frozen(2, is_trained=True), sparse()), classes()) == []


def test_random_features_are_a_method():
    normal = {"kernel_initializer": "random_normal", "bias_initializer": "random_normal"}

    assert "PG142" not in codes(supervised(frozen(1), sparse()), classes())
    assert "PG142" not in codes(supervised(frozen(2, **normal), sparse()), classes())


def test_a_frozen_embedding_has_been_trained_somewhere():
    def of(**options):
        embedding = kl.Embedding(9, 4, trainable=False, **options)
        network = keras.Sequential([keras.Input((6,), dtype="int32"), embedding, kl.Dense(3)])
        return "PG142" in codes(supervised(network, sparse()), words(padded=False))

    known = np.random.default_rng(5).normal(size=(9, 4))

    assert of()
    assert not of(embeddings_initializer=keras.initializers.Constant(known))
    assert not of(weights=[known])


# State.


class Telling(pg.Step):
    """Tells a metric of a batch some times, a part of it each time or all of it."""

    def __init__(self, metric, times, in_parts=False):
        self.model, self.optimizer = small(1), keras.optimizers.Adam(1e-3)
        self.metric, self.times, self.in_parts = metric, times, in_parts

    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(
            lambda: ops.mean(squares(y, self.model(x, training=True))), self.optimizer
        )
        for part in ops.split(y, self.times) if self.in_parts else [y] * self.times:
            self.metric.update_state(ops.ones_like(part))
        return {"loss": loss}


def test_a_metric_that_counts_a_batch_twice_is_found():
    rows = lambda: keras.metrics.Sum(name="rows")  # noqa: E731

    assert codes(Telling(rows(), 2), numbers()) == ["PG245"]
    assert codes(Telling(rows(), 1), numbers()) == []
    assert codes(Telling(rows(), 2, in_parts=True), numbers()) == []
    assert codes(Telling(keras.metrics.Mean(name="ones"), 2), numbers()) == []


class Centered(kl.Layer):
    """Subtracts a mean, that of the last batches or of the last one alone."""

    def __init__(self, momentum, is_used=True, is_set_once=False):
        super().__init__()
        self.momentum, self.is_used, self.is_set_once = momentum, is_used, is_set_once

    def build(self, shape):
        self.mean = self.add_weight(shape=shape[-1:], initializer="zeros", trainable=False)
        self.is_set = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            mean = self.momentum * self.mean + (1 - self.momentum) * ops.mean(x, 0)
            if self.is_set_once:
                known = ops.convert_to_tensor(self.mean)
                mean = ops.where(ops.convert_to_tensor(self.is_set) > 0, known, mean)
            self.mean.assign(mean)
            self.is_set.assign(1.0)
        return x - self.mean if self.is_used else x


@pytest.mark.parametrize("make", [compiled, supervised])
def test_statistics_that_each_batch_replaces_are_found(make):
    def of(**options):
        network = keras.Sequential([keras.Input((FEATURES,)), Centered(**options), kl.Dense(3)])
        return "PG462" in codes(make(network, sparse()), classes())

    assert of(momentum=0.0)
    assert not of(momentum=0.9)
    assert not of(momentum=0.0, is_used=False)
    assert not of(momentum=0.0, is_set_once=True)


# Data.


def test_validating_on_all_training_data_is_a_hint():
    step, (x, y) = supervised(small(1), "mse"), numbers()

    assert severities(pg.check(step, (x, y), validation=(x, y)))["PG323"] == "hint"
    assert severities(pg.check(step, (x, y), validation=(x[:40], y[:40])))["PG323"] == "warning"


def test_noise_in_data_without_labels_may_be_what_is_measured():
    class Denoising(pg.Step):
        def __init__(self):
            self.noise, self.optimizer = kl.GaussianNoise(0.5), keras.optimizers.Adam(1e-3)
            self.model = small(FEATURES)

        def error(self, batch, training):
            x = batch[0] if isinstance(batch, tuple) else batch
            return squares(x, self.model(self.noise(x, training=True), training=training))

        def train_step(self, batch):
            objective = lambda: self.error(batch, True)  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer, self.model)}

        def test_step(self, batch):
            return {"loss": self.error(batch, False)}

    assert severities(pg.check(Denoising(), inputs())).get("PG441") == "hint"
    assert severities(pg.check(Denoising(), answers())).get("PG441") == "warning"
