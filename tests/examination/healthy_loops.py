"""Right programs with loops of their own: `pg.Step`, and `train_step` of a model."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.strangers.datasets import cancer, diabetes, digits, wine


def dense(*units, end=None, activation="relu"):
    *hidden, last = units
    return keras.Sequential(
        [layers.Dense(u, activation=activation) for u in hidden]
        + [layers.Dense(last, activation=end)]
    )


def ring(count=512, seed=90):
    rng = np.random.default_rng(seed)
    a = rng.uniform(0, 2 * np.pi, count)
    r = 1 + rng.normal(0, 0.05, count)
    return np.stack([r * np.cos(a), r * np.sin(a)], 1).astype("float32")


@healthy
def gan_of_a_ring(by):
    class Gan(pg.Step):
        def __init__(self):
            self.g, self.d = dense(32, 32, 2), dense(32, 32, 1, activation="leaky_relu")
            self.g_opt = keras.optimizers.Adam(1e-3, beta_1=0.5)
            self.d_opt = keras.optimizers.Adam(2e-3, beta_1=0.5)
            self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
            self.noise = keras.random.SeedGenerator(1)

        def train_step(self, real):
            z = keras.random.normal((ops.shape(real)[0], 4), seed=self.noise)
            fake = ops.stop_gradient(self.g(z, training=True))

            def d_objective():
                a, b = self.d(real, training=True), self.d(fake, training=True)
                return self.bce(ops.ones_like(a), a) + self.bce(ops.zeros_like(b), b)

            def g_objective():
                verdict = self.d(self.g(z, training=True), training=True)
                return self.bce(ops.ones_like(verdict), verdict)

            d_loss = self.minimize(d_objective, self.d_opt, self.d)
            return {"d_loss": d_loss, "g_loss": self.minimize(g_objective, self.g_opt, self.g)}

    by.fit(Gan(), ring(), epochs=15, batch_size=64)


@healthy
def wasserstein_with_clipped_critic(by):
    """The losses are differences of scores, and may have either sign."""

    def clip(w):
        return ops.clip(w, -0.2, 0.2)

    critic = keras.Sequential(
        [layers.Dense(32, "relu", kernel_constraint=clip), layers.Dense(1, kernel_constraint=clip)]
    )

    class Wgan(pg.Step):
        def __init__(self, gen, critic):
            self.gen, self.critic = gen, critic
            self.slow, self.fast = keras.optimizers.RMSprop(5e-4), keras.optimizers.RMSprop(1e-3)
            self.seed = keras.random.SeedGenerator(2)

        def train_step(self, real):
            z = keras.random.normal((ops.shape(real)[0], 3), seed=self.seed)

            def judge():
                fake = ops.stop_gradient(self.gen(z, training=True))
                return ops.mean(self.critic(fake)) - ops.mean(self.critic(real))

            gap = self.minimize(judge, self.fast, self.critic)
            forge = lambda: -ops.mean(self.critic(self.gen(z, training=True)))
            return {"gap": -gap, "loss": self.minimize(forge, self.slow, self.gen)}

    by.fit(Wgan(dense(32, 2), critic), ring() + 1.5, epochs=15, batch_size=32)


@healthy(only=("tensorflow",))
def gan_as_a_model(by):
    """The GAN of the Keras guide."""
    import tensorflow as tf

    class GAN(keras.Model):
        def __init__(self):
            super().__init__()
            self.discriminator, self.generator = dense(32, 1), dense(32, 64, end="sigmoid")

        def compile(self, d_optimizer, g_optimizer, loss_fn):
            super().compile()
            self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

        def train_step(self, real):
            z = tf.random.normal((tf.shape(real)[0], 8))
            with tf.GradientTape(persistent=True) as tape:
                fake = self.generator(z)
                on_real, on_fake = self.discriminator(real), self.discriminator(fake)
                d = self.loss_fn(tf.ones_like(on_real), on_real)
                d += self.loss_fn(tf.zeros_like(on_fake), on_fake)
                g = self.loss_fn(tf.ones_like(on_fake), on_fake)
            for net, opt, loss in (
                (self.discriminator, self.d_optimizer, d),
                (self.generator, self.g_optimizer, g),
            ):
                opt.apply(tape.gradient(loss, net.trainable_weights), net.trainable_weights)
            return {"d_loss": d, "g_loss": g}

    gan = GAN()
    adam = keras.optimizers.Adam
    gan.compile(adam(3e-4), adam(1e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    by.fit(gan, digits()[0].reshape(-1, 64), epochs=10, batch_size=32)


@healthy
def contextual_bandit_reinforce(by):
    rng = np.random.default_rng(91)
    state = rng.normal(size=(600, 5)).astype("float32")
    action = rng.integers(0, 3, 600)
    reward = (action == (state @ rng.normal(size=(5, 3))).argmax(1)).astype("float32")

    class Reinforce(pg.Step):
        """Off policy: the actions were drawn evenly, so that importance is 3 p(a|s)."""

        def __init__(self, policy):
            self.policy, self.opt = policy, keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            s, a, r = batch

            def objective():
                p = ops.softmax(self.policy(s, training=True))
                chosen = ops.sum(p * ops.one_hot(a, 3), axis=-1)
                return -ops.mean(3.0 * chosen * (r - 1 / 3))

            return {"loss": self.minimize(objective, self.opt, self.policy)}

    by.fit(Reinforce(dense(32, 3, activation="tanh")), (state, action, reward), epochs=15)


@healthy
def ppo_update(by):
    rng = np.random.default_rng(92)
    obs = rng.normal(size=(512, 4)).astype("float32")
    act = rng.integers(0, 2, 512)
    gain = np.where((obs[:, 0] > 0) == (act == 1), 1.0, -1.0) + rng.normal(0, 0.3, 512)
    adv = ((gain - gain.mean()) / gain.std()).astype("float32")
    old_logp = np.full(512, np.log(0.5), "float32")

    class PPO(pg.Step):
        def __init__(self):
            last = layers.Dense(2, kernel_initializer="zeros")
            self.actor = keras.Sequential([layers.Dense(32, activation="tanh"), last])
            self.critic, adam = dense(32, 1), keras.optimizers.Adam
            self.actor_opt, self.critic_opt = adam(3e-3), adam(0.01)

        def train_step(self, batch):
            s, a, adv, old, ret = batch

            def surrogate():
                logp = ops.log_softmax(self.actor(s, training=True))
                ratio = ops.exp(ops.sum(logp * ops.one_hot(a, 2), axis=-1) - old)
                entropy = -ops.mean(ops.sum(ops.exp(logp) * logp, axis=-1))
                kept = ops.clip(ratio, 0.8, 1.2) * adv
                return -ops.mean(ops.minimum(ratio * adv, kept)) - 0.01 * entropy

            value = lambda: ops.mean((self.critic(s, training=True)[:, 0] - ret) ** 2)
            v_loss = self.minimize(value, self.critic_opt, self.critic)
            return {"loss": self.minimize(surrogate, self.actor_opt, self.actor), "value": v_loss}

    data = (obs, act, adv, old_logp, (np.abs(obs[:, 0]) * 1.5).astype("float32"))
    by.fit(PPO(), data, epochs=10, batch_size=64)


@healthy
def q_learning_with_target_net(by):
    """Walks on seven squares; the target network follows the other slowly."""
    rng = np.random.default_rng(93)
    s, a = rng.integers(0, 7, 800), rng.integers(0, 2, 800)
    nxt = np.clip(s + 2 * a - 1, 0, 6)
    done = (nxt == 6).astype("float32")

    class Dqn(pg.Step):
        def __init__(self):
            self.q, self.target = dense(32, 2), dense(32, 2)
            for net in (self.q, self.target):
                net.build((None, 7))
            self.target.set_weights(self.q.get_weights())
            self.opt = keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            s, a, r, nxt, done = batch
            ahead = ops.max(self.target(ops.one_hot(nxt, 7)), axis=-1)
            goal = r + 0.9 * (1 - done) * ahead

            def td():
                q = ops.sum(self.q(ops.one_hot(s, 7), training=True) * ops.one_hot(a, 2), axis=-1)
                return ops.mean((ops.stop_gradient(goal) - q) ** 2)

            loss = self.minimize(td, self.opt, self.q)
            for old, new in zip(self.target.weights, self.q.weights):
                old.assign(0.95 * old + 0.05 * new)
            return {"loss": loss, "goal": ops.mean(goal)}

    by.fit(Dqn(), (s, a, done, nxt, done), epochs=20, batch_size=50)


@healthy
def energy_of_a_ring(by):
    """Low energies for the data and high ones for noise, by noise contrastive estimation."""

    class Nce(pg.Step):
        def __init__(self, energy):
            self.energy, self.opt = energy, keras.optimizers.Adam(5e-3)
            self.log_z = keras.Variable(0.0, name="log_z")
            self.seed = keras.random.SeedGenerator(6)

        def train_step(self, real):
            noise = keras.random.normal(ops.shape(real), seed=self.seed)

            def log_ratio(x):
                log_noise = -0.5 * ops.sum(x * x, axis=-1) - 1.8379
                return -self.energy(x, training=True)[:, 0] - self.log_z - log_noise

            def objective():
                on_data = ops.mean(ops.softplus(-log_ratio(real)))
                return on_data + ops.mean(ops.softplus(log_ratio(noise)))

            variables = [*self.energy.trainable_variables, self.log_z]
            return {"loss": self.minimize(objective, self.opt, variables)}

    energy = dense(32, 32, 1, activation="silu")
    energy.build((None, 2))
    by.fit(Nce(energy), ring(seed=94), epochs=15, batch_size=32)


@healthy(only=("tensorflow",))
def pinn_of_decay(by):
    """u' = -u with u(0) = 1: the targets of the equation are zeros, and there are no labels."""
    import tensorflow as tf

    class Pinn(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = dense(24, 24, 1, activation="tanh")
            self.seen = keras.metrics.Mean(name="loss")

        def call(self, t):
            return self.net(t)

        def train_step(self, t):
            with tf.GradientTape() as outer:
                with tf.GradientTape() as inner:
                    inner.watch(t)
                    u = self(t, training=True)
                du = inner.gradient(u, t)
                start = self(tf.zeros((1, 1)), training=True)
                loss = tf.reduce_mean((du + u) ** 2) + tf.reduce_mean((start - 1.0) ** 2)
            self.optimizer.apply(
                outer.gradient(loss, self.trainable_variables), self.trainable_variables
            )
            self.seen.update_state(loss)
            return {"loss": self.seen.result()}

    t = np.random.default_rng(95).uniform(0, 2, (256, 1)).astype("float32")
    pinn = Pinn()
    pinn.compile(optimizer=keras.optimizers.Adam(0.005))
    by.fit(pinn, t, epochs=30, batch_size=32)


@healthy(only=("tensorflow",))
def oscillator_with_gradient_tape_step(by):
    """x'' = -x from the second derivatives of the net, in a Step with raw tapes."""
    import tensorflow as tf

    class Oscillator(pg.Step):
        def __init__(self, net):
            self.net, self.opt = net, keras.optimizers.Adam(0.005)

        def train_step(self, t):
            def position(t):
                return 1.0 + t * t * self.net(t, training=True)

            with tf.GradientTape() as tape:
                with tf.GradientTape() as two:
                    two.watch(t)
                    with tf.GradientTape() as one:
                        one.watch(t)
                        x = position(t)
                    v = one.gradient(x, t)
                a = two.gradient(v, t)
                loss = tf.reduce_mean(tf.square(a + x))
            weights = self.net.trainable_variables
            self.opt.apply(tape.gradient(loss, weights), weights)
            return {"loss": loss}

    t = np.random.default_rng(96).uniform(0, 2, (200, 1)).astype("float32")
    by.fit(Oscillator(dense(20, 20, 1, activation="tanh")), t, epochs=25, batch_size=25)


@healthy
def byol_on_wine(by):
    """A teacher that is the moving average of its pupil, and no negatives."""
    x, _ = wine()

    class Byol(pg.Step):
        def __init__(self):
            self.online, self.teacher = dense(32, 16), dense(32, 16)
            self.predictor = dense(16, 16)
            self.online.build((None, 13))
            self.teacher.build((None, 13))
            self.teacher.set_weights(self.online.get_weights())
            self.opt, self.seed = keras.optimizers.Adam(2e-3), keras.random.SeedGenerator(7)

        def train_step(self, x):
            a, b = (x + 0.3 * keras.random.normal(ops.shape(x), seed=self.seed) for _ in "ab")
            goal = ops.normalize(self.teacher(b, training=False), axis=-1)

            def objective():
                mine = self.predictor(self.online(a, training=True), training=True)
                return -ops.mean(ops.sum(ops.normalize(mine, axis=-1) * goal, axis=-1))

            loss = self.minimize(objective, self.opt, [self.online, self.predictor])
            for t, o in zip(self.teacher.variables, self.online.variables):
                t.assign(t * 0.97 + o * 0.03)
            return {"loss": loss}

    by.fit(Byol(), x, epochs=25, batch_size=32)


@healthy
def distillation_step(by):
    x, y = digits()
    flat = x.reshape(-1, 64)
    teacher = dense(64, 10)
    ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile("adam", ce)
    teacher.fit(flat, y, epochs=20, verbose=0)
    teacher.trainable = False

    class Distil(pg.Step):
        def __init__(self, student):
            self.student, self.teacher = student, teacher
            self.opt = keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            image, label = batch
            soft = ops.softmax(self.teacher(image, training=False) / 4.0)

            def objective():
                out = self.student(image, training=True)
                kd = ops.categorical_crossentropy(soft, out / 4.0, from_logits=True)
                return 0.3 * ce(label, out) + 0.7 * 16.0 * ops.mean(kd), out

            loss, out = self.minimize(objective, self.opt, self.student)
            self.acc.update_state(label, out)
            return {"loss": loss}

    by.fit(Distil(dense(12, 10)), (flat, y), epochs=15, batch_size=32)


class Coupling(layers.Layer):
    """Shifts and scales one half of the columns by a function of the other."""

    def __init__(self, flip):
        super().__init__()
        self.flip = flip
        self.net = keras.Sequential(
            [layers.Dense(24, "tanh"), layers.Dense(2, kernel_initializer="zeros")]
        )

    def call(self, x):
        a, b = ops.split(ops.flip(x, axis=1) if self.flip else x, 2, axis=1)
        s, t = ops.split(self.net(a), 2, axis=1)
        s = ops.tanh(s)
        b = b * ops.exp(s) + t
        y = ops.concatenate([a, b], axis=1)
        return (ops.flip(y, axis=1) if self.flip else y), s[:, 0]


@healthy
def normalizing_flow(by):
    class Flow(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [Coupling(bool(i % 2)) for i in range(4)]

        def call(self, x):
            total = 0.0
            for part in self.parts:
                x, log_det = part(x)
                total = total + log_det
            return total - 0.5 * ops.sum(x * x, axis=1) - 1.8379

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            return -ops.mean(y_pred)

    moons = ring(seed=97) * np.array([0.4, 0.4], "float32")
    flow = Flow()
    flow.compile(keras.optimizers.Adam(0.005))
    by.fit(flow, moons, epochs=20, batch_size=64)


@healthy
def small_diffusion(by):
    """The noise is foretold; its unit variance is where the loss begins."""
    keep = np.cumprod(1 - np.linspace(0.01, 0.3, 20)).astype("float32")

    class Ddpm(pg.Step):
        def __init__(self, net):
            self.net, self.opt = net, keras.optimizers.Adam(3e-3)
            self.seed = keras.random.SeedGenerator(8)

        def train_step(self, x):
            n = ops.shape(x)[0]
            t = keras.random.randint((n,), 0, 20, seed=self.seed)
            a = ops.take(ops.convert_to_tensor(keep), t)[:, None]
            eps = keras.random.normal(ops.shape(x), seed=self.seed)
            seen = ops.sqrt(a) * x + ops.sqrt(1 - a) * eps

            def objective():
                inputs = ops.concatenate([seen, ops.one_hot(t, 20)], axis=1)
                return ops.mean((self.net(inputs, training=True) - eps) ** 2)

            return {"loss": self.minimize(objective, self.opt, self.net)}

    by.fit(Ddpm(dense(64, 64, 2, activation="silu")), ring(seed=98) * 1.4, epochs=20, batch_size=32)


@healthy
def factors_by_turns(by):
    """Rows and columns of a matrix are learned in turn, by an optimizer each."""
    rng = np.random.default_rng(99)
    truth = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 25))
    i, j = rng.integers(0, 30, 1200), rng.integers(0, 25, 1200)

    class Alternate(pg.Step):
        def __init__(self):
            self.u, self.v = layers.Embedding(30, 4), layers.Embedding(25, 4)
            for e, n in ((self.u, 30), (self.v, 25)):
                e.build((None,))
                e.embeddings.assign(rng.normal(0, 0.5, (n, 4)))
            self.u_opt, self.v_opt = keras.optimizers.Adam(0.03), keras.optimizers.Adam(0.03)

        def train_step(self, batch):
            i, j, value = batch
            error = lambda: ops.mean((ops.sum(self.u(i) * self.v(j), axis=-1) - value) ** 2)
            self.minimize(error, self.u_opt, self.u)
            return {"loss": self.minimize(error, self.v_opt, self.v)}

    by.fit(Alternate(), (i, j, truth[i, j].astype("float32")), epochs=15, batch_size=50)


