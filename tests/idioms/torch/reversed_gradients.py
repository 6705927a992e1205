"""Adaptation to another domain: a `Function` that reverses gradients, stronger with each step."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, slope):
        return -ctx.strength * slope, None


def data():
    x, y = points()
    return {"source": x, "label": y, "target": np.roll(x, 1, axis=1) + 0.5}


def make_nets():
    return [nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3), nn.Linear(8, 1)]


def losses_of(nets, batch, strength):
    features, labels, domains = nets
    source, target = features(batch["source"]), features(batch["target"])
    both = Reverse.apply(torch.cat([source, target]), strength)
    truth = torch.cat([torch.ones(len(source), 1), torch.zeros(len(target), 1)])
    domain = F.binary_cross_entropy_with_logits(domains(both), truth)
    return F.cross_entropy(labels(source), batch["label"]), domain


def strength_at(step):
    return 2 / (1 + math.exp(-10 * step / 18)) - 1


def results(nets):
    return {key: v for i, net in enumerate(nets) for key, v in state(f"net{i}", net).items()}


def plain():
    tensors = {name: torch.from_numpy(array) for name, array in data().items()}
    nets = make_nets()
    opt = torch.optim.SGD([{"params": net.parameters()} for net in nets], lr=0.1)
    shown, calls = {"label_loss": [], "domain_loss": []}, 0
    for _ in range(3):
        values, rows = [], []
        for start in range(0, 48, 8):
            batch = {name: tensor[start : start + 8] for name, tensor in tensors.items()}
            label, domain = losses_of(nets, batch, strength_at(calls))
            calls += 1
            opt.zero_grad()
            (label + domain).backward()
            opt.step()
            values.append([label.item(), domain.item()])
            rows.append(8)
        for name, value in zip(shown, zip(*values, strict=True), strict=True):
            shown[name].append(mean(value, rows))
    return {**shown, **results(nets)}


class Adapt(pg.Step):
    def __init__(self):
        self.nets = make_nets()
        self.opt = torch.optim.SGD([{"params": net.parameters()} for net in self.nets], lr=0.1)
        self.global_step = 0

    def train_step(self, batch):
        label, domain = losses_of(self.nets, batch, strength_at(self.global_step))
        self.global_step += 1
        self.opt.zero_grad()
        (label + domain).backward()
        self.opt.step()
        return {"label_loss": label, "domain_loss": domain}


def perigee(**fit):
    step = Adapt()
    fit = {"epochs": 3, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, data(), **fit).history
    shown = {name: history[name] for name in ("label_loss", "domain_loss")}
    return {**shown, **results(step.nets)}
