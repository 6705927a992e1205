"""An optimizer of Optax, with its state in variables: what the error for `optax_given` says."""

import jax
import jax.numpy as jnp
import keras
import optax

import perigee as pg
from tests.idioms.jax import optax_given


def transformation():
    rate = optax.cosine_decay_schedule(2e-2, 20)
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(rate))


def plain():
    return optax_given.plain(transformation())


class Regression(pg.Step):
    def __init__(self, model, optimizer):
        self.model = model
        self.optimizer = optimizer
        weights = [v.value for v in self.model.trainable_variables]
        slots = self.optimizer.init(weights)
        self.slots = jax.tree.map(lambda x: keras.Variable(x, trainable=False), slots)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return jnp.mean((self.model(x, training=True) - y) ** 2)

        gradients = self.gradients(objective, self.model)
        weights = [v.value for v in gradients.variables]
        slots = jax.tree.map(lambda v: v.value, self.slots)
        updates, slots = self.optimizer.update(list(gradients), slots, weights)
        jax.tree.map(lambda v, new: v.assign(new), self.slots, slots)
        for variable, update in zip(gradients.variables, updates):  # noqa: B905
            variable.assign_add(update)
        loss = gradients.loss
        return {"loss": loss}


def perigee(**fit):
    return optax_given.trained(Regression(optax_given.network(), transformation()), **fit)