@healthy(only=("tensorflow",))
def train_step_of_the_guide(by):
    """With sample weights, as in "Customizing what happens in fit()"."""
    import tensorflow as tf

    class CustomModel(keras.Model):
        def train_step(self, data):
            x, y, w = data if len(data) == 3 else (*data, None)
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=w)
            trainable = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, trainable), trainable)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred, sample_weight=w)
            return {m.name: m.result() for m in self.metrics}

    x, y = diabetes()
    inputs = keras.Input(shape=(10,))
    model = CustomModel(inputs, layers.Dense(1)(layers.Dense(16, "relu")(inputs)))
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss="mse", metrics=["mae"])
    weight = np.where(y > 0, 2.0, 1.0).astype("float32")
    by.fit(model, x, y[:, None], sample_weight=weight, epochs=20, batch_size=32)


@healthy(only=("tensorflow",))
def adversarial_training(by):
    """Gradients of the inputs make a second, harder batch."""
    import tensorflow as tf

    class Fgsm(keras.Model):
        def __init__(self, net, eps=0.1):
            super().__init__()
            self.net, self.eps = net, eps

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            harder = tf.stop_gradient(x + self.eps * tf.sign(tape.gradient(loss, x)))
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
                loss += self.compute_loss(y=y, y_pred=self(harder, training=True))
            weights = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, weights), weights)
            (tracker,) = self.metrics
            tracker.update_state(loss / 2)
            return {"loss": tracker.result()}

    x, y = cancer()
    model = Fgsm(dense(16, 1, end="sigmoid"))
    model.compile(optimizer="adam", loss="binary_crossentropy")
    by.fit(model, x, y[:, None], epochs=10, batch_size=32)


