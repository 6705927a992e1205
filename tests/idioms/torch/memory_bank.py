"""A memory bank: a plain tensor of the step, one row for each example, written by index."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


def make_bank(rows):
    return F.normalize(torch.randn(rows, 5, generator=torch.Generator().manual_seed(8)), dim=-1)


def update(net, opt, bank, x, index):
    z = F.normalize(net(x), dim=-1)
    loss = F.cross_entropy(z @ bank.T / 0.3, index)
    opt.zero_grad()
    loss.backward()
    opt.step()
    bank[index] = F.normalize(0.5 * bank[index] + 0.5 * z.detach(), dim=-1)
    return loss


def indexed():
    x, _ = points(32)
    return x, np.arange(32)


def plain():
    x, index = map(torch.from_numpy, indexed())
    net, bank = nn.Linear(6, 5), make_bank(32)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, ib in zip(x.split(8), index.split(8), strict=True):
            losses.append(update(net, opt, bank, xb, ib).item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **state("net", net), "bank": bank.numpy()}


class Instances(pg.Step):
    def __init__(self, rows):
        self.net = nn.Linear(6, 5)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.bank = make_bank(rows)

    def train_step(self, batch):
        return {"loss": update(self.net, self.opt, self.bank, *batch)}


def perigee(**fit):
    step = Instances(32)
    history = pg.fit(step, indexed(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **state("net", step.net), "bank": step.bank.numpy()}
