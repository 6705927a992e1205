"""Right programs with unusual loops: the second set."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.examination.tables import churn, circles, houses_scaled, moons, motion, sales
from tests.strangers.datasets import cancer, diabetes, digits, wine


def mlp(*units, act="relu", end=None):
    *hidden, last = units
    return keras.Sequential(
        [*(layers.Dense(u, activation=act) for u in hidden), layers.Dense(last, activation=end)]
    )


@healthy
def variational_autoencoder(by):
    x = digits(400)[0].reshape(-1, 64)

    class Vae(pg.Step):
        def __init__(self):
            self.encoder, self.decoder = mlp(48, 8), mlp(48, 64, end="sigmoid")
            self.adam, self.seed = keras.optimizers.Adam(0.002), keras.random.SeedGenerator(1)

        def train_step(self, x):
            noise = keras.random.normal((ops.shape(x)[0], 4), seed=self.seed)

            def elbo():
                h = self.encoder(x, training=True)
                mu, log_var = h[:, :4], h[:, 4:]
                out = self.decoder(mu + ops.exp(0.5 * log_var) * noise, training=True)
                kl = -0.5 * ops.sum(1 + log_var - mu**2 - ops.exp(log_var), axis=-1)
                return ops.sum(ops.square(x - out), axis=-1) + 0.3 * kl, kl

            both = self.encoder.trainable_variables + self.decoder.trainable_variables
            loss, kl = self.minimize(elbo, self.adam, both)
            return {"loss": loss, "kl": kl}

    step = Vae()
    step.encoder.build((None, 64))
    step.decoder.build((None, 4))
    by.fit(step, x, epochs=12, batch_size=32)


@healthy
def flow_of_couplings(by):
    """A normalizing flow; its loss has either sign, and its scales begin at zero."""
    x, _ = moons(500)

    class Flow(pg.Step):
        def __init__(self):
            self.nets = [
                keras.Sequential(
                    [
                        keras.Input((1,)),
                        layers.Dense(24, activation="tanh"),
                        layers.Dense(2, kernel_initializer="zeros"),
                    ]
                )
                for _ in range(4)
            ]
            self.adam = keras.optimizers.Adam(0.005)

        def train_step(self, x):
            def nll():
                z, log_det = x, 0.0
                for k, net in enumerate(self.nets):
                    kept, moved = z[:, k % 2 : k % 2 + 1], z[:, 1 - k % 2 : 2 - k % 2]
                    h = net(kept, training=True)
                    s = ops.tanh(h[:, :1])
                    moved = moved * ops.exp(s) + h[:, 1:]
                    log_det = log_det + s[:, 0]
                    parts = [kept, moved] if k % 2 == 0 else [moved, kept]
                    z = ops.concatenate(parts, axis=-1)
                return 0.5 * ops.sum(z**2, axis=-1) + 1.838 - log_det

            held = [v for net in self.nets for v in net.trainable_variables]
            return {"nll": self.minimize(nll, self.adam, held)}

    by.fit(Flow(), x, epochs=25, batch_size=50)


@healthy
def diffusion_of_two_moons(by):
    x, _ = moons(500)

    class Denoise(pg.Step):
        def __init__(self):
            self.net = mlp(64, 64, 2, act="silu")
            self.adam = keras.optimizers.Adam(0.003)
            self.seed = keras.random.SeedGenerator(3)

        def train_step(self, x):
            n = ops.shape(x)[0]
            t = keras.random.uniform((n, 1), seed=self.seed)
            noise = keras.random.normal((n, 2), seed=self.seed)
            mixed = ops.cos(1.5 * t) * x + ops.sin(1.5 * t) * noise
            inputs = ops.concatenate([mixed, t], axis=-1)
            error = lambda: ops.mean((noise - self.net(inputs, training=True)) ** 2, axis=-1)
            return {"loss": self.minimize(error, self.adam, self.net)}

    by.fit(Denoise(), x, epochs=25, batch_size=50)


@healthy
def pendulum_by_its_equation(by):
    """A physics loss: no labels; y'' + y = 0, y(0) = 1, y'(0) = 0."""
    t = np.linspace(0, 3, 256).astype("float32")[:, None]

    class Physics(pg.Step):
        def __init__(self):
            self.net = mlp(24, 24, 1, act="tanh")
            self.net.build((None, 1))
            self.adam = keras.optimizers.Adam(0.005)

        def train_step(self, t):
            h = 0.05

            def residual():
                a, b, c = (self.net(t + d, training=True) for d in (-h, 0.0, h))
                z = self.net(ops.convert_to_tensor([[-h], [0.0], [h]], dtype="float32"))
                start = (z[1, 0] - 1.0) ** 2 + ((z[2, 0] - z[0, 0]) / (2 * h)) ** 2
                return ops.mean(((a - 2 * b + c) / h**2 + b) ** 2) + 10.0 * start

            return {"loss": self.minimize(residual, self.adam, self.net)}

    by.fit(Physics(), t, epochs=40, batch_size=64)


