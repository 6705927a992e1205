"""A metric of one's own with `update`, `compute` and `state_dict`, over the whole training."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


class Accuracy:
    def __init__(self):
        self.correct, self.total = torch.zeros(()), torch.zeros(())

    def update(self, logits, y):
        self.correct += (logits.argmax(-1) == y).sum()
        self.total += len(y)

    def compute(self):
        return self.correct / self.total

    def state_dict(self):
        return {"correct": self.correct, "total": self.total}

    def load_state_dict(self, held):
        self.correct, self.total = held["correct"], held["total"]


def plain():
    x, y = map(torch.from_numpy, points())
    net = nn.Linear(6, 3)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    accuracy = Accuracy()
    shown = {"loss": [], "acc": []}
    for _ in range(2):
        losses, accuracies, rows = [], [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            logits = net(xb)
            loss = F.cross_entropy(logits, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            accuracy.update(logits.detach(), yb)
            losses.append(loss.item())
            accuracies.append(accuracy.compute().item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        shown["acc"].append(mean(accuracies, rows))
    held = {name: value.item() for name, value in accuracy.state_dict().items()}
    return {**shown, **state("net", net), **held}


class Measured(pg.Step):
    def __init__(self):
        self.net = nn.Linear(6, 3)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.accuracy = Accuracy()

    def train_step(self, batch):
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        self.accuracy.update(logits.detach(), y)
        return {"loss": loss, "acc": self.accuracy.compute()}


def perigee(**fit):
    step = Measured()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    held = {name: value.item() for name, value in step.accuracy.state_dict().items()}
    return {"loss": history["loss"], "acc": history["acc"], **state("net", step.net), **held}