@healthy(only=("tensorflow",))
def accumulated_by_hand(by):
    """Four batches make one update, with buffers that are cleared after it."""
    import tensorflow as tf

    class Accumulating(keras.Model):
        def build(self, shape):
            super().build(shape)
            self.sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self.weights]
            self.at = tf.Variable(0, trainable=False)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            for s, g in zip(self.sums, tape.gradient(loss, self.trainable_variables)):
                s.assign_add(g / 4.0)
            self.at.assign_add(1)
            tf.cond(tf.equal(self.at % 4, 0), self.update, lambda: None)
            self.metrics[0].update_state(loss)
            return {"loss": self.metrics[0].result()}

        def update(self):
            self.optimizer.apply([tf.identity(s) for s in self.sums], self.trainable_variables)
            for s in self.sums:
                s.assign(tf.zeros_like(s))

    x, y = wine()
    i = keras.Input((13,))
    model = Accumulating(i, layers.Dense(3, activation="softmax")(layers.Dense(16, "relu")(i)))
    model.compile(keras.optimizers.SGD(0.2, momentum=0.9), loss="sparse_categorical_crossentropy")
    model.build((None, 13))
    by.fit(model, x, y, epochs=25, batch_size=8)


@healthy
def pi_model_with_few_labels(by):
    """Four of five rows have no label, which is written as -1, and are only kept consistent."""
    x, y = digits()
    few = np.where(np.arange(320) % 5 == 0, y, -1)

    class Pi(pg.Step):
        def __init__(self, net):
            self.net, self.opt = net, keras.optimizers.Adam(3e-3)

        def train_step(self, batch):
            x, y = batch
            known = ops.cast(y >= 0, "float32")

            def objective():
                one, two = self.net(x, training=True), self.net(x, training=True)
                ce = ops.sparse_categorical_crossentropy(ops.maximum(y, 0), one, from_logits=True)
                supervised = ops.sum(ce * known) / ops.maximum(ops.sum(known), 1.0)
                apart = ops.mean((ops.softmax(one) - ops.softmax(two)) ** 2)
                return supervised + 5.0 * apart, (supervised, apart)

            loss, (supervised, apart) = self.minimize(objective, self.opt, self.net)
            return {"loss": loss, "supervised": supervised, "apart": apart}

    net = keras.Sequential(
        [layers.Flatten(), layers.GaussianNoise(0.1), layers.Dense(64, "relu"), layers.Dense(10)]
    )
    by.fit(Pi(net), (x, few), epochs=25, batch_size=40)


