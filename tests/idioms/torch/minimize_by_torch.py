"""`minimize`, given an optimizer of torch's and a module: what one writes who has read one page."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state

REFUSED = "PG601"  # its fix shows the three lines of a loop of torch


def plain():
    x, y = map(torch.from_numpy, points())
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    opt = torch.optim.Adam(net.parameters(), lr=0.01)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss = F.cross_entropy(net(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **state("net", net), **slots("opt", opt)}


class Minimizes(pg.Step):
    def __init__(self):
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.opt = torch.optim.Adam(self.net.parameters(), lr=0.01)

    def train_step(self, batch):
        x, y = batch
        return {"loss": self.minimize(lambda: F.cross_entropy(self.net(x), y), self.opt, self.net)}


def perigee(**fit):
    step = Minimizes()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **state("net", step.net), **slots("opt", step.opt)}
