"""Images scaled and made noisy in place, by a `torch.Generator`; the arrays of the data stay."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import perigee as pg
from tests.idioms.programs import mean


def images():
    draw = np.random.default_rng(6)
    x = draw.integers(0, 256, (32, 1, 4, 4)).astype("float32")
    return x, draw.integers(0, 2, 32)


def make_model():
    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(2)])


def prepare(x, generator):
    x.div_(255).sub_(0.5)
    x.add_(0.05 * torch.randn(x.shape, generator=generator))
    return x.flatten(1)


def plain():
    data = images()
    model, generator = make_model(), torch.Generator().manual_seed(3)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        # The loader stacks rows into new tensors, so that nothing is written to the data.
        for x, y in DataLoader(TensorDataset(*map(torch.from_numpy, data)), batch_size=8):
            opt.zero_grad()
            loss = F.cross_entropy(model(prepare(x, generator)), y)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(x))
        shown.append(mean(losses, rows))
    kernel, bias = model.get_weights()
    return {"loss": shown, "kernel": kernel, "bias": bias, "data": data[0]}


class InPlace(pg.Step):
    def __init__(self):
        self.model = make_model()
        self.optimizer = keras.optimizers.SGD(0.1)
        self.generator = torch.Generator().manual_seed(3)

    def train_step(self, batch):
        x, y = batch
        x = prepare(x, self.generator)
        loss = self.minimize(lambda: F.cross_entropy(self.model(x), y), self.optimizer, self.model)
        return {"loss": loss}


def perigee(**fit):
    data, step = images(), InPlace()
    history = pg.fit(step, data, **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    kernel, bias = step.model.get_weights()
    return {"loss": history.history["loss"], "kernel": kernel, "bias": bias, "data": data[0]}
