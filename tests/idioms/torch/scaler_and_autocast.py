"""Autocast to bfloat16 around the forward pass, and a GradScaler, disabled on a CPU."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def update(net, opt, scaler, x, y):
    opt.zero_grad(set_to_none=True)
    with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(opt)
    nn.utils.clip_grad_value_(net.parameters(), 0.5)
    scaler.step(opt)
    scaler.update()
    return loss


def plain():
    x, y = map(torch.from_numpy, points())
    net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            losses.append(update(net, opt, scaler, xb, yb).item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **state("net", net), **slots("opt", opt)}


class Mixed(pg.Step):
    def __init__(self):
        self.net = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3))
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=0.01)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def train_step(self, batch):
        return {"loss": update(self.net, self.opt, self.scaler, *batch)}


def perigee(**fit):
    step = Mixed()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **state("net", step.net), **slots("opt", step.opt)}
