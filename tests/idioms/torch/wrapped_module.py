"""A torch module as a layer of a Keras model (`TorchModuleWrapper`), an optimizer of Keras's."""

import keras
import torch
import torch.nn.functional as F
from keras.layers import TorchModuleWrapper
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


def make_module():
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.LeakyReLU(0.1))


def plain():
    x, y = map(torch.from_numpy, points())
    module, head = make_module(), nn.Linear(10, 3)
    nn.init.constant_(head.weight, 0.1)
    nn.init.zeros_(head.bias)
    opt = torch.optim.SGD([*module.parameters(), *head.parameters()], lr=0.05)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss = F.cross_entropy(head(module(xb)), yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    kernel = head.weight.detach().numpy().T
    return {"loss": shown, **state("module", module), "kernel": kernel}


class Wrapped(pg.Step):
    def __init__(self, module):
        wrapped = TorchModuleWrapper(module, output_shape=(None, 10))
        constant = keras.initializers.Constant(0.1)
        self.head = keras.layers.Dense(3, kernel_initializer=constant)
        self.model = keras.Sequential([keras.Input((6,)), wrapped, self.head])
        self.optimizer = keras.optimizers.SGD(0.05)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return F.cross_entropy(self.model(x, training=True), y)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    module = make_module()
    step = Wrapped(module)
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    kernel = step.head.get_weights()[0]
    return {"loss": history.history["loss"], **state("module", module), "kernel": kernel}
