"""A DataLoader of dicts with file names in them; the losses of the files are kept by name."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import perigee as pg
from tests.idioms.programs import mean, points, state


class Files(Dataset):
    def __init__(self):
        self.x, self.y = points(24)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        x, y = torch.from_numpy(self.x[index]), int(self.y[index])
        return {"pixels": x, "label": y, "path": f"images/{index:04d}.png"}


def loader():
    return DataLoader(Files(), batch_size=6)


def update(net, opt, hardest, batch):
    each = F.cross_entropy(net(batch["pixels"]), batch["label"], reduction="none")
    opt.zero_grad()
    each.mean().backward()
    opt.step()
    for path, value in zip(batch["path"], each.tolist(), strict=True):
        hardest[path] = max(value, hardest.get(path, 0.0))
    return each.mean()


def plain():
    net, hardest = nn.Linear(6, 3), {}
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    shown = []
    for _ in range(2):
        losses = [(update(net, opt, hardest, b).item(), len(b["path"])) for b in loader()]
        shown.append(mean(*zip(*losses, strict=True)))
    return {"loss": shown, **state("net", net), **hardest}


class Hardest(pg.Step):
    def __init__(self):
        self.net = nn.Linear(6, 3)
        self.opt = torch.optim.SGD(self.net.parameters(), lr=0.1)
        self.hardest = {}

    def train_step(self, batch):
        return {"loss": update(self.net, self.opt, self.hardest, batch)}


def perigee(**fit):
    step = Hardest()
    history = pg.fit(step, loader(), **{"epochs": 2, **fit})
    return {"loss": history.history["loss"], **state("net", step.net), **step.hardest}
