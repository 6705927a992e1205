"""An exponential average of a Keras model's weights in a dict of tensors, moved in place."""

import keras
import torch
import torch.nn.functional as F

import perigee as pg
from tests.idioms.programs import mean, points


class Shadow:
    """The tensors of a model, averaged from zero; in an object of one's own."""

    def __init__(self, model, decay):
        self.decay, self.updates = decay, 0
        named = model.named_parameters()
        self.tensors = {name: torch.zeros_like(p, requires_grad=False) for name, p in named}

    @torch.no_grad()
    def update(self, model):
        self.updates += 1
        for name, parameter in model.named_parameters():
            self.tensors[name].mul_(self.decay).add_(parameter, alpha=1 - self.decay)


def make_model():
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *layers])


def results(model, shadow):
    weights = {f"w{i}": w for i, w in enumerate(model.get_weights())}
    averages = {f"average{i}": t.numpy() for i, t in enumerate(shadow.tensors.values())}
    return {**weights, **averages, "updates": shadow.updates}


def plain():
    x, y = map(torch.from_numpy, points())
    model = make_model()
    shadow = Shadow(model, 0.9)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss = F.cross_entropy(model(xb), yb)
            loss.backward()
            opt.step()
            shadow.update(model)
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **results(model, shadow)}


class WithShadow(pg.Step):
    def __init__(self):
        self.model = make_model()
        self.shadow = Shadow(self.model, 0.9)
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(lambda: F.cross_entropy(self.model(x), y), self.optimizer, self.model)
        self.shadow.update(self.model)
        return {"loss": loss}


def perigee(**fit):
    step = WithShadow()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **results(step.model, step.shadow)}
