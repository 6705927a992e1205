"""Stochastic weight averaging: `AveragedModel` and `SWALR` from the second epoch."""

import keras
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_parts():
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.2)
    return net, AveragedModel(net), opt, SWALR(opt, swa_lr=0.05, anneal_epochs=2)


def plain():
    x, y = map(torch.from_numpy, points())
    x_val, y_val = map(torch.from_numpy, points(16, seed=3))
    net, averaged, opt, swa = make_parts()
    shown = {"loss": [], "val_swa_loss": []}
    for epoch in range(3):
        losses, rows = [], []
        for xb, yb in zip(x.split(12), y.split(12), strict=True):
            loss = F.cross_entropy(net(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        with torch.inference_mode():
            shown["val_swa_loss"].append(F.cross_entropy(averaged(x_val), y_val).item())
        if epoch >= 1:
            averaged.update_parameters(net)
            swa.step()
    return {**shown, **state("net", net), **state("averaged", averaged), **slots("opt", opt)}


class Averaging(pg.Step):
    def __init__(self):
        self.net, self.averaged, self.opt, self.swa = make_parts()

    def train_step(self, batch):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        with torch.inference_mode():
            return {"swa_loss": F.cross_entropy(self.averaged(x), y)}


class Average(keras.callbacks.Callback):
    def __init__(self, step, start):
        super().__init__()
        self.step, self.start = step, start

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= self.start:
            self.step.averaged.update_parameters(self.step.net)
            self.step.swa.step()


def perigee(callbacks=(), **fit):
    step = Averaging()
    callbacks = [Average(step, start=1), *callbacks]
    fit = {"epochs": 3, "batch_size": 12, "shuffle": False, "callbacks": callbacks, **fit}
    history = pg.fit(step, points(), validation=points(16, seed=3), **fit).history
    shown = {name: history[name] for name in ("loss", "val_swa_loss")}
    nets = {**state("net", step.net), **state("averaged", step.averaged)}
    return {**shown, **nets, **slots("opt", step.opt)}
