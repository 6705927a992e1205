"""Dropout of torch and noise by `randn_like`, both from torch's global generator."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


def make_net():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 3))


def loss_of(net, x, y):
    return F.cross_entropy(net(x + 0.1 * torch.randn_like(x)), y)


def plain():
    x, y = map(torch.from_numpy, points())
    net = make_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    torch.manual_seed(5)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss = loss_of(net, xb, yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **state("net", net), "next": torch.rand(3).numpy()}


class Noisy(pg.Step):
    def __init__(self):
        self.net = make_net().train()
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)

    def train_step(self, batch):
        self.opt.zero_grad()
        loss = loss_of(self.net, *batch)
        loss.backward()
        self.opt.step()
        return {"loss": float(loss)}


def perigee(**fit):
    step = Noisy()
    torch.manual_seed(5)
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    drawn = torch.rand(3).numpy()
    return {"loss": history.history["loss"], **state("net", step.net), "next": drawn}
