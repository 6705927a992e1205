"""Early stopping by hand: a callback copies the best `state_dict`, which is loaded at the end."""

import copy

import keras
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


def make_net():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))


def plain():
    x, y = map(torch.from_numpy, points())
    x_val, y_val = map(torch.from_numpy, points(16, seed=1))
    net = make_net()
    opt = torch.optim.Adam(net.parameters(), lr=0.05)
    shown, best, kept = {"loss": [], "val_loss": []}, float("inf"), None
    for _ in range(3):
        losses, rows = [], []
        for xb, yb in zip(x.split(12), y.split(12), strict=True):
            loss = F.cross_entropy(net(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        with torch.no_grad():
            shown["val_loss"].append(F.cross_entropy(net(x_val), y_val).item())
        if shown["val_loss"][-1] < best:
            best, kept = shown["val_loss"][-1], copy.deepcopy(net.state_dict())
    net.load_state_dict(kept)
    return {**shown, "best": best, **state("net", net)}


class Fits(pg.Step):
    def __init__(self):
        self.net = make_net()
        self.opt = torch.optim.Adam(self.net.parameters(), lr=0.05)

    def train_step(self, batch):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        with torch.no_grad():
            return {"loss": F.cross_entropy(self.net(x), y)}


class KeepsBest(keras.callbacks.Callback):
    def __init__(self, net):
        super().__init__()
        self.net, self.best, self.kept = net, float("inf"), None

    def on_epoch_end(self, epoch, logs=None):
        if logs["val_loss"] < self.best:
            self.best, self.kept = logs["val_loss"], copy.deepcopy(self.net.state_dict())


def perigee(callbacks=(), **fit):
    step = Fits()
    best = KeepsBest(step.net)
    fit = {"epochs": 3, "batch_size": 12, "shuffle": False, **fit}
    unseen = points(16, seed=1)
    history = pg.fit(step, points(), validation=unseen, callbacks=[best, *callbacks], **fit)
    step.net.load_state_dict(best.kept)
    shown = {name: history.history[name] for name in ("loss", "val_loss")}
    return {**shown, "best": best.best, **state("net", step.net)}
