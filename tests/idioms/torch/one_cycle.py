"""OneCycleLR, stepped after each update; the rate and the momentum are logged as numbers."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_net():
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def plain():
    x, y = map(torch.from_numpy, points())
    net = make_net()
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    scheduler = OneCycleLR(opt, max_lr=0.05, total_steps=18)
    shown = {"loss": [], "lr": [], "beta1": []}
    for _ in range(3):
        values, rows = {name: [] for name in shown}, []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss = F.cross_entropy(net(xb), yb, label_smoothing=0.1)
            opt.zero_grad()
            loss.backward()
            values["lr"].append(scheduler.get_last_lr()[0])
            values["beta1"].append(opt.param_groups[0]["betas"][0])
            opt.step()
            scheduler.step()
            values["loss"].append(loss.item())
            rows.append(len(xb))
        for name in shown:
            shown[name].append(mean(values[name], rows))
    return {**shown, **state("net", net), **slots("opt", opt), "at": scheduler.last_epoch}


class Cycle(pg.Step):
    def __init__(self):
        self.net = make_net()
        self.opt = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.scheduler = OneCycleLR(self.opt, max_lr=0.05, total_steps=18)

    def train_step(self, batch):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y, label_smoothing=0.1)
        self.opt.zero_grad()
        loss.backward()
        lr, beta1 = self.scheduler.get_last_lr()[0], self.opt.param_groups[0]["betas"][0]
        self.opt.step()
        self.scheduler.step()
        return {"loss": loss.item(), "lr": lr, "beta1": beta1}


def perigee(**fit):
    step = Cycle()
    history = pg.fit(step, points(), **{"epochs": 3, "batch_size": 8, "shuffle": False, **fit})
    shown = {name: history.history[name] for name in ("loss", "lr", "beta1")}
    trained = {**state("net", step.net), **slots("opt", step.opt)}
    return {**shown, **trained, "at": step.scheduler.last_epoch}
