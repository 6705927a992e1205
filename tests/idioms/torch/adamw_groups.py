"""A body and a head in a dict, at two rates and decays, from a DataLoader; a short last batch."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import perigee as pg
from tests.idioms.programs import curve, mean, slots, state


def make_nets():
    return {"body": nn.Sequential(nn.Linear(4, 12), nn.Tanh()), "head": nn.Linear(12, 1)}


def make_optimizer(nets):
    groups = [
        {"params": nets["body"].parameters(), "lr": 1e-3},
        {"params": nets["head"].parameters(), "weight_decay": 0.1},
    ]
    return torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.0)


def loader():
    return DataLoader(TensorDataset(*map(torch.from_numpy, curve(44))), batch_size=8)


def plain():
    nets = make_nets()
    optimizer = make_optimizer(nets)
    criterion = nn.MSELoss()
    shown = []
    for _ in range(3):
        losses, rows = [], []
        for x, y in loader():
            optimizer.zero_grad(set_to_none=True)
            loss = criterion(nets["head"](nets["body"](x)), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            rows.append(len(x))
        shown.append(mean(losses, rows))
    trained = {**state("body", nets["body"]), **state("head", nets["head"])}
    return {"train/mse": shown, **trained, **slots("adamw", optimizer)}


class TwoRates(pg.Step):
    def __init__(self):
        self.nets = make_nets()
        self.optimizer = make_optimizer(self.nets)
        self.criterion = nn.MSELoss()

    def forward(self, x):
        return self.nets["head"](self.nets["body"](x))

    def train_step(self, batch):
        x, y = batch
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.criterion(self.forward(x), y)
        loss.backward()
        self.optimizer.step()
        return {"train/mse": loss.detach()}


def perigee(**fit):
    step = TwoRates()
    history = pg.fit(step, loader(), **{"epochs": 3, **fit})
    trained = {**state("body", step.nets["body"]), **state("head", step.nets["head"])}
    mse = history.history["train/mse"]
    return {"train/mse": mse, **trained, **slots("adamw", step.optimizer)}
