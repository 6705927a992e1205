"""A loss weight that falls by a Python counter, and a list of what was logged, by `minimize`."""

import keras
import torch
import torch.nn.functional as F

import perigee as pg
from tests.idioms.programs import curve, mean


def make_model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def loss_of(model, x, y, weight):
    out = model(x)
    return F.mse_loss(out, y) + weight * out.abs().mean()


def plain():
    x, y = map(torch.from_numpy, curve())
    model, calls, weights = make_model(), 0, []
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = []
    for _ in range(3):
        losses, rows = [], []
        for xb, yb in zip(x.split(12), y.split(12), strict=True):
            weights.append(0.5**calls)
            calls += 1
            opt.zero_grad()
            loss = loss_of(model, xb, yb, weights[-1])
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    kernel, bias = model.get_weights()
    return {"loss": shown, "kernel": kernel, "bias": bias, "calls": calls, "weights": weights}


class Curriculum(pg.Step):
    def __init__(self):
        self.model = make_model()
        self.optimizer = keras.optimizers.SGD(0.1)
        self.calls, self.weights = 0, []

    def train_step(self, batch):
        x, y = batch
        weight = 0.5**self.calls
        self.weights.append(weight)
        self.calls += 1
        loss = self.minimize(lambda: loss_of(self.model, x, y, weight), self.optimizer, self.model)
        return {"loss": loss}


def perigee(**fit):
    step = Curriculum()
    history = pg.fit(step, curve(), **{"epochs": 3, "batch_size": 12, "shuffle": False, **fit})
    kernel, bias = step.model.get_weights()
    counted = {"calls": step.calls, "weights": step.weights}
    return {"loss": history.history["loss"], "kernel": kernel, "bias": bias, **counted}
