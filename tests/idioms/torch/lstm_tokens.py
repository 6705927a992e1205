"""An embedding and an LSTM in a module of one's own, clipped by norm; the norm is logged."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, slots, state


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8, padding_idx=0)
        self.lstm = nn.LSTM(8, 10, batch_first=True, bidirectional=True)
        self.out = nn.Linear(20, 4)

    def forward(self, tokens):
        hidden, _ = self.lstm(self.embedding(tokens))
        return self.out(hidden)


def sentences():
    draw = np.random.default_rng(3)
    tokens = draw.integers(1, 20, (24, 7))
    tokens[np.arange(7) >= draw.integers(3, 8, (24, 1))] = 0
    return {"tokens": tokens, "tags": np.where(tokens > 0, tokens % 4, -100)}


def loss_of(net, batch):
    return F.cross_entropy(net(batch["tokens"]).flatten(0, 1), batch["tags"].flatten())


def plain():
    data = {name: torch.from_numpy(array) for name, array in sentences().items()}
    net = Tagger()
    opt = torch.optim.Adam(net.parameters(), lr=0.02)
    shown = {"loss": [], "grad_norm": []}
    for _ in range(2):
        losses, norms, rows = [], [], []
        for start in range(0, 24, 6):
            batch = {name: tensor[start : start + 6] for name, tensor in data.items()}
            opt.zero_grad()
            loss = loss_of(net, batch)
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(net.parameters(), 0.5).item())
            opt.step()
            losses.append(loss.item())
            rows.append(6)
        shown["loss"].append(mean(losses, rows))
        shown["grad_norm"].append(mean(norms, rows))
    return {**shown, **state("net", net), **slots("opt", opt)}


class Tagging(pg.Step):
    def __init__(self):
        self.net = Tagger()
        self.opt = torch.optim.Adam(self.net.parameters(), lr=0.02)

    def train_step(self, batch):
        self.opt.zero_grad()
        loss = loss_of(self.net, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.opt.step()
        return {"loss": loss, "grad_norm": norm}


def perigee(**fit):
    step = Tagging()
    history = pg.fit(step, sentences(), **{"epochs": 2, "batch_size": 6, "shuffle": False, **fit})
    shown = {name: history.history[name] for name in ("loss", "grad_norm")}
    return {**shown, **state("net", step.net), **slots("opt", step.opt)}
