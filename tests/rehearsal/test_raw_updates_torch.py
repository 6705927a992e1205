"""A step of torch that applies an optimizer of Keras itself is observed like one with a tape."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import perigee as pg

if keras.backend.backend() == "torch":
    import torch

pytestmark = pytest.mark.only_torch

FEATURES, CLASSES = 6, 3


def data():
    x = np.random.default_rng(0).normal(size=(64, FEATURES)).astype("float32")
    return x, x[:, :CLASSES].argmax(axis=1).astype("int64")


class Own(pg.Step):
    def __init__(self, differentiate, optimizer, first=0):
        self.model = keras.Sequential(
            [
                keras.Input((FEATURES,)),
                layers.Dense(8, activation="relu", name="hidden"),
                layers.Dense(CLASSES),
            ]
        )
        self.optimizer, self.differentiate, self.first = optimizer, differentiate, first

    def train_step(self, batch):
        x, y = batch
        variables = self.model.trainable_variables[self.first :]
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(self.model(x, training=True), y)
            gradients = self.differentiate(self.model, loss, [v.value for v in variables])
        with torch.no_grad():
            self.optimizer.apply(gradients, variables)
        return {"loss": loss.detach()}


def by_grad(model, loss, values):
    return torch.autograd.grad(loss, values)


def by_backward(model, loss, values):
    model.zero_grad()
    loss.backward()
    return [value.grad for value in values]


@pytest.mark.parametrize("differentiate", [by_grad, by_backward])
@pytest.mark.parametrize("first", [0, 2], ids=["all", "the last layer"])
def test_a_subset_of_the_variables_is_found(differentiate, first):
    make = lambda: Own(differentiate, keras.optimizers.Adam(0.01), first)  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        history = pg.fit(make(), data(), epochs=1, progress="off")

    for findings in (pg.check(make(), data()), history.findings):
        found = [(finding.code, finding.items) for finding in findings]
        assert found == ([("PG110", ("model/hidden/kernel", "model/hidden/bias"))] if first else [])


@pytest.mark.parametrize("differentiate", [by_grad, by_backward])
def test_an_unscaled_loss_is_refused(differentiate):
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))

    with pytest.raises(pg.PerigeeError, match="PG411"):
        pg.fit(Own(differentiate, scaling), data(), progress="off")
