"""Evolution strategies: no gradients, parameters written under `no_grad` from seeded directions."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import perigee as pg
from tests.idioms.programs import curve, mean, state


class Evolution:
    def __init__(self, net, sigma=0.1, lr=0.3):
        self.net, self.sigma, self.lr, self.generation = net, sigma, lr, 0

    @torch.no_grad()
    def loss_at(self, weights, x, y):
        vector_to_parameters(weights, self.net.parameters())
        return F.mse_loss(self.net(x), y)

    @torch.no_grad()
    def step(self, x, y):
        center = parameters_to_vector(self.net.parameters()).clone()
        generator = torch.Generator().manual_seed(100 + self.generation)
        directions = torch.randn(6, len(center), generator=generator)
        scores = torch.stack(
            [
                self.loss_at(center + self.sigma * d, x, y)
                - self.loss_at(center - self.sigma * d, x, y)
                for d in directions
            ]
        )
        slope = (scores[:, None] * directions).mean(0) / (2 * self.sigma)
        self.generation += 1
        return self.loss_at(center - self.lr * slope, x, y)


def make_net():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))


def plain():
    x, y = map(torch.from_numpy, curve())
    evolution = Evolution(make_net())
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            losses.append(evolution.step(xb, yb).item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **state("net", evolution.net), "generation": evolution.generation}


class Evolve(pg.Step):
    def __init__(self):
        self.evolution = Evolution(make_net())

    def train_step(self, batch):
        return {"loss": self.evolution.step(*batch)}


def perigee(**fit):
    step = Evolve()
    history = pg.fit(step, curve(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    trained = {**state("net", step.evolution.net), "generation": step.evolution.generation}
    return {"loss": history.history["loss"], **trained}
