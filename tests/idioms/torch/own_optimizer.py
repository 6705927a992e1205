"""An optimizer of one's own (Lion), a subclass of `torch.optim.Optimizer`, and LambdaLR."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99)):
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            fast, slow = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                p.add_((fast * average + (1 - fast) * p.grad).sign(), alpha=-group["lr"])
                average.lerp_(p.grad, 1 - slow)


def make_parts():
    net = nn.Sequential(nn.Linear(6, 8), nn.Mish(), nn.Linear(8, 3))
    opt = Lion(net.parameters(), lr=0.02)
    return net, opt, LambdaLR(opt, lambda step: 1 / (1 + 0.1 * step))


def plain():
    x, y = map(torch.from_numpy, points())
    net, opt, schedule = make_parts()
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss = F.nll_loss(F.log_softmax(net(xb), -1), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"nll": shown, **state("net", net), **slots("opt", opt), "at": schedule.last_epoch}


class WithLion(pg.Step):
    def __init__(self):
        self.net, self.opt, self.schedule = make_parts()

    def train_step(self, batch):
        x, y = batch
        loss = F.nll_loss(F.log_softmax(self.net(x), -1), y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        self.schedule.step()
        return {"nll": loss}


def perigee(**fit):
    step = WithLion()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    trained = {**state("net", step.net), **slots("opt", step.opt)}
    return {"nll": history.history["nll"], **trained, "at": step.schedule.last_epoch}
