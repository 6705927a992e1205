"""Training loops of JAX: `value_and_grad`, `stateless_call`, keys and scans, and as Steps."""

import functools

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import layers

import perigee as pg
from tests.strangers.corpus import by_loop
from tests.strangers.datasets import diabetes, digits, waves, wine

BATCH = 32


def batches(*arrays, size=BATCH):
    for start in range(0, len(arrays[0]), size):
        yield tuple(array[start : start + size] for array in arrays)


def mlp(inputs, outputs, *more):
    inner = [layers.Dense(16, activation="relu"), *more, layers.Dense(outputs)]
    return keras.Sequential([keras.Input((inputs,)), *inner])


def cross_entropy(logits, labels):
    taken = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)
    return -jnp.mean(taken)


def mean_of(losses, rows):
    return float(np.average(losses, weights=rows))


def fitted(step, *data, **given):
    given = {"batch_size": BATCH, "shuffle": False, "progress": "off", **given}
    return pg.fit(step, data, **given).history


# Keras's guide to a JAX loop, in one jitted function of a state.


def plain_stateless(make, optimizer, epochs=2):
    x, y = wine()
    model = make()
    optimizer.build(model.trainable_variables)

    def compute_loss(trainable, other, x, y):
        logits, other = model.stateless_call(trainable, other, x, training=True)
        return cross_entropy(logits, y), other

    grad_fn = jax.value_and_grad(compute_loss, has_aux=True)

    @jax.jit
    def train_step(state, x, y):
        trainable, other, opt = state
        (loss, other), grads = grad_fn(trainable, other, x, y)
        trainable, opt = optimizer.stateless_apply(opt, grads, trainable)
        return loss, (trainable, other, opt)

    state = (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
        [v.value for v in optimizer.variables],
    )
    shown = []
    for _ in range(epochs):
        losses, rows = [], []
        for xb, yb in batches(x, y):
            loss, state = train_step(state, xb, yb)
            losses.append(float(loss))
            rows.append(len(xb))
        shown.append(mean_of(losses, rows))
    for variable, value in zip(model.trainable_variables, state[0], strict=True):
        variable.assign(value)
    for variable, value in zip(model.non_trainable_variables, state[1], strict=True):
        variable.assign(value)
    return {"loss": shown, "weights": model.get_weights()}


