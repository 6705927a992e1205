"""A step with its own tape is seen alike in a Step and in the `train_step` of a Keras model."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import perigee as pg

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.only_tensorflow

ROWS, FEATURES, CLASSES, BATCH = 64, 6, 3, 32
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data():
    x = np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")
    return x, x[:, :CLASSES].argmax(axis=1).astype("int32")


class Net(keras.Model):
    """Two towers of equal shapes, and a layer that is called only if it is asked for."""

    def __init__(self):
        super().__init__()
        kernel = keras.initializers.GlorotUniform(seed=1)
        self.first = layers.Dense(FEATURES, activation="tanh", kernel_initializer=kernel)
        self.second = layers.Dense(FEATURES, activation="tanh")
        self.spare = layers.Dense(FEATURES)
        self.head = layers.Dense(CLASSES)
        for layer in (self.first, self.second, self.spare, self.head):
            layer.build((None, FEATURES))
        self.built = True

    def call(self, x, training=False, spare=True):
        hidden = self.second(self.first(x))
        return self.head(hidden + self.spare(x) if spare else hidden)


def adam():
    return keras.optimizers.Adam(0.01)


def sgd(**given):
    return keras.optimizers.SGD(0.1, **given)


class Parts:
    """What a program uses: a network, and up to two optimizers."""

    def __init__(self, net, first, second):
        self.net, self.first, self.second = net, first, second

    def gradients(self, x, y, variables=None, **given):
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, self.net(x, training=True, **given))
        return loss, tape.gradient(loss, variables or self.net.trainable_variables)


# Programs: the body of a `train_step`, and what makes its optimizers.


def whole(parts, x, y):
    loss, gradients = parts.gradients(x, y)
    parts.first.apply_gradients(zip(gradients, parts.net.trainable_variables, strict=True))
    return loss


def clipped(parts, x, y):
    loss, gradients = parts.gradients(x, y)
    gradients, _ = tf.clip_by_global_norm(gradients, 0.1)
    parts.first.apply(gradients, parts.net.trainable_variables)
    return loss


def subset(parts, x, y):
    chosen = parts.net.trainable_variables[2:]
    loss, gradients = parts.gradients(x, y, chosen)
    parts.first.apply(gradients, chosen)
    return loss


def missing(parts, x, y):
    loss, gradients = parts.gradients(x, y, spare=False)
    parts.first.apply(gradients, parts.net.trainable_variables)
    return loss


def filtered(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y, spare=False)
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    parts.first.apply_gradients(pairs)
    return loss


def constant(parts, x, y):
    variables = parts.net.trainable_variables
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, tf.stop_gradient(parts.net(x)))
    parts.first.apply(tape.gradient(loss, variables), variables)
    return loss


def scaled(parts, x, y):
    variables = parts.net.trainable_variables
    with tf.GradientTape() as tape:
        loss = cross_entropy(y, parts.net(x, training=True))
        to_differentiate = parts.first.scale_loss(loss)
    parts.first.apply(tape.gradient(to_differentiate, variables), variables)
    return loss


def exchanged(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    order = [2, 3, 0, 1, *range(4, len(variables))]
    parts.first.apply([gradients[i] for i in order], variables)
    return loss


def exchanged_and_scaled(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    order = [2, 3, 0, 1, *range(4, len(variables))]
    parts.first.apply([0.5 * gradients[i] for i in order], variables)
    return loss


def apart(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients[:2], variables[:2])
    parts.first.apply(gradients[2:], variables[2:])
    return loss


def repeated(parts, x, y):
    for _ in range(2):
        loss = whole(parts, x, y)
    return loss


def shared(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients, variables)
    parts.second.apply(gradients[2:4], variables[2:4])
    return loss


def divided(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients[:2], variables[:2])
    parts.second.apply(gradients[2:], variables[2:])
    return loss


def in_turn(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y)
    tf.cond(
        tf.equal(parts.first.iterations % 2, 0),
        lambda: parts.first.apply(gradients[:4], variables[:4]),
        lambda: parts.second.apply(gradients[4:], variables[4:]),
    )
    return loss


def two_losses(parts, x, y):
    variables = parts.net.trainable_variables
    with tf.GradientTape(persistent=True) as tape:
        with_spare = cross_entropy(y, parts.net(x, training=True))
        without = cross_entropy(y, parts.net(x, training=True, spare=False))
    one, other = tape.gradient(with_spare, variables), tape.gradient(without, variables)
    sums = [a if b is None else a + b for a, b in zip(one, other, strict=True)]
    parts.first.apply(sums, variables)
    return with_spare + without


def raw_values(parts, x, y):
    variables = parts.net.trainable_variables
    loss, gradients = parts.gradients(x, y, [v.value for v in variables])
    parts.first.apply(grads=gradients, trainable_variables=iter(variables))
    return loss


def unnamed(parts, x, y):
    loss, gradients = parts.gradients(x, y)
    parts.first.apply(gradients)
    return loss


def built(make):
    def optimizer(net):
        made = make()
        made.build(net.trainable_variables)
        return made

    return optimizer


def fresh(make):
    return lambda net: make()


def scaling(**given):
    return keras.optimizers.LossScaleOptimizer(sgd(), **given)


RAISED = "raised"
PROGRAMS = {
    # name: body, optimizers, codes of `check`, codes of `fit`
    "whole": (whole, [fresh(adam)], [], []),
    "whole, built": (whole, [built(adam)], [], []),
    "clipped": (clipped, [fresh(sgd)], [], []),
    "raw values": (raw_values, [fresh(sgd)], [], []),
    "no variables named": (unnamed, [built(sgd)], [], []),
    "subset": (subset, [fresh(adam)], ["PG110"], ["PG110"]),
    "subset, built": (subset, [built(adam)], ["PG110"], ["PG110"]),
    "missing": (missing, [fresh(adam)], ["PG101"], ["PG101"]),
    "filtered": (filtered, [fresh(sgd)], ["PG101"], ["PG101"]),
    "no gradient": (constant, [fresh(sgd)], ["PG101"], ["ValueError"]),
    "scaled": (scaled, [fresh(scaling)], [], []),
    "unscaled": (whole, [fresh(scaling)], ["PG411"], ["PG411"]),
    "constant scale": (scaled, [fresh(lambda: sgd(loss_scale_factor=64.0))], [], []),
    "unscaled by a constant": (
        whole,
        [fresh(lambda: sgd(loss_scale_factor=64.0))],
        ["PG411"],
        ["PG411"],
    ),
    "exchanged": (exchanged, [fresh(sgd)], ["PG121"], ["PG121"]),
    "exchanged and scaled": (exchanged_and_scaled, [fresh(sgd)], ["PG121"], []),
    "apart": (apart, [fresh(adam)], ["PG105"], ["PG105"]),
    "apart, built": (apart, [built(adam)], ["PG105"], ["PG105"]),
    "apart, without a count": (apart, [fresh(sgd)], [], []),
    "repeated": (repeated, [fresh(adam)], [], []),
    "shared": (shared, [fresh(sgd), fresh(adam)], ["PG104"], ["PG104"]),
    "divided": (divided, [fresh(sgd), fresh(adam)], [], []),
    "in turn": (in_turn, [fresh(sgd), fresh(adam)], [], []),
    "two losses": (two_losses, [fresh(sgd)], [], []),
}


class OwnTape(pg.Step):
    def __init__(self, body, optimizers):
        net = Net()
        first, second = [make(net) for make in optimizers] + [None] * (2 - len(optimizers))
        self.parts, self.body = Parts(net, first, second), body

    def train_step(self, batch):
        return {"loss": self.body(self.parts, *batch)}


class OwnTrainStep(Net):
    def __init__(self, body, optimizers):
        super().__init__()
        first, second = [make(self) for make in optimizers] + [None] * (2 - len(optimizers))
        self.compile(first)
        self.second_optimizer, self.body = second, body

    def train_step(self, data):
        return {"loss": self.body(Parts(self, self.optimizer, self.second_optimizer), *data)}


def findings_of_fit(target):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            history = pg.fit(target, data(), epochs=1, batch_size=BATCH, progress="off")
        except pg.PerigeeError as error:
            return [error]
        except ValueError as error:
            return [error]
    return history.findings


def codes_of(findings):
    return [getattr(each, "code", type(each).__name__) for each in findings]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_and_a_model_with_the_same_tape_get_the_same_findings(name):
    body, optimizers, of_check, of_fit = PROGRAMS[name]

    checked = [
        pg.check(make(body, optimizers), data(), batch_size=BATCH)
        for make in (OwnTape, OwnTrainStep)
    ]
    steps = OwnTape(body, optimizers), pg.KerasStep(OwnTrainStep(body, optimizers))
    trained = [findings_of_fit(step) for step in steps]

    assert [codes_of(findings) for findings in checked] == [of_check] * 2
    assert [codes_of(findings) for findings in trained] == [of_fit] * 2