@healthy
def student_of_an_ensemble(by):
    x, y = wine()
    teachers = [mlp(16, 3) for _ in range(3)]
    for k, teacher in enumerate(teachers):
        teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        teacher.fit(x[k::2], y[k::2], epochs=15, verbose=0)
        teacher.trainable = False

    class Distill(pg.Step):
        def __init__(self):
            self.student, self.teachers = mlp(8, 3), teachers
            self.adam = keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch
            soft = sum(ops.softmax(t(x, training=False) / 2.0) for t in self.teachers) / 3.0

            def objective():
                z = self.student(x, training=True)
                hard = ops.sparse_categorical_crossentropy(y, z, from_logits=True)
                like = ops.categorical_crossentropy(soft, z / 2.0, from_logits=True)
                return 0.3 * hard + 2.8 * like, z

            loss, z = self.minimize(objective, self.adam, self.student)
            self.acc.update_state(y, z)
            return {"loss": ops.mean(loss)}

    by.fit(Distill(), (x, y), epochs=15, batch_size=16)


@healthy
def mean_teacher(by):
    """Few labels; a slowly following copy of the net says what the others should be."""
    x, y = digits(400)
    known = (np.arange(400) % 4 == 0).astype("float32")
    net = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(48, "relu"), layers.Dense(10)]
    )

    class MeanTeacher(pg.Step):
        def __init__(self):
            self.net, self.teacher = net, keras.models.clone_model(net)
            self.teacher.set_weights(net.get_weights())
            self.teacher.trainable = False
            self.adam, self.seed = keras.optimizers.Adam(0.003), keras.random.SeedGenerator(4)

        def train_step(self, batch):
            x, y, known = batch
            noisy = x + 0.1 * keras.random.normal(ops.shape(x), seed=self.seed)
            wanted = ops.softmax(self.teacher(x, training=False))

            def objective():
                z = self.net(noisy, training=True)
                hard = ops.sparse_categorical_crossentropy(y, z, from_logits=True)
                soft = ops.sum((ops.softmax(z) - wanted) ** 2, axis=-1)
                return ops.sum(known * hard) / (ops.sum(known) + 1e-6) + ops.mean(soft)

            loss = self.minimize(objective, self.adam, self.net)
            for slow, fast in zip(self.teacher.variables, self.net.variables):
                slow.assign(0.95 * slow + 0.05 * fast)
            return {"loss": loss}

    by.fit(MeanTeacher(), (x, y, known), epochs=12, batch_size=40)


@healthy
def twins_without_negatives(by):
    """SimSiam: one side is held by stop_gradient, and the loss is below zero."""
    x = digits(400)[0].reshape(-1, 64)

    class SimSiam(pg.Step):
        def __init__(self):
            self.f = keras.Sequential(
                [
                    keras.Input((64,)),
                    layers.Dense(48),
                    layers.BatchNormalization(),
                    layers.ReLU(),
                    layers.Dense(16),
                ]
            )
            self.h = keras.Sequential(
                [keras.Input((16,)), layers.Dense(8, "relu"), layers.Dense(16)]
            )
            self.sgd = keras.optimizers.SGD(0.05, momentum=0.9)
            self.seed = keras.random.SeedGenerator(5)

        def train_step(self, x):
            one = x + 0.2 * keras.random.normal(ops.shape(x), seed=self.seed)
            two = x + 0.2 * keras.random.normal(ops.shape(x), seed=self.seed)

            def objective():
                a, b = self.f(one, training=True), self.f(two, training=True)
                total = 0.0
                for p, z in ((a, b), (b, a)):
                    p = ops.normalize(self.h(p, training=True), axis=-1)
                    z = ops.normalize(ops.stop_gradient(z), axis=-1)
                    total = total - 0.5 * ops.sum(p * z, axis=-1)
                return ops.mean(total)

            both = self.f.trainable_variables + self.h.trainable_variables
            return {"loss": self.minimize(objective, self.sgd, both)}

    by.fit(SimSiam(), x, epochs=12, batch_size=40)


