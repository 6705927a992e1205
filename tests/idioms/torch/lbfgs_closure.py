"""LBFGS, which calls a closure several times for each batch."""

import torch
from torch import nn

import perigee as pg
from tests.idioms.programs import curve, mean, state

# Each update is a search of up to eight evaluations, which adds up what rounding leaves.
WITHIN = 2e-5


def make_net():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


def plain():
    x, y = map(torch.from_numpy, curve())
    net = make_net()
    opt = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=4, history_size=3)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(12), y.split(12), strict=True):

            def closure(xb=xb, yb=yb):
                opt.zero_grad()
                loss = nn.functional.mse_loss(net(xb), yb)
                loss.backward()
                return loss

            losses.append(opt.step(closure).item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    evaluations = opt.state[next(net.parameters())]["func_evals"]
    return {"loss": shown, **state("net", net), "evaluations": evaluations}


class Search(pg.Step):
    def __init__(self):
        self.net = make_net()
        self.opt = torch.optim.LBFGS(self.net.parameters(), lr=0.5, max_iter=4, history_size=3)

    def train_step(self, batch):
        x, y = batch

        def closure():
            self.opt.zero_grad()
            loss = nn.functional.mse_loss(self.net(x), y)
            loss.backward()
            return loss

        return {"loss": self.opt.step(closure)}


def perigee(**fit):
    step = Search()
    history = pg.fit(step, curve(), **{"epochs": 2, "batch_size": 12, "shuffle": False, **fit})
    evaluations = step.opt.state[next(step.net.parameters())]["func_evals"]
    return {"loss": history.history["loss"], **state("net", step.net), "evaluations": evaluations}
