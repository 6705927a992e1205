"""A bandit over augmentations: its `state_dict`, tensors and a list, is the step's `host_state`."""

import keras
import torch
import torch.nn.functional as F

import perigee as pg
from tests.idioms.programs import mean, points

REFUSED_WITH_A_RUN = "PG525"  # `host_state_as_arrays` is what the error says to write


class Bandit:
    """Chooses the noise that has raised the loss most."""

    def __init__(self):
        self.scales = [0.0, 0.1, 0.3]
        self.gains, self.pulls = torch.zeros(3), torch.zeros(3, dtype=torch.long)
        self.chosen = []

    def choose(self):
        bonus = (self.pulls.sum() + 1).log() / (self.pulls + 1)
        self.chosen.append(int((self.gains / (self.pulls + 1) + bonus).argmax()))
        return self.scales[self.chosen[-1]]

    def reward(self, loss):
        self.gains[self.chosen[-1]] += loss.item()
        self.pulls[self.chosen[-1]] += 1

    def state_dict(self):
        return {"gains": self.gains, "pulls": self.pulls, "chosen": self.chosen}

    def load_state_dict(self, held):
        self.gains = torch.as_tensor(held["gains"])
        self.pulls = torch.as_tensor(held["pulls"])
        self.chosen = [int(index) for index in held["chosen"]]


def make_model():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])


def results(model, bandit):
    return {"kernel": model.get_weights()[0], **bandit.state_dict()}


def plain():
    x, y = map(torch.from_numpy, points())
    model, bandit = make_model(), Bandit()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss = F.cross_entropy(model(xb + bandit.choose() * xb.flip(0)), yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            bandit.reward(loss)
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **results(model, bandit)}


class Augmented(pg.Step):
    def __init__(self):
        self.model, self.bandit = make_model(), Bandit()
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        x = x + self.bandit.choose() * x.flip(0)
        loss = self.minimize(lambda: F.cross_entropy(self.model(x), y), self.optimizer, self.model)
        self.bandit.reward(loss)
        return {"loss": loss}

    def host_state(self):
        return self.bandit.state_dict()

    def load_host_state(self, state):
        self.bandit.load_state_dict(state)


def perigee(**fit):
    step = Augmented()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **results(step.model, step.bandit)}
