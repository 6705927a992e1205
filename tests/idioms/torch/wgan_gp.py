"""A GAN: two optimizers, `detach`, a gradient penalty, noise from a `torch.Generator`."""

import torch
from torch import nn

import perigee as pg
from tests.idioms.programs import mean, points, slots, state


class Players:
    """An object of one's own that holds both networks and their optimizers."""

    def __init__(self):
        self.generator = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 6))
        self.critic = nn.Sequential(nn.Linear(6, 10), nn.LeakyReLU(0.2), nn.Linear(10, 1))
        self.opt_g = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
        self.opt_c = torch.optim.Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.9))
        self.rng = torch.Generator().manual_seed(21)
        self.calls = 0

    def draw(self, rows):
        return self.generator(torch.randn(rows, 3, generator=self.rng))

    def penalty(self, real, fake):
        share = torch.rand(len(real), 1, generator=self.rng)
        between = (share * real + (1 - share) * fake).requires_grad_(True)
        scores = self.critic(between)
        (slopes,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
        return ((slopes.norm(2, dim=1) - 1) ** 2).mean()

    def update(self, real):
        fake = self.draw(len(real)).detach()
        gap = self.critic(fake).mean() - self.critic(real).mean()
        critic_loss = gap + 10 * self.penalty(real, fake)
        self.opt_c.zero_grad()
        critic_loss.backward()
        self.opt_c.step()
        if self.calls % 2 == 1:
            self.opt_g.zero_grad()
            (-self.critic(self.draw(len(real))).mean()).backward()
            self.opt_g.step()
        self.calls += 1
        return critic_loss, gap


def results(players):
    nets = {**state("g", players.generator), **state("c", players.critic)}
    return {**nets, **slots("opt_g", players.opt_g), **slots("opt_c", players.opt_c)}


def plain():
    x = torch.from_numpy(points()[0])
    players = Players()
    shown = {"critic": [], "gap": []}
    for _ in range(2):
        values, rows = [], []
        for real in x.split(8):
            critic_loss, gap = players.update(real)
            values.append([critic_loss.item(), gap.item()])
            rows.append(len(real))
        for name, value in zip(shown, zip(*values, strict=True), strict=True):
            shown[name].append(mean(value, rows))
    return {**shown, **results(players)}


class Gan(pg.Step):
    def __init__(self, players):
        self.players = players

    def train_step(self, real):
        critic_loss, gap = self.players.update(real)
        return {"critic": critic_loss.item(), "gap": gap.item()}


def perigee(**fit):
    players = Players()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(Gan(players), points()[0], **fit).history
    return {**{name: history[name] for name in ("critic", "gap")}, **results(players)}