class Codebook(layers.Layer):
    def __init__(self, codes, dim):
        super().__init__()
        self.codes, self.dim = codes, dim

    def build(self, shape):
        self.book = self.add_weight(shape=(self.dim, self.codes), initializer="random_uniform")

    def call(self, z):
        far = ops.sum(z**2, 1, keepdims=True) - 2 * ops.matmul(z, self.book)
        nearest = ops.one_hot(ops.argmin(far + ops.sum(self.book**2, 0), axis=1), self.codes)
        q = ops.matmul(nearest, ops.transpose(self.book))
        self.add_loss(0.25 * ops.mean((ops.stop_gradient(q) - z) ** 2))
        self.add_loss(ops.mean((q - ops.stop_gradient(z)) ** 2))
        return z + ops.stop_gradient(q - z)


@healthy
def vq_vae_straight_through(by):
    flat = digits(400)[0].reshape(-1, 64)
    inp = keras.Input((64,))
    z = layers.Dense(4)(layers.Dense(32, activation="relu")(inp))
    q = Codebook(16, 4)(z)
    out = layers.Dense(64)(layers.Dense(32, activation="relu")(q))
    model = keras.Model(inp, out)
    model.compile(optimizer=keras.optimizers.Adam(3e-3), loss="mse")
    by.fit(model, flat, flat, epochs=20, batch_size=20)


