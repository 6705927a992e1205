"""Gradients with respect to the inputs inside `test_step`, of a model that trains by `minimize`."""

import keras
import numpy as np
import torch
import torch.nn.functional as F

import perigee as pg
from tests.idioms.programs import mean, points


def make_model():
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *layers])


def saliency(model, x, y):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x, training=False)
        (slope,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), x)
    return slope.abs().sum(-1)


def plain():
    x, y = map(torch.from_numpy, points())
    x_val, y_val = map(torch.from_numpy, points(20, seed=2))
    model = make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = {"loss": [], "val_saliency": []}
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss = F.cross_entropy(model(xb, training=True), yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        parts = zip(x_val.split(8), y_val.split(8), strict=True)
        each = [saliency(model, xb, yb).numpy() for xb, yb in parts]
        shown["val_saliency"].append(np.concatenate(each).mean())
    return {**shown, **{f"w{i}": w for i, w in enumerate(model.get_weights())}}


class Salient(pg.Step):
    def __init__(self):
        self.model = make_model()
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(
            lambda: F.cross_entropy(self.model(x, training=True), y), self.optimizer, self.model
        )
        return {"loss": loss}

    def test_step(self, batch):
        return {"saliency": saliency(self.model, *batch)}


def perigee(**fit):
    step = Salient()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), validation=points(20, seed=2), **fit).history
    shown = {name: history[name] for name in ("loss", "val_saliency")}
    return {**shown, **{f"w{i}": w for i, w in enumerate(step.model.get_weights())}}