@healthy
def codes_of_a_codebook(by):
    """VQ-VAE: the nearest code by argmin, gradients straight through."""
    x = digits(400)[0].reshape(-1, 64)

    class Vq(pg.Step):
        def __init__(self):
            self.enc, self.dec = mlp(32, 8), mlp(32, 64, end="sigmoid")
            self.codes = layers.Embedding(16, 8, embeddings_initializer="random_normal")
            self.enc.build((None, 64))
            self.dec.build((None, 8))
            self.codes.build()
            self.adam = keras.optimizers.Adam(0.003)

        def train_step(self, x):
            def objective():
                z = self.enc(x, training=True)
                far = ops.sum((z[:, None] - self.codes.embeddings[None]) ** 2, axis=-1)
                code = self.codes(ops.argmin(far, axis=-1))
                passed = z + ops.stop_gradient(code - z)
                out = self.dec(passed, training=True)
                book = ops.sum((code - ops.stop_gradient(z)) ** 2, axis=-1)
                commit = ops.sum((z - ops.stop_gradient(code)) ** 2, axis=-1)
                return ops.sum((x - out) ** 2, axis=-1) + book + 0.25 * commit

            held = [v for m in (self.enc, self.dec, self.codes) for v in m.trainable_variables]
            return {"loss": self.minimize(objective, self.adam, held)}

    by.fit(Vq(), x, epochs=15, batch_size=40)


@healthy
def clipped_policy(by):
    """PPO on logged actions: ratios that are clipped, advantages of mean zero."""
    rng = np.random.default_rng(91)
    s = rng.normal(size=(600, 4)).astype("float32")
    a = rng.integers(0, 3, 600).astype("int32")
    r = (a == (s @ rng.normal(size=(4, 3))).argmax(1)).astype("float32")
    adv = ((r - r.mean()) / r.std()).astype("float32")
    old = np.full(600, np.log(1 / 3), dtype="float32")

    class Ppo(pg.Step):
        def __init__(self):
            self.pi, self.v = mlp(24, 3, act="tanh"), mlp(24, 1, act="tanh")
            self.pi_opt, self.v_opt = keras.optimizers.Adam(0.003), keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            s, a, r, adv, old = batch

            def surrogate():
                log_p = ops.log_softmax(self.pi(s, training=True))
                taken = ops.sum(log_p * ops.one_hot(a, 3), axis=-1)
                ratio = ops.exp(taken - old)
                low = ops.minimum(ratio * adv, ops.clip(ratio, 0.8, 1.2) * adv)
                entropy = -ops.sum(ops.exp(log_p) * log_p, axis=-1)
                return -ops.mean(low + 0.01 * entropy)

            value = lambda: ops.mean((r - self.v(s, training=True)[:, 0]) ** 2)
            return {
                "policy": self.minimize(surrogate, self.pi_opt, self.pi),
                "value": self.minimize(value, self.v_opt, self.v),
            }

    by.fit(Ppo(), (s, a, r, adv, old), epochs=12, batch_size=60)


@healthy
def attacked_examples(by):
    """FGSM: gradients for the inputs, then an update on what they made."""
    x, y = cancer()

    class Robust(pg.Step):
        def __init__(self):
            self.net, self.adam = mlp(16, 1, act="gelu"), keras.optimizers.Adam(0.005)
            self.bce = keras.losses.BinaryCrossentropy(from_logits=True)

        def train_step(self, batch):
            x, y = batch
            y = y[:, None]
            slope = self.gradients(lambda x: self.bce(y, self.net(x, training=False)), x)
            worse = ops.stop_gradient(x + 0.2 * ops.sign(slope))

            def objective():
                clean = self.bce(y, self.net(x, training=True))
                return 0.5 * clean + 0.5 * self.bce(y, self.net(worse, training=True))

            return {"loss": self.minimize(objective, self.adam, self.net)}

    step = Robust()
    step.net.build((None, 30))
    by.fit(step, (x, y), epochs=12, batch_size=32)


