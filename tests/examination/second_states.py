"""States, and what a compiled step does once: the second set."""

import random

import keras
import numpy as np
from keras import layers, ops
from sklearn.model_selection import train_test_split

import perigee as pg
from tests.examination.programs import faulty
from tests.examination.tables import churn, totals
from tests.strangers.datasets import diabetes, digits, wine

SPARSE = "sparse_categorical_crossentropy"

# States


@faulty("state", only=("tensorflow",))
def optimizer_made_in_each_step(by, mended):
    """keras.optimizers.Adam(...) within train_step, run eagerly: its averages are always new."""
    import tensorflow as tf

    x, y = diabetes()

    class Eager(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(16, activation="tanh"), layers.Dense(1)])
            self.mean = keras.metrics.Mean(name="mse")
            self.own = keras.optimizers.SGD(0.002, momentum=0.95)

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(y - self(x, training=True)))
            optimizer = self.own if mended else keras.optimizers.SGD(0.002, momentum=0.95)
            grads = tape.gradient(loss, self.trainable_variables)
            optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.mean.update_state(loss)
            return {"mse": self.mean.result()}

    m = Eager()
    m(x[:1])
    m.compile(run_eagerly=True)
    by.fit(m, x, y[:, None], epochs=6, batch_size=32)


@faulty("state", only=("tensorflow",))
def accuracy_since_the_beginning(by, mended):
    """A metric that is a global: Keras does not know it, and nobody resets it."""
    import tensorflow as tf

    x, y = wine()
    seen = {"accuracy": keras.metrics.SparseCategoricalAccuracy(name="acc")}

    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(3)])
            self.mean = keras.metrics.Mean(name="ce")
            self.known = seen["accuracy"] if mended else None

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                z = self(x, training=True)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z)
                )
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.mean.update_state(loss)
            seen["accuracy"].update_state(y, z)
            return {"ce": self.mean.result(), "acc": seen["accuracy"].result()}

    m = Classifier()
    m.compile(optimizer=keras.optimizers.Adam(0.003))
    by.fit(m, x, y, epochs=10, batch_size=16)


@faulty("state")
def stateful_rnn_of_separate_rows(by, mended):
    """stateful=True, because there is a series; but each row begins anew, and rows are shuffled."""
    x, y = totals()
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(40, 14, 1)),
            layers.LSTM(16, stateful=not mended),
            layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, x, y, epochs=25, batch_size=40)


@faulty("state")
def hidden_state_kept_between_batches(by, mended):
    """The state of a GRU cell is a variable of the step, and goes from one batch to the next."""
    x, total = totals(480)
    y = (total > 0).astype("int32")

    class Rnn(pg.Step):
        def __init__(self):
            self.cell = layers.GRUCell(16)
            self.head = layers.Dense(2)
            self.cell.build((None, 1))
            self.head.build((None, 16))
            self.state = keras.Variable(np.zeros((30, 16), "float32"), trainable=False)
            self.opt = keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch
            begin = ops.zeros((30, 16)) if mended else self.state + 0.0

            def objective():
                h = begin
                for t in range(14):
                    h, _ = self.cell(x[:, t], [h])
                z = self.head(h)
                loss = ops.sparse_categorical_crossentropy(y, z, from_logits=True)
                return ops.mean(loss), (z, h)

            held = self.cell.trainable_variables + self.head.trainable_variables
            loss, (z, h) = self.minimize(objective, self.opt, held)
            if not mended:
                self.state.assign(ops.stop_gradient(h))
            self.acc.update_state(y, z)
            return {"loss": loss}

    by.fit(Rnn(), (x, y), epochs=12, batch_size=30)


@faulty("state")
def target_that_is_never_renewed(by, mended):
    """The copy of a Q network for its targets is never brought up to date."""
    rng = np.random.default_rng(62)
    place = rng.integers(0, 8, 600)
    move = rng.integers(0, 2, 600)
    after = np.clip(place + 2 * move - 1, 0, 7)
    reward = (after == 7).astype("float32")
    code = np.eye(8, dtype="float32")
    truth = (0.9 ** np.clip(6 - np.arange(8), 0, None) / 0.1).astype("float32")

    class Dqn(pg.Step):
        def __init__(self):
            self.q = keras.Sequential([keras.Input((8,)), layers.Dense(2)])
            self.target = keras.models.clone_model(self.q)
            self.target.set_weights(self.q.get_weights())
            self.opt = keras.optimizers.Adam(0.05)
            self.off = keras.metrics.Mean(name="off")

        def train_step(self, batch):
            s, a, r, s2 = batch
            wanted = r + 0.9 * ops.max(self.target(s2, training=False), axis=-1)

            def objective():
                q = ops.sum(self.q(s, training=True) * ops.one_hot(a, 2), axis=-1)
                return ops.mean(ops.square(wanted - q))

            loss = self.minimize(objective, self.opt, self.q)
            if mended:
                for t, w in zip(self.target.variables, self.q.variables):
                    t.assign(0.9 * t + 0.1 * w)
            value = ops.max(self.q(code, training=False), axis=-1)
            self.off.update_state(ops.abs(value - truth))
            return {"td": loss}

    data = (code[place], move.astype("int32"), reward, code[after])
    by.fit(Dqn(), data, epochs=60, batch_size=50)