@healthy
def learned_task_weights(by):
    """Two tasks weighed by uncertainties that are learned: the total may be negative."""
    rng = np.random.default_rng(100)
    x = rng.normal(size=(400, 6)).astype("float32")
    a = (0.1 * x[:, :1] + 0.02 * x[:, 1:2]).astype("float32")
    b = (x[:, 2:3] - x[:, 3:4]).astype("float32")

    class Kendall(pg.Step):
        def __init__(self):
            self.body, self.heads = dense(24, 24), [layers.Dense(1), layers.Dense(1)]
            self.log_var = keras.Variable(np.zeros(2, "float32"), name="log_var")
            self.opt = keras.optimizers.Adam(5e-3)
            self.body.build((None, 6))
            for head in self.heads:
                head.build((None, 24))

        def train_step(self, batch):
            x, y = batch

            def objective():
                h = self.body(x, training=True)
                mse = ops.stack([ops.mean((hd(h) - y[k]) ** 2) for hd, k in zip(self.heads, "ab")])
                return ops.sum(0.5 * mse * ops.exp(-self.log_var) + 0.5 * self.log_var)

            nets = [self.body, *self.heads]
            variables = [v for n in nets for v in n.trainable_variables] + [self.log_var]
            return {"loss": self.minimize(objective, self.opt, variables)}

    by.fit(Kendall(), (x, {"a": a, "b": b}), epochs=20, batch_size=32)


