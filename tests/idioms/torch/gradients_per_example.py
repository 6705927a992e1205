"""`torch.func`: gradients per example by `vmap`, clipped one by one, and an update by hand."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

import perigee as pg
from tests.idioms.programs import mean, points, state


class Private:
    """Parameters in a plain dict, as `torch.func` has them."""

    def __init__(self):
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.params = {name: p.detach().clone() for name, p in self.net.named_parameters()}

    def loss(self, params, x, y):
        logits = functional_call(self.net, params, (x[None],))
        return F.cross_entropy(logits, y[None])

    def update(self, x, y):
        slopes = vmap(grad(self.loss), in_dims=(None, 0, 0))(self.params, x, y)
        norms = sum(g.flatten(1).pow(2).sum(1) for g in slopes.values()).sqrt()
        share = (0.5 / norms).clamp(max=1.0)
        for name, g in slopes.items():
            clipped = (g * share.view(-1, *[1] * (g.ndim - 1))).mean(0)
            self.params[name] = self.params[name] - 0.5 * clipped
        losses = vmap(self.loss, in_dims=(None, 0, 0))(self.params, x, y)
        return losses, norms


def results(private):
    private.net.load_state_dict(private.params)
    return state("net", private.net)


def plain():
    x, y = map(torch.from_numpy, points())
    private = Private()
    shown = {"after": [], "norm": []}
    for _ in range(2):
        after, norm, rows = [], [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            losses, norms = private.update(xb, yb)
            after.append(losses.mean().item())
            norm.append(norms.mean().item())
            rows.append(len(xb))
        shown["after"].append(mean(after, rows))
        shown["norm"].append(mean(norm, rows))
    return {**shown, **results(private)}


class PerExample(pg.Step):
    def __init__(self):
        self.private = Private()

    def train_step(self, batch):
        losses, norms = self.private.update(*batch)
        return {"after": losses.mean(), "norm": norms.mean()}


def perigee(**fit):
    step = PerExample()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    return {**{name: history[name] for name in ("after", "norm")}, **results(step.private)}
