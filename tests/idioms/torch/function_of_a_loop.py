"""`pg.FunctionStep` around the two functions of a loop, whose networks are in closures."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_functions():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def train_step(x, y):
        net.train()
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        return loss

    @torch.no_grad()
    def test_step(x, y):
        net.eval()
        return F.cross_entropy(net(x), y)

    return net, opt, train_step, test_step


def plain():
    x, y = map(torch.from_numpy, points())
    x_val, y_val = map(torch.from_numpy, points(8, seed=4))
    net, opt, train_step, test_step = make_functions()
    shown = {"loss": [], "val_loss": []}
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            losses.append(train_step(xb, yb).item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        shown["val_loss"].append(test_step(x_val, y_val).item())
    return {**shown, **state("net", net), **slots("opt", opt)}


def perigee(**fit):
    net, opt, train_step, test_step = make_functions()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    step = pg.FunctionStep(train_step, test_step)
    history = pg.fit(step, points(), validation=points(8, seed=4), **fit).history
    shown = {name: history[name] for name in ("loss", "val_loss")}
    return {**shown, **state("net", net), **slots("opt", opt)}
