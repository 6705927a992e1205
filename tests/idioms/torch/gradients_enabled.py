"""The loop of a tutorial inside `torch.enable_grad()`, logged by a metric of Keras's."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def plain():
    x, y = map(torch.from_numpy, points())
    net = nn.Linear(6, 3)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    shown = {"loss": [], "accuracy": []}
    for _ in range(2):
        losses, hits, rows = [], [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            logits = net(xb)
            loss = F.cross_entropy(logits, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            hits.append((logits.argmax(-1) == yb).float().mean().item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        shown["accuracy"].append(mean(hits, rows))
    return {**shown, **state("net", net), **slots("opt", opt)}


class Enabled(pg.Step):
    def __init__(self):
        self.net = nn.Linear(6, 3)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    @torch.enable_grad()
    def train_step(self, batch):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        self.accuracy.update_state(y, logits.detach())
        return {"loss": loss}


def perigee(**fit):
    step = Enabled()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    shown = {name: history[name] for name in ("loss", "accuracy")}
    return {**shown, **state("net", step.net), **slots("opt", step.opt)}
