"""A Wasserstein critic whose slope is held near 1: `jax.grad` inside the objective."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(18)
shift = np.array([2.0, 0.0])
real = (draw.normal(size=(64, 2)) + shift).astype("float32")
fake = draw.normal(size=(64, 2)).astype("float32")
mix = draw.random(size=(64, 1)).astype("float32")


def make():
    keras.utils.set_random_seed(19)
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
    critic = keras.Sequential([keras.Input((2,)), *layers])
    optimizer = keras.optimizers.RMSprop(0.01)
    optimizer.build(critic.trainable_variables)
    return critic, optimizer


def critic_loss(score, batch):
    real, fake, mix = batch["real"], batch["fake"], batch["mix"]
    slopes = jax.grad(lambda points: jnp.sum(score(points)))(mix * real + (1 - mix) * fake)
    norms = jnp.sqrt(jnp.sum(slopes**2, axis=-1) + 1e-12)
    penalty = jnp.mean((norms - 1.0) ** 2)
    return jnp.mean(score(fake)) - jnp.mean(score(real)) + 10.0 * penalty, penalty


def plain():
    critic, optimizer = make()

    @jax.jit
    def update(params, slots, batch):
        def loss_fn(params):
            return critic_loss(lambda points: critic.stateless_call(params, [], points)[0], batch)

        (loss, penalty), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss, penalty

    params = [v.value for v in critic.trainable_variables]
    slots = [v.value for v in optimizer.variables]
    means, penalties = [], []
    for _ in range(2):
        shown = []
        for i in range(0, 64, 16):
            part = slice(i, i + 16)
            batch = {"real": real[part], "fake": fake[part], "mix": mix[part]}
            params, slots, loss, penalty = update(params, slots, batch)
            shown.append((float(loss), float(penalty)))
        means.append(np.mean(shown, axis=0)[0])
        penalties.append(np.mean(shown, axis=0)[1])
    weights = {f"w{i}": np.asarray(p) for i, p in enumerate(params)}
    return {"loss": np.array(means), "penalty": np.array(penalties), **weights}


class Critic(pg.Step):
    def __init__(self, critic, optimizer):
        self.critic, self.optimizer = critic, optimizer

    def train_step(self, batch):
        objective = lambda: critic_loss(self.critic, batch)  # noqa: E731
        loss, penalty = self.minimize(objective, self.optimizer, self.critic)
        return {"loss": loss, "penalty": penalty}


def perigee(**fit):
    step = Critic(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, {"real": real, "fake": fake, "mix": mix}, **given).history
    weights = {f"w{i}": w for i, w in enumerate(step.critic.get_weights())}
    return {"loss": np.array(history["loss"]), "penalty": np.array(history["penalty"]), **weights}