@healthy
def barlow_twins(by):
    x, _ = wine()

    class Barlow(pg.Step):
        def __init__(self, net):
            self.net, self.opt = net, keras.optimizers.Adam(2e-3)
            self.seed = keras.random.SeedGenerator(10)

        def train_step(self, rows):
            noise = [0.4 * keras.random.normal(ops.shape(rows), seed=self.seed) for _ in "12"]

            def objective():
                z = [self.net(rows + n, training=True) for n in noise]
                z = [(v - ops.mean(v, axis=0)) / (ops.std(v, axis=0) + 1e-4) for v in z]
                c = ops.matmul(ops.transpose(z[0]), z[1]) / ops.cast(ops.shape(rows)[0], "float32")
                eye = ops.eye(8)
                return ops.sum(eye * (c - 1) ** 2) + 0.05 * ops.sum((1 - eye) * c**2)

            return {"loss": self.minimize(objective, self.opt, self.net)}

    by.fit(Barlow(dense(32, 8, activation="elu")), x[:176], epochs=20, batch_size=44)


@healthy
def mutual_information(by):
    """A lower bound that is raised: the loss is its negative, and ends below zero."""
    rng = np.random.default_rng(101)
    a = rng.normal(size=(600, 1)).astype("float32")
    b = (0.95 * a + 0.3 * rng.normal(size=a.shape)).astype("float32")

    class Mine(pg.Step):
        def __init__(self, critic):
            self.critic, self.opt = critic, keras.optimizers.Adam(5e-3)

        def train_step(self, batch):
            a, b = batch

            def objective():
                joint = self.critic(ops.concatenate([a, b], 1), training=True)
                apart = self.critic(ops.concatenate([a, ops.roll(b, 1, axis=0)], 1), training=True)
                return -(ops.mean(joint) - ops.mean(ops.exp(apart - 1)))

            return {"loss": self.minimize(objective, self.opt, self.critic)}

    by.fit(Mine(dense(32, 32, 1, activation="elu")), (a, b), epochs=20, batch_size=60)


