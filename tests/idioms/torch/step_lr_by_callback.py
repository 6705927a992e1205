"""StepLR, stepped at the end of each epoch by a callback that holds the scheduler."""

import keras
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import perigee as pg
from tests.idioms.programs import curve, mean, slots, state


def plain():
    x, y = map(torch.from_numpy, curve())
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    opt = torch.optim.SGD(net.parameters(), lr=0.2)
    scheduler = StepLR(opt, step_size=1, gamma=0.3)
    shown = []
    for _ in range(3):
        losses, rows = [], []
        for xb, yb in zip(x.split(16), y.split(16), strict=True):
            opt.zero_grad()
            loss = ((net(xb) - yb) ** 2).mean()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
        scheduler.step()
    return {"loss": shown, **state("net", net), **slots("opt", opt)}


class Regress(pg.Step):
    def __init__(self, net, opt):
        self.net, self.opt = net, opt

    def train_step(self, batch):
        x, y = batch
        self.opt.zero_grad()
        loss = ((self.net(x) - y) ** 2).mean()
        loss.backward()
        self.opt.step()
        return {"loss": loss}


class StepsScheduler(keras.callbacks.Callback):
    def __init__(self, scheduler):
        super().__init__()
        self.scheduler = scheduler

    def on_epoch_end(self, epoch, logs=None):
        self.scheduler.step()


def perigee(callbacks=(), **fit):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    opt = torch.optim.SGD(net.parameters(), lr=0.2)
    step = Regress(net, opt)
    callbacks = [StepsScheduler(StepLR(opt, step_size=1, gamma=0.3)), *callbacks]
    fit = {"epochs": 3, "batch_size": 16, "shuffle": False, "callbacks": callbacks, **fit}
    history = pg.fit(step, curve(), **fit)
    return {"loss": history.history["loss"], **state("net", net), **slots("opt", opt)}