class Stateless(pg.Step):
    """The guide's function as a Step, which assigns what the state came to."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.optimizer.build(self.model.trainable_variables)

    def compute_loss(self, trainable, other, x, y):
        logits, other = self.model.stateless_call(trainable, other, x, training=True)
        return cross_entropy(logits, y), other

    def train_step(self, batch):
        x, y = batch
        held = self.model.trainable_variables
        others = self.model.non_trainable_variables
        trainable = [v.value for v in held]
        grad_fn = jax.value_and_grad(self.compute_loss, has_aux=True)
        (loss, new), grads = grad_fn(trainable, [v.value for v in others], x, y)
        trainable, opt = self.optimizer.stateless_apply(
            [v.value for v in self.optimizer.variables], grads, trainable
        )
        for variables, values in (
            (held, trainable),
            (others, new),
            (self.optimizer.variables, opt),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        return {"loss": loss}


def guide(make, optimizer):
    model = make()
    history = fitted(Stateless(model, optimizer), *wine(), epochs=2)
    return {"loss": history["loss"], "weights": model.get_weights()}


@by_loop(lambda: plain_stateless(lambda: mlp(13, 3), keras.optimizers.Adam(0.01)), only="jax")
def stateless_call_and_apply():
    return guide(lambda: mlp(13, 3), keras.optimizers.Adam(0.01))


@by_loop(
    lambda: plain_stateless(
        lambda: mlp(13, 3, layers.BatchNormalization(momentum=0.8)), keras.optimizers.SGD(0.1)
    ),
    only="jax",
)
def stateless_with_statistics():
    return guide(
        lambda: mlp(13, 3, layers.BatchNormalization(momentum=0.8)), keras.optimizers.SGD(0.1)
    )


@by_loop(
    lambda: plain_stateless(
        lambda: mlp(13, 3, layers.Dropout(0.3, seed=5)), keras.optimizers.RMSprop(0.01)
    ),
    only="jax",
)
def stateless_with_dropout():
    return guide(lambda: mlp(13, 3, layers.Dropout(0.3, seed=5)), keras.optimizers.RMSprop(0.01))


# A function of parameters that `jax.jit` compiles, called inside the step.


class Jitted(Stateless):
    """The gradient is a jitted function that the Step holds."""

    def __init__(self, model, optimizer):
        super().__init__(model, optimizer)
        self.grad_fn = jax.jit(jax.value_and_grad(self.compute_loss, has_aux=True))

    def train_step(self, batch):
        x, y = batch
        held = self.model.trainable_variables
        (loss, _), grads = self.grad_fn([v.value for v in held], [], x, y)
        self.optimizer.apply(grads, held)
        return {"loss": loss}


@by_loop(lambda: plain_stateless(lambda: mlp(13, 3), keras.optimizers.Adam(0.01)), only="jax")
def a_jitted_gradient_and_apply():
    model = mlp(13, 3)
    history = fitted(Jitted(model, keras.optimizers.Adam(0.01)), *wine(), epochs=2)
    return {"loss": history["loss"], "weights": model.get_weights()}


# Updates of the user's own, as optax has them: momentum in a tree, clipped by the global norm.


def clipped(grads, most):
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in grads))
    return [g * jnp.minimum(1.0, most / norm) for g in grads], norm


def plain_momentum():
    x, y = diabetes()
    model = mlp(10, 1)
    params = [v.value for v in model.trainable_variables]
    trace = [jnp.zeros_like(p) for p in params]

    @jax.jit
    def update(params, trace, x, y):
        def loss_fn(params):
            y_pred, _ = model.stateless_call(params, [], x)
            return jnp.mean((y_pred[:, 0] - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        grads, norm = clipped(grads, 0.5)
        trace = jax.tree.map(lambda t, g: 0.9 * t + g, trace, grads)
        params = jax.tree.map(lambda p, t: p - 0.05 * t, params, trace)
        return params, trace, loss, norm

    losses, norms, rows = [], [], []
    for xb, yb in batches(x, y):
        params, trace, loss, norm = update(params, trace, xb, yb)
        losses.append(float(loss))
        norms.append(float(norm))
        rows.append(len(xb))
    return {"loss": mean_of(losses, rows), "norm": mean_of(norms, rows), "weights": params}


@by_loop(plain_momentum, only="jax")
def momentum_by_hand():
    class Momentum(pg.Step):
        def __init__(self, model):
            self.model = model
            self.trace = [
                keras.Variable(np.zeros(v.shape, "float32"), trainable=False, name=f"trace_{i}")
                for i, v in enumerate(model.trainable_variables)
            ]

        def train_step(self, batch):
            x, y = batch

            def loss_fn(params):
                y_pred, _ = self.model.stateless_call(params, [], x)
                return jnp.mean((y_pred[:, 0] - y) ** 2)

            params = [v.value for v in self.model.trainable_variables]
            loss, grads = jax.value_and_grad(loss_fn)(params)
            grads, norm = clipped(grads, 0.5)
            trace = jax.tree.map(lambda t, g: 0.9 * t + g, [t.value for t in self.trace], grads)
            for variable, value in zip(self.trace, trace, strict=True):
                variable.assign(value)
            for v, p, t in zip(self.model.trainable_variables, params, trace, strict=True):
                v.assign(p - 0.05 * t)
            return {"loss": loss, "norm": norm}

    model = mlp(10, 1)
    history = fitted(Momentum(model), *diabetes())
    weights = [v.value for v in model.trainable_variables]
    return {"loss": history["loss"][0], "norm": history["norm"][0], "weights": weights}


# Keys that are split for each batch, and noise on the inputs.


def plain_keys():
    x, _ = digits()
    x = x.reshape(len(x), 64)
    model = mlp(64, 64)
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build(model.trainable_variables)
    key = jax.random.key_data(jax.random.key(7))
    params = [v.value for v in model.trainable_variables]
    opt = [v.value for v in optimizer.variables]
    losses = []
    for (xb,) in batches(x):
        following, used = jax.random.split(jax.random.wrap_key_data(key))
        key = jax.random.key_data(following)
        noisy = xb + 0.3 * jax.random.normal(used, xb.shape)

        def loss_fn(params, noisy=noisy, xb=xb):
            return jnp.mean((model.stateless_call(params, [], noisy)[0] - xb) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        params, opt = optimizer.stateless_apply(opt, grads, params)
        losses.append(float(loss))
    return {"loss": np.mean(losses), "key": np.asarray(key), "weights": params}


@by_loop(plain_keys, only="jax")
def keys_in_a_variable():
    class Denoise(pg.Step):
        def __init__(self, model):
            self.model = model
            self.optimizer = keras.optimizers.SGD(0.5)
            data = np.asarray(jax.random.key_data(jax.random.key(7)))
            self.key = keras.Variable(data, dtype="uint32", trainable=False, name="key")

        def train_step(self, x):
            following, used = jax.random.split(jax.random.wrap_key_data(self.key.value))
            self.key.assign(jax.random.key_data(following))
            noisy = x + 0.3 * jax.random.normal(used, x.shape)

            def objective():
                return jnp.mean((self.model(noisy, training=True) - x) ** 2)

            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    x = digits()[0]
    step = Denoise(mlp(64, 64))
    history = pg.fit(
        step, x.reshape(len(x), 64), batch_size=BATCH, shuffle=False, progress="off"
    ).history
    weights = [v.value for v in step.model.trainable_variables]
    return {"loss": history["loss"][0], "key": np.asarray(step.key.value), "weights": weights}


# `lax.scan` over time, inside a layer of the user's own.


class Scanned(layers.Layer):
    """A leaky sum over time."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")
        self.leak = self.add_weight(shape=(8,), initializer="zeros", name="leak")

    def call(self, x):
        def body(state, now):
            state = jax.nn.sigmoid(self.leak.value) * state + jnp.tanh(now @ self.kernel.value)
            return state, None

        start = jnp.zeros((x.shape[0], 8))
        return jax.lax.scan(body, start, jnp.swapaxes(x, 0, 1))[0]


