"""Gradients add up over four batches, by a counter of one's own that crosses the ends of epochs."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def plain():
    x, y = map(torch.from_numpy, points())
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.5)
    shown, calls = [], 0
    for _ in range(3):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss = F.cross_entropy(net(xb), yb) / 4
            loss.backward()
            calls += 1
            if calls % 4 == 0:
                opt.step()
                opt.zero_grad()
            losses.append(4 * loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    left = {f"grad.{n}": p.grad.numpy().copy() for n, p in net.named_parameters()}
    return {"loss": shown, **state("net", net), **slots("opt", opt), **left}


class Accumulate(pg.Step):
    def __init__(self, every):
        self.net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.2, momentum=0.5)
        self.every = every
        self.calls = 0

    def train_step(self, batch):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y) / self.every
        loss.backward()
        self.calls += 1
        if self.calls % self.every == 0:
            self.opt.step()
            self.opt.zero_grad()
        return {"loss": self.every * loss.item()}


def perigee(**fit):
    step = Accumulate(every=4)
    history = pg.fit(step, points(), **{"epochs": 3, "batch_size": 8, "shuffle": False, **fit})
    trained = {**state("net", step.net), **slots("opt", step.opt)}
    left = {f"grad.{n}": p.grad.numpy().copy() for n, p in step.net.named_parameters()}
    return {"loss": history.history["loss"], **trained, **left}
