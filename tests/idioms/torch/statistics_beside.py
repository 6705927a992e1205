"""A torch module before a Keras model, untrained but in training mode: its statistics move."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


def make_parts():
    whiten = nn.BatchNorm1d(6, affine=False, momentum=0.3)
    return whiten, keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])


def plain():
    x, y = map(torch.from_numpy, points())
    x_val, y_val = map(torch.from_numpy, points(16, seed=5))
    whiten, model = make_parts()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = {"loss": [], "val_loss": []}
    for _ in range(2):
        losses, rows = [], []
        whiten.train()
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss = F.cross_entropy(model(whiten(xb)), yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        whiten.eval()
        with torch.no_grad():
            shown["val_loss"].append(F.cross_entropy(model(whiten(x_val)), y_val).item())
    return {**shown, "kernel": model.get_weights()[0], **state("whiten", whiten)}


class Whitened(pg.Step):
    def __init__(self):
        self.whiten, self.model = make_parts()
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        x = self.whiten.train()(x)
        loss = self.minimize(lambda: F.cross_entropy(self.model(x), y), self.optimizer, self.model)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        return {"loss": F.cross_entropy(self.model(self.whiten.eval()(x)), y)}


def perigee(**fit):
    step = Whitened()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), validation=points(16, seed=5), **fit).history
    shown = {name: history[name] for name in ("loss", "val_loss")}
    return {**shown, "kernel": step.model.get_weights()[0], **state("whiten", step.whiten)}
