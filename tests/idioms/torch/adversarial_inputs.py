"""FGSM: the gradient of the batch by `requires_grad_` and `.grad`; both batches are trained on."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


def attack(net, x, y, eps=0.1):
    x = x.clone().requires_grad_()
    F.cross_entropy(net(x), y).backward()
    return (x + eps * x.grad.sign()).detach()


def plain():
    x, y = map(torch.from_numpy, points())
    net = nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 3))
    opt = torch.optim.Adagrad(net.parameters(), lr=0.05)
    shown = {"clean": [], "robust": []}
    for _ in range(2):
        cleans, robusts, rows = [], [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            attacked = attack(net, xb, yb)
            opt.zero_grad()
            clean, robust = F.cross_entropy(net(xb), yb), F.cross_entropy(net(attacked), yb)
            (clean + robust).backward()
            opt.step()
            cleans.append(clean.item())
            robusts.append(robust.item())
            rows.append(len(xb))
        shown["clean"].append(mean(cleans, rows))
        shown["robust"].append(mean(robusts, rows))
    return {**shown, **state("net", net)}


class Robust(pg.Step):
    def __init__(self):
        self.net = nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 3))
        self.opt = torch.optim.Adagrad(self.net.parameters(), lr=0.05)

    def train_step(self, batch):
        x, y = batch
        attacked = attack(self.net, x, y)
        self.opt.zero_grad()
        clean, robust = F.cross_entropy(self.net(x), y), F.cross_entropy(self.net(attacked), y)
        (clean + robust).backward()
        self.opt.step()
        return {"clean": clean, "robust": robust}


def perigee(**fit):
    step = Robust()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    return {**{name: history[name] for name in ("clean", "robust")}, **state("net", step.net)}
