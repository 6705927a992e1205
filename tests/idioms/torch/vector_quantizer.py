"""A codebook in buffers, moved by running means, and a straight-through estimate."""

import torch
import torch.nn.functional as F
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, state


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.randn(6, 4))
        self.register_buffer("counts", torch.ones(6))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, z):
        index = torch.cdist(z, self.codes).argmin(-1)
        if self.training:
            with torch.no_grad():
                chosen = F.one_hot(index, 6).to(z.dtype)
                self.counts.mul_(0.8).add_(chosen.sum(0), alpha=0.2)
                self.sums.mul_(0.8).add_(chosen.T @ z, alpha=0.2)
                self.codes.copy_(self.sums / self.counts.clamp(min=1e-3)[:, None])
        quantized = self.codes[index]
        commitment = F.mse_loss(z, quantized.detach())
        return z + (quantized - z).detach(), commitment


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(6, 4)
        self.quantizer = Quantizer()
        self.decoder = nn.Linear(4, 6)

    def forward(self, x):
        quantized, commitment = self.quantizer(self.encoder(x))
        return F.mse_loss(self.decoder(quantized), x), commitment


def plain():
    x = torch.from_numpy(points()[0])
    net = Autoencoder()
    opt = torch.optim.Adam(net.parameters(), lr=0.02)
    shown = {"recon": [], "commit": []}
    for _ in range(2):
        recons, commits, rows = [], [], []
        for xb in x.split(8):
            recon, commit = net(xb)
            opt.zero_grad()
            (recon + 0.25 * commit).backward()
            opt.step()
            recons.append(recon.item())
            commits.append(commit.item())
            rows.append(len(xb))
        shown["recon"].append(mean(recons, rows))
        shown["commit"].append(mean(commits, rows))
    return {**shown, **state("net", net)}


class Quantize(pg.Step):
    def __init__(self):
        self.net = Autoencoder()
        self.opt = torch.optim.Adam(self.net.parameters(), lr=0.02)

    def train_step(self, x):
        recon, commit = self.net(x)
        self.opt.zero_grad()
        (recon + 0.25 * commit).backward()
        self.opt.step()
        return {"recon": recon, "commit": commit}


def perigee(**fit):
    step = Quantize()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points()[0], **fit).history
    return {**{name: history[name] for name in ("recon", "commit")}, **state("net", step.net)}
