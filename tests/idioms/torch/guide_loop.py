"""The loop of Keras's own guide for torch: `backward()`, then an optimizer of Keras's applies."""

import keras
import torch

import perigee as pg
from tests.idioms.programs import mean, points


def make_model():
    layers = [keras.layers.Dense(10, activation="relu"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *layers])


def update(model, optimizer, loss_fn, x, y):
    logits = model(x, training=True)
    loss = loss_fn(y, logits)
    model.zero_grad()
    loss.backward()
    weights = list(model.trainable_weights)
    gradients = [weight.value.grad for weight in weights]
    with torch.no_grad():
        optimizer.apply(gradients, weights)
    return loss, logits


def results(model, optimizer):
    weights = {f"w{i}": w for i, w in enumerate(model.get_weights())}
    return {**weights, "updates": int(optimizer.iterations.value)}


def plain():
    x, y = map(torch.from_numpy, points())
    model, optimizer = make_model(), keras.optimizers.Adam(0.01)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy()
    shown = {"loss": [], "accuracy": []}
    for _ in range(2):
        losses, rows = [], []
        for xb, yb in zip(x.split(8), y.split(8), strict=True):
            loss, logits = update(model, optimizer, loss_fn, xb, yb)
            accuracy.update_state(yb, logits)
            losses.append(loss.item())
            rows.append(len(xb))
        shown["loss"].append(mean(losses, rows))
        shown["accuracy"].append(float(accuracy.result()))
        accuracy.reset_state()
    return {**shown, **results(model, optimizer)}


class Guide(pg.Step):
    def __init__(self):
        self.model, self.optimizer = make_model(), keras.optimizers.Adam(0.01)
        self.loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch
        loss, logits = update(self.model, self.optimizer, self.loss_fn, x, y)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}


def perigee(**fit):
    step = Guide()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, **fit}
    history = pg.fit(step, points(), **fit).history
    shown = {name: history[name] for name in ("loss", "accuracy")}
    return {**shown, **results(step.model, step.optimizer)}
