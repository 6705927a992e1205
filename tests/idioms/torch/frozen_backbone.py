"""A frozen backbone in `eval()`, the optimizer over what requires a gradient, a `nn.ModuleDict`."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_net():
    backbone = nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.5))
    net = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(10, 3)})
    net["backbone"].requires_grad_(False)
    return net


def freeze_modes(net):
    net.train()
    net["backbone"].eval()


def make_optimizer(net):
    return torch.optim.NAdam(filter(lambda p: p.requires_grad, net.parameters()), lr=0.02)


def plain():
    x, y = map(torch.from_numpy, points())
    net = make_net()
    opt = make_optimizer(net)
    shown = []
    for _ in range(2):
        freeze_modes(net)
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            with torch.no_grad():
                features = net["backbone"](xb)
            each = F.cross_entropy(net["head"](features), yb, reduction="none")
            opt.zero_grad()
            each.mean().backward()
            opt.step()
            losses.append(each.mean().item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **state("net", net), **slots("opt", opt)}


class Probe(pg.Step):
    def __init__(self):
        self.net = make_net()
        self.opt = make_optimizer(self.net)

    def train_step(self, batch):
        x, y = batch
        freeze_modes(self.net)
        with torch.no_grad():
            features = self.net["backbone"](x)
        each = F.cross_entropy(self.net["head"](features), y, reduction="none")
        self.opt.zero_grad()
        each.mean().backward()
        self.opt.step()
        return {"loss": each.mean()}


def perigee(**fit):
    step = Probe()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **state("net", step.net), **slots("opt", step.opt)}
