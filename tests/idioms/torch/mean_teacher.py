"""A teacher by `deepcopy` that follows by `lerp_`, its weight ramped up by a Python counter."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


def make_student():
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))


@torch.no_grad()
def follow(teacher, student, rate):
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast, rate)
    for slow, fast in zip(teacher.buffers(), student.buffers(), strict=True):
        slow.copy_(fast)


def plain():
    x, y = map(torch.from_numpy, points())
    student = make_student()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    opt = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    shown, seen = {"loss": [], "ramp": []}, 0
    for _ in range(3):
        losses, ramps, rows = [], [], []
        for xb, yb in zip(x.split(12), y.split(12), strict=True):
            ramp = min(1.0, seen / 10)
            logits = student(xb)
            loss = F.cross_entropy(logits, yb) + ramp * F.mse_loss(logits, teacher(xb))
            opt.zero_grad()
            loss.backward()
            opt.step()
            follow(teacher, student, 0.2)
            seen += 1
            losses.append(loss.item())
            ramps.append(ramp)
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        shown["ramp"].append(mean(ramps, rows))
    return {**shown, **state("student", student), **state("teacher", teacher)}


class MeanTeacher(pg.Step):
    def __init__(self):
        self.student = make_student()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.opt = torch.optim.SGD(self.student.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        self.seen = 0

    def train_step(self, batch):
        x, y = batch
        ramp = min(1.0, self.seen / 10)
        logits = self.student(x)
        loss = F.cross_entropy(logits, y) + ramp * F.mse_loss(logits, self.teacher(x))
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        follow(self.teacher, self.student, 0.2)
        self.seen += 1
        return {"loss": loss, "ramp": ramp}


def perigee(**fit):
    step = MeanTeacher()
    fit = {"epochs": 3, "batch_size": 12, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    shown = {name: history[name] for name in ("loss", "ramp")}
    return {**shown, **state("student", step.student), **state("teacher", step.teacher)}
