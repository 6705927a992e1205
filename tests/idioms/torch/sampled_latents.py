"""A variational autoencoder of Keras layers that samples by `torch.randn_like`, by `minimize`."""

import keras
import torch
import torch.nn.functional as F

import perigee as pg
from tests.idioms.programs import mean, points


def make_model():
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(6)])
    return encoder, decoder


def losses_of(encoder, decoder, x):
    mu, log_var = encoder(x).chunk(2, dim=-1)
    z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
    recon = F.mse_loss(decoder(z), x, reduction="none").sum(-1)
    kl = -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(-1)
    return (recon + kl).mean(), (recon.mean(), kl.mean())


def results(encoder, decoder):
    weights = [*encoder.get_weights(), *decoder.get_weights()]
    return {f"w{i}": w for i, w in enumerate(weights)}


def plain():
    x = torch.from_numpy(points()[0])
    encoder, decoder = make_model()
    opt = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.02)
    torch.manual_seed(9)
    shown = {"elbo": [], "recon": [], "kl": []}
    for _ in range(2):
        values, rows = [], []
        for xb in x.split(8):
            loss, (recon, kl) = losses_of(encoder, decoder, xb)
            opt.zero_grad()
            loss.backward()
            opt.step()
            values.append([loss.item(), recon.item(), kl.item()])
            rows.append(len(xb))
        for name, value in zip(shown, zip(*values, strict=True), strict=True):
            shown[name].append(mean(value, rows))
    return {**shown, **results(encoder, decoder)}


class Vae(pg.Step):
    def __init__(self):
        self.encoder, self.decoder = make_model()
        self.optimizer = keras.optimizers.SGD(0.02)

    def train_step(self, x):
        loss, (recon, kl) = self.minimize(
            lambda: losses_of(self.encoder, self.decoder, x),
            self.optimizer,
            [self.encoder, self.decoder],
        )
        return {"elbo": loss, "recon": recon, "kl": kl}


def perigee(**fit):
    step = Vae()
    torch.manual_seed(9)
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points()[0], **fit).history
    shown = {name: history[name] for name in ("elbo", "recon", "kl")}
    return {**shown, **results(step.encoder, step.decoder)}