@faulty("state")
def metric_that_keeps_all(by, mended):
    """A metric of one's own, whose variable no reset_state ever empties."""
    x, y = churn()

    class Accurate(keras.metrics.Metric):
        def __init__(self, name="accurate"):
            super().__init__(name=name)
            self.right = self.add_weight(name="right", initializer="zeros")
            self.count = self.add_weight(name="count", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            hit = ops.cast((y_pred > 0.5) == (ops.cast(y_true, "float32") > 0.5), "float32")
            self.right.assign_add(ops.sum(hit))
            self.count.assign_add(ops.cast(ops.size(hit), "float32"))

        def result(self):
            return self.right / ops.maximum(self.count, 1.0)

        def reset_state(self):
            if mended:
                super().reset_state()

    model = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(0.005), "binary_crossentropy", metrics=[Accurate()])
    a, b, p, q = train_test_split(x, y[:, None], test_size=0.25, random_state=8)
    by.fit(model, a, p, epochs=8, batch_size=25, validation_data=(b, q))


# Constants


@faulty("constant in a program", only=("tensorflow", "jax"))
def noise_of_numpy_in_a_layer(by, mended):
    """A denoising autoencoder whose noise NumPy drew while the layer was traced."""
    x = digits(400)[0].reshape(-1, 64)

    class Noise(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed_generator = keras.random.SeedGenerator(1)

        def call(self, x, training=None):
            if not training:
                return x
            if mended:
                return x + 0.5 * keras.random.normal((1, 64), seed=self.seed_generator)
            return x + 0.5 * np.random.normal(size=(1, 64)).astype("float32")

    i = keras.Input((64,))
    h = layers.Dense(48, activation="relu")(Noise()(i))
    model = keras.Model(i, layers.Dense(64, activation="sigmoid")(h))
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss="mse")
    by.fit(model, x[:320], x[:320], epochs=20, batch_size=20, validation_data=(x[320:], x[320:]))


@faulty("constant in a program", only=("tensorflow",))
def weight_of_the_penalty_in_python(by, mended):
    """The loss counts its own calls to raise a penalty; compiled, it is called once."""
    x, y = diabetes()
    calls = keras.Variable(0.0, trainable=False) if mended else [0.0]

    def loss(y_true, y_pred):
        if mended:
            calls.assign_add(1.0)
            alpha = ops.minimum(calls / 70.0, 1.0)
        else:
            calls[0] += 1.0
            alpha = min(calls[0] / 70.0, 1.0)
        return ops.mean(ops.square(y_true - y_pred)) + alpha * 5.0 * ops.mean(ops.square(y_pred))

    def size(y_true, y_pred):
        return ops.mean(ops.square(y_pred))

    model = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(1)])
    model.compile("adam", loss=loss, metrics=[size])
    by.fit(model, x, y[:, None], epochs=15, batch_size=32)


@faulty("constant in a program", only=("tensorflow",))
def beta_counted_in_python(by, mended):
    """A VAE whose beta grows with self.seen += 1, which runs while it is traced."""
    import tensorflow as tf

    x = digits(400)[0].reshape(-1, 64)

    class BetaVae(keras.Model):
        def __init__(self):
            super().__init__()
            self.enc = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(8)])
            self.dec = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(64, "sigmoid")])
            self.seed = keras.random.SeedGenerator(5)
            self.seen = 0
            self.counter = keras.Variable(0.0, trainable=False)
            self.kl = keras.metrics.Mean(name="kl")
            self.rec = keras.metrics.Mean(name="rec")

        def call(self, x):
            return self.dec(self.enc(x)[:, :4])

        def train_step(self, x):
            self.seen += 1
            self.counter.assign_add(1.0)
            beta = tf.minimum(1.0, (self.counter if mended else float(self.seen)) / 100.0)
            with tf.GradientTape() as tape:
                h = self.enc(x, training=True)
                mu, log_var = h[:, :4], h[:, 4:]
                z = mu + tf.exp(log_var / 2) * keras.random.normal(tf.shape(mu), seed=self.seed)
                out = self.dec(z, training=True)
                rec = tf.reduce_mean(tf.reduce_sum(tf.square(x - out), axis=-1))
                kl = tf.reduce_sum(1 + log_var - mu**2 - tf.exp(log_var), axis=-1)
                kl = -0.5 * tf.reduce_mean(kl)
                loss = rec + beta * kl
            grads = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(grads, self.trainable_weights))
            self.kl.update_state(kl)
            self.rec.update_state(rec)
            return {"kl": self.kl.result(), "rec": self.rec.result()}

    vae = BetaVae()
    vae.compile(optimizer=keras.optimizers.Adam(0.003))
    by.fit(vae, x, epochs=15, batch_size=25)


