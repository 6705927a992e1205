"""A torch teacher and a Keras student, trained by an optimizer of torch's over `parameters()`."""

import keras
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


def make_teacher():
    teacher = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))
    return teacher.eval().requires_grad_(False)


def make_student():
    layers = [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *layers])


def loss_of(student, teacher, x, y, temperature=3.0):
    logits = student(x, training=True)
    soft = F.softmax(teacher(x) / temperature, dim=-1)
    log_soft = F.log_softmax(logits / temperature, dim=-1)
    distance = F.kl_div(log_soft, soft, reduction="batchmean") * temperature**2
    return distance + 0.1 * F.cross_entropy(logits, y), logits


def plain():
    x, y = map(torch.from_numpy, points())
    teacher, student = make_teacher(), make_student()
    opt = torch.optim.AdamW(student.parameters(), lr=0.01, amsgrad=True)
    shown = {"loss": [], "accuracy": []}
    for _ in range(2):
        losses, hits, rows = [], [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss, logits = loss_of(student, teacher, xb, yb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
            hits.append((logits.argmax(-1) == yb).float().mean().item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        shown["accuracy"].append(mean(hits, rows))
    weights = {f"w{i}": w for i, w in enumerate(student.get_weights())}
    return {**shown, **weights, **state("teacher", teacher), **slots("opt", opt)}


class Distills(pg.Step):
    def __init__(self):
        self.teacher, self.student = make_teacher(), make_student()
        self.opt = torch.optim.AdamW(self.student.parameters(), lr=0.01, amsgrad=True)

    def train_step(self, batch):
        x, y = batch
        loss, logits = loss_of(self.student, self.teacher, x, y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return {"loss": loss, "accuracy": (logits.argmax(-1) == y).float().mean()}


def perigee(**fit):
    step = Distills()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    shown = {name: history[name] for name in ("loss", "accuracy")}
    weights = {f"w{i}": w for i, w in enumerate(step.student.get_weights())}
    return {**shown, **weights, **state("teacher", step.teacher), **slots("opt", step.opt)}
