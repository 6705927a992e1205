"""A GAN with two Keras optimizers, both nets updated by `value_and_grad` and `optimizer.apply`."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

real = (np.random.default_rng(31).normal(size=(64, 2)) * 0.5 + 1.5).astype("float32")


def make():
    keras.utils.set_random_seed(32)
    nets = {
        "generator": keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
        "discriminator": keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(1)]
        ),
    }
    optimizers = {name: keras.optimizers.SGD(0.1, momentum=0.5) for name in nets}
    for name, net in nets.items():
        optimizers[name].build(net.trainable_variables)
    return nets, optimizers


def call(net, params, x):
    return net.stateless_call(params, [], x)[0]


def d_loss(nets, d_params, g_params, z, real):
    fake = call(nets["generator"], g_params, z)
    on_real = call(nets["discriminator"], d_params, real)
    on_fake = call(nets["discriminator"], d_params, fake)
    return jnp.mean(jax.nn.softplus(-on_real)) + jnp.mean(jax.nn.softplus(on_fake))


def g_loss(nets, g_params, d_params, z):
    return jnp.mean(
        jax.nn.softplus(
            -call(nets["discriminator"], d_params, call(nets["generator"], g_params, z))
        )
    )


def noise(count):
    return jax.random.normal(jax.random.fold_in(jax.random.PRNGKey(3), count), (16, 3))


def plain():
    nets, optimizers = make()
    params = {name: [v.value for v in net.trainable_variables] for name, net in nets.items()}
    slots = {name: [v.value for v in o.variables] for name, o in optimizers.items()}

    @jax.jit
    def update(params, slots, count, real):
        params, slots, losses = dict(params), dict(slots), []
        z, g, d = noise(count), "generator", "discriminator"
        loss, grads = jax.value_and_grad(lambda p: d_loss(nets, p, params[g], z, real))(params[d])
        losses.append(loss)
        params[d], slots[d] = optimizers[d].stateless_apply(slots[d], grads, params[d])
        loss, grads = jax.value_and_grad(lambda p: g_loss(nets, p, params[d], z))(params[g])
        losses.append(loss)
        params[g], slots[g] = optimizers[g].stateless_apply(slots[g], grads, params[g])
        return params, slots, losses

    means = []
    for epoch in range(2):
        seen = []
        for i in range(0, 64, 16):
            count = epoch * 4 + i // 16
            params, slots, losses = update(params, slots, count, real[i : i + 16])
            seen.append([float(loss) for loss in losses])
        means.append(np.mean(seen, axis=0))
    flat = {f"w{i}": np.asarray(p) for i, p in enumerate(jax.tree.leaves(params))}
    return {"d": np.array(means)[:, 0], "g": np.array(means)[:, 1], **flat}


class Gan(pg.Step):
    def __init__(self, nets, optimizers):
        self.nets, self.optimizers = nets, optimizers

    def train_step(self, real):
        g, d = self.nets["generator"], self.nets["discriminator"]
        z = noise(self.optimizers["generator"].iterations.value)
        g_params = [v.value for v in g.trainable_variables]
        d_params = [v.value for v in d.trainable_variables]
        d_value, grads = jax.value_and_grad(lambda p: d_loss(self.nets, p, g_params, z, real))(
            d_params
        )
        self.optimizers["discriminator"].apply(grads, d.trainable_variables)
        d_params = [v.value for v in d.trainable_variables]
        g_value, grads = jax.value_and_grad(lambda p: g_loss(self.nets, p, d_params, z))(g_params)
        self.optimizers["generator"].apply(grads, g.trainable_variables)
        return {"d": d_value, "g": g_value}


def perigee(**fit):
    step = Gan(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, real, **given).history
    variables = [v for n in sorted(step.nets) for v in step.nets[n].trainable_variables]
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"d": np.array(history["d"]), "g": np.array(history["g"]), **weights}
