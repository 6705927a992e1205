"""A callback unfreezes the backbone before the second epoch, in a parameter group of its own."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(6, 10).requires_grad_(False)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.backbone(x)))


def unfreeze(net, opt):
    net.backbone.requires_grad_(True)
    opt.add_param_group({"params": net.backbone.parameters(), "lr": 1e-3})


def plain():
    x, y = map(torch.from_numpy, points())
    net = Net()
    opt = torch.optim.Adam(net.head.parameters(), lr=0.02)
    shown = []
    for epoch in range(3):
        if epoch == 1:
            unfreeze(net, opt)
        losses, rows = [], []
        for xb, yb in zip(x.split(12), y.split(12), strict=True):
            opt.zero_grad()
            loss = F.cross_entropy(net(xb), yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **state("net", net), **slots("opt", opt)}


class FineTune(pg.Step):
    def __init__(self):
        self.net = Net()
        self.opt = torch.optim.Adam(self.net.head.parameters(), lr=0.02)

    def train_step(self, batch):
        x, y = batch
        self.opt.zero_grad()
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.opt.step()
        return {"loss": loss}


class Unfreeze(keras.callbacks.Callback):
    def __init__(self, step, at):
        super().__init__()
        self.step, self.at = step, at

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at:
            unfreeze(self.step.net, self.step.opt)


def perigee(callbacks=(), **fit):
    step = FineTune()
    fit = {"epochs": 3, "batch_size": 12, "shuffle": False, **fit}
    history = pg.fit(step, points(), callbacks=[Unfreeze(step, at=1), *callbacks], **fit)
    return {"loss": history.history["loss"], **state("net", step.net), **slots("opt", step.opt)}
