"""BatchNorm1d in a list of modules, `train()` and `eval()` in the two steps, and accuracy."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_blocks():
    return [nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)]


def run(blocks, x):
    for block in blocks:
        x = block(x)
    return x


def parameters(blocks):
    return [parameter for block in blocks for parameter in block.parameters()]


def plain():
    x, y = map(torch.from_numpy, points())
    x_val, y_val = map(torch.from_numpy, points(20, seed=2))
    blocks = make_blocks()
    opt = torch.optim.Adam(parameters(blocks), lr=0.02)
    shown, val_loss, val_acc = [], [], []
    for _ in range(2):
        for block in blocks:
            block.train()
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss = F.cross_entropy(run(blocks, xb), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
        for block in blocks:
            block.eval()
        losses, hits, rows = [], [], []
        with torch.no_grad():
            for xb, yb in zip(x_val.split(8), y_val.split(8), strict=True):
                logits = run(blocks, xb)
                losses.append(F.cross_entropy(logits, yb).item())
                hits.append((logits.argmax(-1) == yb).float().mean().item())
                rows.append(len(xb))
        val_loss.append(mean(losses, rows))
        val_acc.append(mean(hits, rows))
    values = {"loss": shown, "val_loss": val_loss, "val_acc": val_acc}
    return {**values, **state("net", nn.Sequential(*blocks)), **slots("opt", opt)}


class Normalized(pg.Step):
    def __init__(self):
        self.blocks = make_blocks()
        self.opt = torch.optim.Adam(parameters(self.blocks), lr=0.02)

    def train_step(self, batch):
        for block in self.blocks:
            block.train()
        x, y = batch
        loss = F.cross_entropy(run(self.blocks, x), y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return {"loss": loss}

    def test_step(self, batch):
        for block in self.blocks:
            block.eval()
        x, y = batch
        with torch.no_grad():
            logits = run(self.blocks, x)
            hits = (logits.argmax(-1) == y).float()
            return {"loss": F.cross_entropy(logits, y), "acc": hits.mean()}


def perigee(**fit):
    step = Normalized()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), validation=points(20, seed=2), **fit).history
    values = {name: history[name] for name in ("loss", "val_loss", "val_acc")}
    return {**values, **state("net", nn.Sequential(*step.blocks)), **slots("opt", step.opt)}
