"""A generator function of batches whose lengths vary; sequences are packed inside."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import perigee as pg
from tests.idioms.programs import mean, state


class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(2, 6, batch_first=True)
        self.out = nn.Linear(6, 1)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.out(self.rnn(packed)[1][0]).squeeze(-1)


def batches():
    draw = np.random.default_rng(12)
    for _ in range(5):
        lengths = draw.integers(1, 6, 6)
        x = draw.normal(size=(6, lengths.max(), 2)).astype("float32")
        x[np.arange(lengths.max()) >= lengths[:, None]] = 0
        yield torch.from_numpy(x), torch.from_numpy(lengths), torch.from_numpy(x.sum((1, 2)))


def update(net, opt, x, lengths, y):
    each = (net(x, lengths) - y).abs()
    opt.zero_grad()
    each.sum().backward()
    opt.step()
    return each


def plain():
    net = Lengths()
    opt = torch.optim.Adamax(net.parameters(), lr=0.02)
    shown = []
    for _ in range(2):
        each = [update(net, opt, *batch).detach().numpy() for batch in batches()]
        shown.append(mean(np.concatenate(each), np.ones(30)))
    return {"mae": shown, **state("net", net)}


class Packed(pg.Step):
    def __init__(self):
        self.net = Lengths()
        self.opt = torch.optim.Adamax(self.net.parameters(), lr=0.02)

    def train_step(self, batch):
        return {"mae": update(self.net, self.opt, *batch).mean()}


def perigee(**fit):
    step = Packed()
    history = pg.fit(step, batches, **{"epochs": 2, **fit})
    return {"mae": history.history["mae"], **state("net", step.net)}