@healthy
def adversary_for_fairness(by):
    """An encoder that helps one head and misleads another, by two optimizers."""
    x, y = churn()
    group = (x[:, 1] > 0).astype("float32")[:, None]
    y = y.astype("float32")[:, None]

    class Fair(pg.Step):
        def __init__(self):
            self.enc, self.head, self.foe = mlp(16, 8, end="relu"), mlp(1), mlp(16, 1)
            self.enc.build((None, 8))
            self.head.build((None, 8))
            self.foe.build((None, 8))
            self.a, self.b = keras.optimizers.Adam(0.003), keras.optimizers.Adam(0.003)
            self.bce = keras.losses.BinaryCrossentropy(from_logits=True)

        def train_step(self, batch):
            x, y, group = batch
            code = ops.stop_gradient(self.enc(x, training=True))
            foe = self.minimize(
                lambda: self.bce(group, self.foe(code, training=True)), self.b, self.foe
            )

            def objective():
                code = self.enc(x, training=True)
                right = self.bce(y, self.head(code, training=True))
                return right - 0.3 * self.bce(group, self.foe(code, training=True))

            both = self.enc.trainable_variables + self.head.trainable_variables
            return {"foe": foe, "loss": self.minimize(objective, self.a, both)}

    by.fit(Fair(), (x, y, group), epochs=15, batch_size=50)


@healthy
def head_first_then_all(by):
    """Two optimizers with two rates: a slow one for the base, a fast one for the head."""
    x, y = digits(400)
    base = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(12, 3, activation="relu"), layers.Flatten()]
    )
    head = keras.Sequential([keras.Input((432,)), layers.Dense(10)])

    class TwoRates(pg.Step):
        def __init__(self):
            self.base, self.head = base, head
            self.slow, self.fast = keras.optimizers.Adam(3e-4), keras.optimizers.Adam(5e-3)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                z = self.head(self.base(x, training=True), training=True)
                return ops.sparse_categorical_crossentropy(y, z, from_logits=True), z

            n = len(self.base.trainable_variables)
            both = self.base.trainable_variables + self.head.trainable_variables
            g = self.gradients(objective, both)
            self.apply(self.slow, list(zip(g[:n], both[:n])))
            self.apply(self.fast, list(zip(g[n:], both[n:])))
            loss, z = g.returned
            self.acc.update_state(y, z)
            return {"loss": ops.mean(loss)}

    by.fit(TwoRates(), (x, y), epochs=8, batch_size=25)


@healthy
def dropout_in_training_alone(by):
    """A regression by a step with one squared error for each row."""
    x, y = houses_scaled()

    class Dropped(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [layers.Dense(48, activation="relu"), layers.Dropout(0.1), layers.Dense(1)]
            )
            self.adam = keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            x, y = batch
            loss = lambda: ops.square(y - self.net(x, training=True)[:, 0])
            return {"mse": self.minimize(loss, self.adam, self.net)}

        def test_step(self, batch):
            x, y = batch
            out = self.net(x, training=False)[:, 0]
            return {"mse": ops.square(y - out)}

    by.fit(Dropped(), (x[:320], y[:320]), epochs=15, batch_size=32, validation=(x[320:], y[320:]))


@healthy(only=("tensorflow",))
def loop_of_the_keras_guide(by):
    import tensorflow as tf

    x, y = wine()

    class CustomModel(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(y=y, y_pred=y_pred)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred)
            return {m.name: m.result() for m in self.metrics}

    i = keras.Input((13,))
    o = layers.Dense(3, activation="softmax")(layers.Dense(16, activation="relu")(i))
    m = CustomModel(i, o)
    m.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    m.optimizer.learning_rate = 0.01
    by.fit(m, x, y, epochs=15, batch_size=16)


@healthy(only=("tensorflow",))
def clipped_by_the_norm_of_all(by):
    """A recurrent net by a hand-written loop with gradient clipping."""
    import tensorflow as tf

    x, y = sales()
    model = keras.Sequential([keras.Input((14, 1)), layers.SimpleRNN(16), layers.Dense(1)])
    opt = keras.optimizers.RMSprop(0.005)
    mae = keras.metrics.MeanAbsoluteError(name="mae")

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            out = model(x, training=True)
            loss = tf.reduce_mean(tf.square(y[:, None] - out))
        grads, norm = tf.clip_by_global_norm(tape.gradient(loss, model.trainable_variables), 1.0)
        opt.apply_gradients(zip(grads, model.trainable_variables))
        mae.update_state(y[:, None], out)
        return {"loss": loss, "norm": norm}

    by.fit(pg.FunctionStep(train_step), (x[:416], y[:416]), epochs=12, batch_size=32)