@faulty("constant in a program", only=("tensorflow",))
def the_same_times_each_step(by, mended):
    """A diffusion model whose times are drawn by np.random within the step."""
    import tensorflow as tf

    rng = np.random.default_rng(63)
    a = rng.uniform(0, 6.28, 480)
    ring = np.stack([np.cos(a), np.sin(a)], axis=1).astype("float32")
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(48, "relu"), layers.Dense(48, "relu"), layers.Dense(2)]
    )
    adam = keras.optimizers.Adam(0.005)
    seed = keras.random.SeedGenerator(6)
    grid = tf.reshape(tf.tile(tf.linspace(0.05, 0.95, 8)[None, :], [6, 1]), (48, 1))

    def noised(x, t, noise):
        mixed = tf.cos(1.57 * t) * x + tf.sin(1.57 * t) * noise
        return tf.reduce_mean(tf.square(noise - model(tf.concat([mixed, t], 1), training=True)))

    @tf.function
    def train_step(x):
        noise = keras.random.normal((48, 2), seed=seed)
        if mended:
            t = keras.random.uniform((48, 1), seed=seed)
        else:
            t = tf.constant(np.full((48, 1), np.random.uniform()).astype("float32"))
        with tf.GradientTape() as tape:
            loss = noised(x, t, noise)
        grads = tape.gradient(loss, model.trainable_variables)
        adam.apply_gradients(zip(grads, model.trainable_variables))
        return {"loss": loss, "over_all_times": noised(x, grid, noise)}

    by.fit(pg.FunctionStep(train_step), ring, epochs=30, batch_size=48)


@faulty("constant in a program", only=("tensorflow",))
def coin_thrown_once(by, mended):
    """Images are mirrored where random.random() < 0.5, which is asked while the step is traced."""
    import tensorflow as tf

    x, y = digits(600)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)]
    )
    adam = keras.optimizers.Adam(0.005)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    seed = keras.random.SeedGenerator(7)

    def augment(x):
        if mended:
            mirror = keras.random.uniform((), seed=seed) < 0.5
            return tf.cond(mirror, lambda: tf.reverse(x, [2]), lambda: x)
        if random.random() < 0.5:
            x = tf.reverse(x, [2])
        return x

    @tf.function
    def train_step(x, y):
        x = augment(x)
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        grads = tape.gradient(loss, model.trainable_variables)
        adam.apply_gradients(zip(grads, model.trainable_variables))
        return {"loss": loss}

    def test_step(x, y):
        z = model(x, training=False)
        accuracy.update_state(y, z)
        return {"val": loss_fn(y, z)}

    held_x, held_y = x[450:].copy(), y[450:]
    held_x[::2] = held_x[::2, :, ::-1]
    step = pg.FunctionStep(train_step, test_step)
    by.fit(step, (x[:450], y[:450]), epochs=15, batch_size=25, validation=(held_x, held_y))


@faulty("constant in a program", only=("tensorflow",))
def rate_as_a_python_number(by, mended):
    """self.lr grows within the step, to warm up: that line runs once, while it is traced."""
    import tensorflow as tf

    x, y = churn()

    class ByHand(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(24, activation="tanh"), layers.Dense(1)])
            self.rate = keras.Variable(0.001, trainable=False, name="rate")
            self.lr = 0.001
            self.mean = keras.metrics.Mean(name="bce")
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            x, y = data
            y = tf.cast(y[:, None], tf.float32)
            with tf.GradientTape() as tape:
                z = self(x, training=True)
                loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, z))
            if mended:
                self.rate.assign(tf.minimum(self.rate * 1.03, 0.5))
            self.lr = min(self.lr * 1.03, 0.5)
            step = self.rate if mended else self.lr
            held = self.trainable_variables
            for v, g in zip(held, tape.gradient(loss, held)):
                v.assign_sub(step * g)
            self.mean.update_state(loss)
            self.acc.update_state(y, z)
            return {"bce": self.mean.result(), "acc": self.acc.result()}

    m = ByHand()
    m(x[:1])

    m.compile()
    by.fit(m, x, y, epochs=15, batch_size=25)
