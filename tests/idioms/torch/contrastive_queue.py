"""Momentum contrast: a queue of keys and its pointer as buffers, written in place."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


class Moco(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 5))
        self.key = copy.deepcopy(self.query)
        for parameter in self.key.parameters():
            parameter.requires_grad = False
        generator = torch.Generator().manual_seed(4)
        self.register_buffer("queue", F.normalize(torch.randn(5, 20, generator=generator), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys):
        start = int(self.pointer)
        columns = (start + torch.arange(len(keys))) % self.queue.shape[1]
        self.queue[:, columns] = keys.T
        self.pointer[0] = (start + len(keys)) % self.queue.shape[1]

    def forward(self, one, other):
        q = F.normalize(self.query(one), dim=-1)
        with torch.no_grad():
            for slow, fast in zip(self.key.parameters(), self.query.parameters(), strict=True):
                slow.data = slow.data * 0.9 + fast.data * 0.1
            k = F.normalize(self.key(other), dim=-1)
        positive = (q * k).sum(-1, keepdim=True)
        logits = torch.cat([positive, q @ self.queue.clone().detach()], dim=1) / 0.2
        self.enqueue(k)
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def views():
    x, _ = points()
    draw = np.random.default_rng(9)
    return tuple(x + 0.1 * draw.normal(size=x.shape).astype("float32") for _ in range(2))


def plain():
    one, other = map(torch.from_numpy, views())
    moco = Moco()
    opt = torch.optim.SGD(moco.query.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for a, b in zip(one.split(8), other.split(8), strict=True):
            loss = moco(a, b)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(a))
        shown.append(mean(losses, rows))
    return {"info_nce": shown, **state("moco", moco), **slots("opt", opt)}


class Contrast(pg.Step):
    def __init__(self):
        self.moco = Moco()
        weights = self.moco.query.parameters()
        self.opt = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=1e-3)

    def train_step(self, batch):
        loss = self.moco(*batch)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return {"info_nce": loss.detach()}


def perigee(**fit):
    step = Contrast()
    history = pg.fit(step, views(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    shown = {"info_nce": history.history["info_nce"]}
    return {**shown, **state("moco", step.moco), **slots("opt", step.opt)}