class NoisyDense(layers.Layer):
    """Weights with a mean and a spread; their divergence is added per example."""

    def __init__(self, units, examples, activation=None):
        super().__init__()
        self.units, self.examples = units, examples
        self.act = keras.activations.get(activation)
        self.seed = keras.random.SeedGenerator(12)

    def build(self, shape):
        size, low = (shape[-1], self.units), keras.initializers.Constant(-4.0)
        self.mu = self.add_weight(shape=size, initializer="glorot_normal", name="mu")
        self.rho = self.add_weight(shape=size, initializer=low, name="rho")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros", name="b")

    def call(self, x, training=False):
        s = ops.softplus(self.rho)
        kl = ops.sum(-ops.log(s) + 0.5 * (s**2 + self.mu**2) - 0.5)
        self.add_loss(kl / self.examples)
        eps = keras.random.normal(ops.shape(s), seed=self.seed) if training else 0.0
        return self.act(ops.matmul(x, self.mu + s * eps) + self.b)


@healthy
def bayes_by_backprop(by):
    x, y = cancer()
    model = keras.Sequential(
        [keras.Input((30,)), NoisyDense(8, len(x), "tanh"), NoisyDense(1, len(x))]
    )
    bce = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=bce)
    by.fit(model, x, y, epochs=20, batch_size=32)


@healthy
def sum_over_the_batch(by):
    """A sum, not a mean, of 20 rows: the rate is as much smaller."""
    x, y = cancer()

    class Summed(pg.Step):
        def __init__(self, net):
            self.net, self.sgd = net, keras.optimizers.SGD(0.005)
            self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum")

        def train_step(self, batch):
            x, y = batch
            objective = lambda: self.loss_fn(y[:, None], self.net(x, training=True))
            return {"loss": self.minimize(objective, self.sgd, self.net)}

    by.fit(Summed(dense(8, 1, activation="tanh")), (x, y), epochs=10, batch_size=20)


@healthy
def body_and_head_at_two_rates(by):
    x, y = wine()

    class TwoRates(pg.Step):
        def __init__(self, body, head):
            self.body, self.head = body, head
            self.slow, self.quick = keras.optimizers.Adam(5e-4), keras.optimizers.Adam(0.01)
            self.ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def train_step(self, batch):
            x, y = batch

            def objective():
                return self.ce(y, self.head(self.body(x, training=True), training=True))

            self.minimize(objective, self.slow, self.body)
            return {"loss": self.minimize(objective, self.quick, self.head)}

    body = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(12, "relu")])
    by.fit(TwoRates(body, layers.Dense(3)), (x, y), epochs=20, batch_size=16)


@healthy
def penalties_of_the_layers_too(by):
    """The penalties of the layers are added by `minimize`."""
    x, y = diabetes()
    l2 = keras.regularizers.L2(1e-3)

    class Ridge(pg.Step):
        def __init__(self, net):
            self.net, self.opt = net, keras.optimizers.Adam(0.01)
            self.rmse = keras.metrics.RootMeanSquaredError(name="rmse")

        def train_step(self, batch):
            x, y = batch

            def objective():
                out = self.net(x, training=True)[:, 0]
                return ops.mean((out - y) ** 2), out

            loss, out = self.minimize(objective, self.opt, self.net)
            self.rmse.update_state(y, out)
            return {"loss": loss}

    net = keras.Sequential(
        [layers.Dense(16, "tanh", kernel_regularizer=l2), layers.Dense(1, kernel_regularizer=l2)]
    )
    by.fit(Ridge(net), (x, y), epochs=15, batch_size=34)
