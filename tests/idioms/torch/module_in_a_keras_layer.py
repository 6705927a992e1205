"""A Keras layer that holds a GRU of torch's in an attribute; an optimizer of torch's for all."""

import keras
import numpy as np
import torch
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, slots, state


class Recurrent(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 6, batch_first=True)

    def call(self, x):
        return self.gru(x)[1][0]


def make_model():
    return keras.Sequential([Recurrent(), keras.layers.Dense(1)])


def series():
    x = np.random.default_rng(2).normal(size=(40, 5, 3)).astype("float32")
    return x, x.sum(axis=(1, 2))[:, None]


def build(model):
    model(torch.zeros(1, 5, 3))
    return torch.optim.Adam(model.parameters(), lr=0.02)


def results(model, opt):
    gru, dense = model.layers
    weights = {f"dense{i}": w for i, w in enumerate(dense.get_weights())}
    return {**state("gru", gru.gru), **weights, **slots("opt", opt)}


def plain():
    x, y = map(torch.from_numpy, series())
    model = make_model()
    opt = build(model)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss = nn.functional.huber_loss(model(xb, training=True), yb)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"huber": shown, **results(model, opt)}


class Sequences(pg.Step):
    def __init__(self):
        self.model = make_model()
        self.opt = build(self.model)

    def train_step(self, batch):
        x, y = batch
        self.opt.zero_grad()
        loss = nn.functional.huber_loss(self.model(x, training=True), y)
        loss.backward()
        self.opt.step()
        return {"huber": loss}


def perigee(**fit):
    step = Sequences()
    history = pg.fit(step, series(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"huber": history.history["huber"], **results(step.model, step.opt)}