def recurrent():
    return keras.Sequential([keras.Input((20, 1)), Scanned(), layers.Dense(1)])


def plain_scan():
    x, y = waves()
    model = recurrent()
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    params, opt = (
        [v.value for v in model.trainable_variables],
        [v.value for v in optimizer.variables],
    )

    @jax.jit
    def update(params, opt, x, y):
        def loss_fn(params):
            return jnp.mean((model.stateless_call(params, [], x)[0] - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return loss, *optimizer.stateless_apply(opt, grads, params)

    losses, rows = [], []
    for xb, yb in batches(x, y):
        loss, params, opt = update(params, opt, xb, yb)
        losses.append(float(loss))
        rows.append(len(xb))
    return {"loss": mean_of(losses, rows), "weights": params}


@by_loop(plain_scan, only="jax")
def a_scan_inside_the_model():
    class Forecast(pg.Step):
        def __init__(self, model):
            self.model, self.optimizer = model, keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            x, y = batch
            loss = self.minimize(
                lambda: jnp.mean((self.model(x, training=True) - y) ** 2), self.optimizer
            )
            return {"loss": loss}

    step = Forecast(recurrent())
    history = fitted(step, *waves())
    weights = [v.value for v in step.model.trainable_variables]
    return {"loss": history["loss"][0], "weights": weights}


# Gradients of each example by `vmap`, clipped one by one.


def plain_private():
    x, y = diabetes()
    model = mlp(10, 1)
    params = [v.value for v in model.trainable_variables]

    def loss_of_one(params, x, y):
        return (model.stateless_call(params, [], x[None])[0][0, 0] - y) ** 2

    @jax.jit
    def update(params, x, y):
        losses, grads = jax.vmap(jax.value_and_grad(loss_of_one), (None, 0, 0))(params, x, y)
        grads, _ = jax.vmap(functools.partial(clipped, most=1.0))(grads)
        return losses, [p - 0.1 * jnp.mean(g, 0) for p, g in zip(params, grads, strict=True)]

    losses = []
    for xb, yb in batches(x, y):
        each, params = update(params, xb, yb)
        losses += list(each)
    return {"loss": np.mean(losses), "weights": params}


@by_loop(plain_private, only="jax")
def clipped_for_each_example():
    class Private(pg.Step):
        def __init__(self, model):
            self.model = model

        def train_step(self, batch):
            x, y = batch

            def loss_of_one(params, x, y):
                return (self.model.stateless_call(params, [], x[None])[0][0, 0] - y) ** 2

            params = [v.value for v in self.model.trainable_variables]
            losses, grads = jax.vmap(jax.value_and_grad(loss_of_one), (None, 0, 0))(params, x, y)
            grads, _ = jax.vmap(functools.partial(clipped, most=1.0))(grads)
            for v, g in zip(self.model.trainable_variables, grads, strict=True):
                v.assign(v.value - 0.1 * jnp.mean(g, 0))
            return {"loss": losses}

    step = Private(mlp(10, 1))
    history = fitted(step, *diabetes())
    weights = [v.value for v in step.model.trainable_variables]
    return {"loss": history["loss"][0], "weights": weights}


# A conditional update by `lax.cond`, and a teacher that follows by `lax.stop_gradient`.


def plain_teacher():
    x, y = wine()
    model, teacher = mlp(13, 3), mlp(13, 3)
    teacher.set_weights(model.get_weights())
    params = [v.value for v in model.trainable_variables]
    slow = list(params)

    @jax.jit
    def update(params, slow, x, y):
        soft = jax.nn.softmax(jax.lax.stop_gradient(teacher.stateless_call(slow, [], x)[0]))

        def loss_fn(params):
            logits = model.stateless_call(params, [], x)[0]
            return cross_entropy(logits, y) - jnp.mean(soft * jax.nn.log_softmax(logits))

        loss, grads = jax.value_and_grad(loss_fn)(params)
        params = jax.lax.cond(
            loss > 0.9,
            lambda p: [v - 0.1 * g for v, g in zip(p, grads, strict=True)],
            lambda p: p,
            params,
        )
        return loss, params, [0.9 * s + 0.1 * p for s, p in zip(slow, params, strict=True)]

    losses, rows = [], []
    for _ in range(3):
        for xb, yb in batches(x, y):
            loss, params, slow = update(params, slow, xb, yb)
            losses.append(float(loss))
            rows.append(len(xb))
    return {"loss": mean_of(losses, rows), "weights": params, "teacher": slow}


@by_loop(plain_teacher, only="jax")
def a_teacher_and_a_condition():
    class Teach(pg.Step):
        def __init__(self, model, teacher):
            self.model, self.teacher = model, teacher

        def train_step(self, batch):
            x, y = batch
            soft = jax.nn.softmax(jax.lax.stop_gradient(self.teacher(x)))

            def loss_fn(params):
                logits = self.model.stateless_call(params, [], x)[0]
                return cross_entropy(logits, y) - jnp.mean(soft * jax.nn.log_softmax(logits))

            params = [v.value for v in self.model.trainable_variables]
            loss, grads = jax.value_and_grad(loss_fn)(params)
            params = jax.lax.cond(
                loss > 0.9,
                lambda p: [v - 0.1 * g for v, g in zip(p, grads, strict=True)],
                lambda p: p,
                params,
            )
            for v, value in zip(self.model.trainable_variables, params, strict=True):
                v.assign(value)
            for s, value in zip(self.teacher.trainable_variables, params, strict=True):
                s.assign(0.9 * s.value + 0.1 * value)
            return {"loss": loss}

    model, teacher = mlp(13, 3), mlp(13, 3)
    teacher.set_weights(model.get_weights())
    history = fitted(Teach(model, teacher), *wine(), epochs=3)
    return {
        "loss": np.mean(history["loss"]),
        "weights": [v.value for v in model.trainable_variables],
        "teacher": [v.value for v in teacher.trainable_variables],
    }
