"""Gradients by `torch.autograd.grad`, and momentum by hand on a list of leaf tensors."""

import torch
import torch.nn.functional as F

import perigee as pg
from tests.idioms.programs import mean, points


def make_weights():
    generator = torch.Generator().manual_seed(2)
    shapes = [(6, 8), (8,), (8, 3), (3,)]
    weights = [0.3 * torch.randn(shape, generator=generator) for shape in shapes]
    return [weight.requires_grad_() for weight in weights]


def update(weights, velocities, x, y):
    w1, b1, w2, b2 = weights
    loss = F.cross_entropy(torch.relu(x @ w1 + b1) @ w2 + b2, y)
    slopes = torch.autograd.grad(loss, weights)
    with torch.no_grad():
        for weight, velocity, slope in zip(weights, velocities, slopes, strict=True):
            velocity.mul_(0.9).add_(slope)
            weight -= 0.05 * velocity
    return loss


def results(weights, velocities):
    tensors = {"w": weights, "v": velocities}
    return {
        f"{n}{i}": t.detach().numpy() for n, held in tensors.items() for i, t in enumerate(held)
    }


def plain():
    x, y = map(torch.from_numpy, points())
    weights = make_weights()
    velocities = [torch.zeros_like(weight) for weight in weights]
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            losses.append(update(weights, velocities, xb, yb).item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **results(weights, velocities)}


class Scratch(pg.Step):
    def __init__(self):
        self.weights = make_weights()
        self.velocities = [torch.zeros_like(weight) for weight in self.weights]

    def train_step(self, batch):
        return {"loss": update(self.weights, self.velocities, *batch)}


def perigee(**fit):
    step = Scratch()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **results(step.weights, step.velocities)}
