"""Two tasks weighted by learned log variances, `nn.Parameter`s beside a Keras model."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots


def make_model():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(12, activation="tanh")(inputs)
    return keras.Model(inputs, [keras.layers.Dense(3)(hidden), keras.layers.Dense(1)(hidden)])


def weigh(log_vars, model, x, y):
    logits, size = model(x, training=True)
    losses = F.cross_entropy(logits, y), F.mse_loss(size[:, 0], x.norm(dim=-1))
    terms = [torch.exp(-s) * loss + s for s, loss in zip(log_vars, losses, strict=True)]
    return sum(terms), losses


def plain():
    x, y = map(torch.from_numpy, points())
    model = make_model()
    log_vars = [nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))]
    opt = torch.optim.Adam([*model.parameters(), *log_vars], lr=0.01)
    shown = {"total": [], "kind": [], "size": []}
    for _ in range(2):
        values, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            total, (kind, size) = weigh(log_vars, model, xb, yb)
            opt.zero_grad()
            total.backward()
            opt.step()
            values.append([total.item(), kind.item(), size.item()])
            rows.append(len(xb))
        for name, value in zip(shown, zip(*values, strict=True), strict=True):
            shown[name].append(mean(value, rows))
    weights = {f"model.{i}": w for i, w in enumerate(model.get_weights())}
    return {**shown, **weights, "log_vars": [s.item() for s in log_vars], **slots("opt", opt)}


class TwoTasks(pg.Step):
    def __init__(self):
        self.model = make_model()
        self.log_var_kind = nn.Parameter(torch.zeros(()))
        self.log_var_size = nn.Parameter(torch.zeros(()))
        self.log_vars = [self.log_var_kind, self.log_var_size]
        self.opt = torch.optim.Adam([*self.model.parameters(), *self.log_vars], lr=0.01)

    def train_step(self, batch):
        total, (kind, size) = weigh(self.log_vars, self.model, *batch)
        self.opt.zero_grad()
        total.backward()
        self.opt.step()
        return {"total": total, "kind": kind, "size": size}


def perigee(**fit):
    step = TwoTasks()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    shown = {name: history[name] for name in ("total", "kind", "size")}
    weights = {f"model.{i}": w for i, w in enumerate(step.model.get_weights())}
    log_vars = [s.item() for s in step.log_vars]
    return {**shown, **weights, "log_vars": log_vars, **slots("opt", step.opt)}
