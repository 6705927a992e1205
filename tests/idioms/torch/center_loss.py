"""Class centers in a dataclass of tensors that each step replaces."""

from dataclasses import dataclass, replace

import keras
import torch
import torch.nn.functional as F

import perigee as pg
from tests.idioms.programs import mean, points


@dataclass(frozen=True)
class Centers:
    means: torch.Tensor
    seen: torch.Tensor

    def moved(self, features, labels):
        one_hot = F.one_hot(labels, len(self.means)).to(features.dtype)
        sums, counts = one_hot.T @ features, one_hot.sum(0)
        target = sums / counts.clamp(min=1)[:, None]
        rate = 0.5 * (counts > 0)[:, None]
        means = self.means + rate * (target - self.means)
        return replace(self, means=means, seen=self.seen + counts)


def make_model():
    body = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, activation="tanh")])
    return body, keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def make_centers():
    return Centers(torch.zeros(3, 4), torch.zeros(3))


def loss_of(body, head, centers, x, y):
    features = body(x)
    near = (features - centers.means[y]).pow(2).sum(-1)
    return F.cross_entropy(head(features), y) + 0.1 * near.mean(), features


def results(body, head, centers):
    weights = [*body.get_weights(), *head.get_weights()]
    held = {"means": centers.means.numpy(), "seen": centers.seen.numpy()}
    return {**{f"w{i}": w for i, w in enumerate(weights)}, **held}


def plain():
    x, y = map(torch.from_numpy, points())
    (body, head), centers = make_model(), make_centers()
    opt = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1)
    shown = []
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            opt.zero_grad()
            loss, features = loss_of(body, head, centers, xb, yb)
            loss.backward()
            opt.step()
            centers = centers.moved(features.detach(), yb)
            losses.append(loss.item())
            rows.append(len(xb))
        shown.append(mean(losses, rows))
    return {"loss": shown, **results(body, head, centers)}


class CenterLoss(pg.Step):
    def __init__(self):
        self.body, self.head = make_model()
        self.centers = make_centers()
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        loss, features = self.minimize(
            lambda: loss_of(self.body, self.head, self.centers, x, y),
            self.optimizer,
            [self.body, self.head],
        )
        self.centers = self.centers.moved(features.detach(), y)
        return {"loss": loss}


def perigee(**fit):
    step = CenterLoss()
    history = pg.fit(step, points(), **{"epochs": 2, "batch_size": 8, "shuffle": False, **fit})
    return {"loss": history.history["loss"], **results(step.body, step.head, step.centers)}
