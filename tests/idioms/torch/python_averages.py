"""Running averages in floats, lists and a deque; a skipped update where the loss jumps."""

from collections import deque

import numpy as np
import torch
from torch import nn

import perigee as pg
from tests.idioms.programs import curve, mean, state


class Book:
    def __init__(self):
        self.smooth, self.losses, self.recent, self.skipped = None, [], deque(maxlen=3), 0

    def add(self, loss):
        self.losses.append(loss)
        self.recent.append(loss)
        self.smooth = loss if self.smooth is None else 0.8 * self.smooth + 0.2 * loss
        return self.smooth

    def jumps(self, loss):
        return len(self.recent) == 3 and loss > 1.2 * np.median(self.recent)


def update(net, opt, book, x, y):
    loss = nn.functional.smooth_l1_loss(net(x), y)
    opt.zero_grad()
    loss.backward()
    if book.jumps(loss.item()):
        book.skipped += 1
    else:
        opt.step()
    return loss.item(), book.add(loss.item())


def results(net, book):
    numbers = {"smooth": book.smooth, "losses": book.losses, "skipped": book.skipped}
    return {**state("net", net), **numbers, "recent": list(book.recent)}


def make_net():
    return nn.Sequential(nn.Linear(4, 8), nn.ELU(), nn.Linear(8, 1))


def plain():
    x, y = map(torch.from_numpy, curve())
    net, book = make_net(), Book()
    opt = torch.optim.SGD(net.parameters(), lr=0.3)
    shown = {"loss": [], "avg": []}
    for _ in range(2):
        values, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            values.append(update(net, opt, book, xb, yb))
            rows.append(len(xb))
        for name, value in zip(shown, zip(*values, strict=True), strict=True):
            shown[name].append(mean(value, rows))
    return {**shown, **results(net, book)}


class Smoothed(pg.Step):
    def __init__(self):
        self.net = make_net()
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.3)
        self.book = Book()

    def train_step(self, batch):
        x, y = batch
        loss, smooth = update(self.net, self.opt, self.book, x, y)
        return {"loss": loss, "avg": smooth}


def perigee(**fit):
    step = Smoothed()
    history = pg.fit(step, curve(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    shown = {name: history.history[name] for name in ("loss", "avg")}
    return {**shown, **results(step.net, step.book)}
