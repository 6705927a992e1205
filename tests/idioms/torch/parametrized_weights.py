"""`spectral_norm` and `weight_norm`: parametrizations, of which one has buffers that move."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_net():
    return nn.Sequential(
        spectral_norm(nn.Linear(6, 10)), nn.ReLU(), weight_norm(nn.Linear(10, 3), dim=0)
    )


def plain():
    x, y = map(torch.from_numpy, points())
    net = make_net()
    opt = torch.optim.RMSprop(net.parameters(), lr=0.01, centered=True)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss = F.multi_margin_loss(net(xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"hinge": shown, **state("net", net), **slots("opt", opt)}


class Margin(pg.Step):
    def __init__(self):
        self.net = make_net()
        self.opt = torch.optim.RMSprop(self.net.parameters(), lr=0.01, centered=True)

    def train_step(self, batch):
        x, y = batch
        loss = F.multi_margin_loss(self.net(x), y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return {"hinge": loss}


def perigee(**fit):
    step = Margin()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    shown = {"hinge": history.history["hinge"]}
    return {**shown, **state("net", step.net), **slots("opt", step.opt)}
