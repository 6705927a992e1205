"""ReduceLROnPlateau by the validation loss, held in the step and stepped by a callback."""

import keras
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_net():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def make_scheduler(opt):
    return ReduceLROnPlateau(opt, factor=0.1, patience=0, threshold=0.5)


def plain():
    x, y = map(torch.from_numpy, points(32))
    x_val, y_val = map(torch.from_numpy, points(16, seed=1))
    net = make_net()
    opt = torch.optim.RMSprop(net.parameters(), lr=0.05)
    scheduler = make_scheduler(opt)
    shown, val = [], []
    for _ in range(3):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss = F.cross_entropy(net(xb), yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
        with torch.no_grad():
            parts = zip(x_val.split(8), y_val.split(8), strict=True)
            val.append(mean([F.cross_entropy(net(xb), yb).item() for xb, yb in parts], [8, 8]))
        scheduler.step(val[-1])
    return {"loss": shown, "val_loss": val, **state("net", net), **slots("opt", opt)}


class Plateau(pg.Step):
    def __init__(self):
        self.net = make_net()
        self.opt = torch.optim.RMSprop(self.net.parameters(), lr=0.05)
        self.scheduler = make_scheduler(self.opt)

    def train_step(self, batch):
        x, y = batch
        self.opt.zero_grad()
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.opt.step()
        return {"loss": loss}

    @torch.no_grad()
    def test_step(self, batch):
        x, y = batch
        return {"loss": F.cross_entropy(self.net(x), y)}


def perigee(callbacks=(), **fit):
    step = Plateau()
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: step.scheduler.step(logs["val_loss"])
    )
    fit = {"epochs": 3, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(
        step, points(32), validation=points(16, seed=1), callbacks=[watch, *callbacks], **fit
    ).history
    losses = {name: history[name] for name in ("loss", "val_loss")}
    return {**losses, **state("net", step.net), **slots("opt", step.opt)}
