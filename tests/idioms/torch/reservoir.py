"""Replay: a deque of old batches, mixed in by `random.Random`; both in the step's `host_state`."""

import random
from collections import deque

import keras
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


class Memory:
    def __init__(self):
        self.batches, self.rng = deque(maxlen=4), random.Random(5)

    def mix(self, x, y):
        """The batch, and an old one after it where there is one."""
        old = [self.rng.choice(self.batches)] if self.batches else []
        self.batches.append((x, y))
        return tuple(torch.cat(parts) for parts in zip((x, y), *old, strict=True))


def make_parts():
    features = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).requires_grad_(False)
    return features, keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])


def plain():
    x, y = map(torch.from_numpy, points())
    (features, model), memory = make_parts(), Memory()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            xm, ym = memory.mix(xb, yb)
            opt.zero_grad()
            loss = F.cross_entropy(model(features(xm)), ym)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, "kernel": model.get_weights()[0], **state("features", features)}


class Replay(pg.Step):
    def __init__(self):
        (self.features, self.model), self.memory = make_parts(), Memory()
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = self.memory.mix(*batch)
        loss = self.minimize(
            lambda: F.cross_entropy(self.model(self.features(x)), y), self.optimizer, self.model
        )
        return {"loss": loss}

    def host_state(self):
        version, words, gauss = self.memory.rng.getstate()
        batches = [(x.numpy(), y.numpy()) for x, y in self.memory.batches]
        return {"batches": batches, "version": version, "words": list(words), "gauss": gauss}

    def load_host_state(self, held):
        self.memory.rng.setstate((held["version"], tuple(held["words"]), held["gauss"]))
        self.memory.batches.extend(
            (torch.as_tensor(x), torch.as_tensor(y)) for x, y in held["batches"]
        )


def perigee(**fit):
    step = Replay()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    kernel = step.model.get_weights()[0]
    return {"loss": history.history["loss"], "kernel": kernel, **state("features", step.features)}
