"""A DataLoader that shuffles by a seeded `torch.Generator` of its own, from epoch to epoch."""

import keras
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

import perigee as pg
from tests.idioms.programs import mean, points


def loader():
    data = TensorDataset(*map(torch.from_numpy, points()))
    generator = torch.Generator().manual_seed(0)
    return DataLoader(data, batch_size=8, shuffle=True, drop_last=True, generator=generator)


def make_model():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])


def plain():
    batches, model = loader(), make_model()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = []
    for _ in range(3):
        losses, rows = [], []
        for x, y in batches:
            opt.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            opt.step()
            losses.append(loss.item())
            rows.append(len(x))
        shown.append(mean(losses, rows))
    return {"loss": shown, "kernel": model.get_weights()[0]}


class Shuffled(pg.Step):
    def __init__(self):
        self.model = make_model()
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(lambda: F.cross_entropy(self.model(x), y), self.optimizer, self.model)
        return {"loss": loss}


def perigee(**fit):
    step = Shuffled()
    history = pg.fit(step, loader(), **{"epochs": 3, **fit})
    return {"loss": history.history["loss"], "kernel": step.model.get_weights()[0]}