@healthy(only=("tensorflow",))
def gan_that_updates_twice(by):
    """Hinge GAN as a model: two updates of the critic for one of the generator."""
    import tensorflow as tf

    x, _ = circles()

    class HingeGan(keras.Model):
        def __init__(self):
            super().__init__()
            self.g, self.d = mlp(32, 2), mlp(32, 32, 1, act="leaky_relu")
            self.g.build((None, 4))
            self.d.build((None, 2))
            self.d_mean, self.g_mean = keras.metrics.Mean("d"), keras.metrics.Mean("g")

        def compile(self, g_opt, d_opt):
            super().compile()
            self.g_opt, self.d_opt = g_opt, d_opt

        def train_step(self, real):
            n = tf.shape(real)[0]
            for _ in range(2):
                fake = self.g(tf.random.normal((n, 4)))
                with tf.GradientTape() as tape:
                    up, down = tf.nn.relu(1 - self.d(real)), tf.nn.relu(1 + self.d(fake))
                    d_loss = tf.reduce_mean(up) + tf.reduce_mean(down)
                w = self.d.trainable_variables
                self.d_opt.apply_gradients(zip(tape.gradient(d_loss, w), w))
            with tf.GradientTape() as tape:
                g_loss = -tf.reduce_mean(self.d(self.g(tf.random.normal((n, 4)))))
            w = self.g.trainable_variables
            self.g_opt.apply_gradients(zip(tape.gradient(g_loss, w), w))
            self.d_mean.update_state(d_loss)
            self.g_mean.update_state(g_loss)
            return {"d": self.d_mean.result(), "g": self.g_mean.result()}

    gan = HingeGan()
    gan.compile(keras.optimizers.Adam(5e-4, beta_1=0.5), keras.optimizers.Adam(1e-3, beta_1=0.5))
    by.fit(gan, x, epochs=12, batch_size=40)


@healthy
def sparse_autoencoder(by):
    """An activity penalty by Keras, added once by minimize."""
    x = digits(400)[0].reshape(-1, 64)

    class Sparse(pg.Step):
        def __init__(self):
            code = layers.Dense(
                40, activation="relu", activity_regularizer=keras.regularizers.L1(1e-4)
            )
            self.net = keras.Sequential([code, layers.Dense(64, activation="sigmoid")])
            self.adam = keras.optimizers.Adam(0.003)

        def train_step(self, x):
            loss = lambda: ops.mean(ops.square(x - self.net(x, training=True)), axis=-1)
            return {"loss": self.minimize(loss, self.adam, self.net)}

    by.fit(Sparse(), x, epochs=15, batch_size=25)


@healthy
def masked_steps_of_a_series(by):
    """A fifth of the time steps is hidden, and only those are to be filled in."""
    x, _ = motion()

    class Fill(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [
                    layers.Conv1D(24, 5, padding="same", activation="relu"),
                    layers.Conv1D(24, 5, padding="same", activation="relu"),
                    layers.Dense(3),
                ]
            )
            self.adam, self.seed = keras.optimizers.Adam(0.005), keras.random.SeedGenerator(6)

        def train_step(self, x):
            shape = (ops.shape(x)[0], 24, 1)
            hidden = ops.cast(keras.random.uniform(shape, seed=self.seed) < 0.2, "float32")
            seen = ops.concatenate([x * (1 - hidden), hidden], axis=-1)

            def objective():
                off = ops.square(x - self.net(seen, training=True)) * hidden
                return ops.sum(off) / (3 * ops.sum(hidden) + 1e-6)

            return {"loss": self.minimize(objective, self.adam, self.net)}

    by.fit(Fill(), x, epochs=15, batch_size=30)


@healthy
def penalty_that_prefers_few_columns(by):
    """A linear model whose L1 penalty drives most weights to zero."""
    x, y = diabetes()

    class Lasso(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [layers.Dense(1, kernel_initializer="zeros", kernel_regularizer="l1")]
            )
            self.sgd = keras.optimizers.SGD(0.05)

        def train_step(self, batch):
            x, y = batch
            loss = lambda: ops.mean(ops.square(y[:, None] - self.net(x, training=True)))
            return {"loss": self.minimize(loss, self.sgd, self.net)}

    by.fit(Lasso(), (x, y), epochs=20, batch_size=34)
