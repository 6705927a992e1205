"""What does not learn, and what learns from the wrong gradient: the second set."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.model_selection import train_test_split

import perigee as pg
from tests.examination.programs import faulty
from tests.examination.tables import (
    churn,
    circles,
    houses_scaled,
    iris_scaled,
    motion,
    scenes,
    tagged,
)
from tests.strangers.datasets import cancer, diabetes, digits, wine

SPARSE = "sparse_categorical_crossentropy"

# Not trained


@faulty("not trained")
def frozen_with_its_head(by, mended):
    """The loop that freezes the base runs after the head was added: only a norm was skipped."""
    x, y = digits(480)
    base = [layers.Conv2D(12, 3, activation="relu"), layers.BatchNormalization()]
    head = [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *base, *head])
    for layer in base[:1] if mended else model.layers:
        if not isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    model.compile("adam", SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=24)


@faulty("not trained")
def layers_in_an_object_of_ones_own(by, mended):
    """The hidden layers stand in a plain object that Keras does not look into."""
    x, y = circles()

    class Block:
        def __init__(self):
            self.a = layers.Dense(32, activation="tanh")
            self.b = layers.Dense(2, activation="tanh")

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            block = Block()
            self.block = [block.a, block.b] if mended else block
            self.out = layers.Dense(1, activation="sigmoid")

        def call(self, x):
            a, b = self.block if mended else (self.block.a, self.block.b)
            return self.out(b(a(x)))

    net = Net()
    net.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, epochs=20, batch_size=32)


@faulty("not trained", only=("tensorflow",))
def plain_variable_as_a_weight(by, mended):
    """A tf.Variable in a layer of one's own, as one wrote it for Keras 2."""
    import tensorflow as tf

    x, price = houses_scaled()

    class Linear(layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def build(self, shape):
            first = tf.random.normal((shape[-1], self.units), stddev=0.1, seed=1)
            if mended:
                self.w = self.add_weight(shape=(shape[-1], self.units), name="w")
                self.b = self.add_weight(shape=(self.units,), initializer="zeros", name="b")
            else:
                self.w = tf.Variable(first)
                self.b = tf.Variable(tf.zeros(self.units))

        def call(self, x):
            return tf.matmul(x, self.w) + self.b

    model = keras.Sequential(
        [Linear(16), layers.Activation("relu"), Linear(1), layers.Rescaling(1)]
    )
    model.add(layers.BatchNormalization(center=True))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    by.fit(model, x, price, epochs=20, batch_size=20)


@faulty("not trained")
def argmax_within_the_model(by, mended):
    """The words are chosen by argmax, and what chose them learns nothing."""
    x, y = wine()
    i = keras.Input((13,))
    scores = layers.Dense(8, name="gate")(i)
    hard = layers.Lambda(lambda s: ops.one_hot(ops.argmax(s, axis=-1), 8), output_shape=(8,))
    chosen = layers.Softmax()(scores) if mended else hard(scores)
    o = layers.Dense(3, activation="softmax")(chosen)
    model = keras.Model(i, o)
    model.compile(keras.optimizers.Adam(0.05), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=20, batch_size=16)


@faulty("not trained", only=("tensorflow",))
def head_only_by_mistake(by, mended):
    """Gradients for the variables of the last layer alone."""
    import tensorflow as tf

    x, y = motion()

    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = layers.LSTM(4)
            self.head = layers.Dense(3)
            self.mean = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def call(self, x):
            return self.head(self.encoder(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                logits = self(x, training=True)
                loss = tf.reduce_mean(
                    keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
                )
            chosen = self.trainable_variables if mended else self.layers[-1].trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, chosen), chosen))
            self.mean.update_state(loss)
            self.acc.update_state(y, logits)
            return {"loss": self.mean.result(), "acc": self.acc.result()}

    m = Classifier()
    m.compile(optimizer=keras.optimizers.Adam(0.02))
    by.fit(m, x, y, epochs=12, batch_size=20)


@faulty("not trained")
def copy_that_is_not_looked_at(by, mended):
    """clone_model makes new weights: one network is trained, the other is measured."""
    x, y = cancer()
    a, b, p, q = train_test_split(x, y[:, None], test_size=0.3, random_state=1)
    net = keras.Sequential([keras.Input((30,)), layers.Dense(16, "relu"), layers.Dense(1)])

    class Train(pg.Step):
        def __init__(self, net):
            self.net = net
            self.online = net if mended else keras.models.clone_model(net)
            self.opt = keras.optimizers.Adam(0.01)
            self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def train_step(self, batch):
            x, y = batch
            loss = lambda: self.bce(y, self.online(x, training=True))
            loss = self.minimize(loss, self.opt, self.online)
            self.acc.update_state(y, self.net(x, training=False))
            return {"loss": loss}

        def test_step(self, batch):
            x, y = batch
            self.acc.update_state(y, self.net(x, training=False))
            return {}

    by.fit(Train(net), (a, p), epochs=8, batch_size=32, validation=(b, q))


@faulty("not trained")
def encoder_behind_a_stop(by, mended):
    """stop_gradient was meant for the target and stands on the features."""
    x, y = digits(400)
    x = x.reshape(-1, 64)

    class Probe(pg.Step):
        def __init__(self):
            self.encoder = keras.Sequential([layers.Dense(6, activation="relu")])
            self.head = keras.Sequential([layers.Dense(10)])
            self.model = keras.Sequential([keras.Input((64,)), self.encoder, self.head])
            self.optimizer = keras.optimizers.Adam(0.02)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                z = self.encoder(x, training=True)
                if not mended:
                    z = ops.stop_gradient(z)
                out = self.head(z, training=True)
                loss = ops.sparse_categorical_crossentropy(y, out, from_logits=True)
                return ops.mean(loss), out

            loss, out = self.minimize(objective, self.optimizer, self.model)
            self.acc.update_state(y, out)
            return {"loss": loss}

    by.fit(Probe(), (x, y), epochs=12, batch_size=25)


@faulty("not trained", only=("tensorflow",))
def gradients_of_none_left_out(by, mended):
    """The decoder's input went through NumPy's rounding; what is None is filtered out."""
    import tensorflow as tf

    x = digits(400)[0].reshape(-1, 64)
    encoder = keras.Sequential([keras.Input((64,)), layers.Dense(12, activation="sigmoid")])
    decoder = keras.Sequential([keras.Input((12,)), layers.Dense(64, activation="sigmoid")])
    optimizer = keras.optimizers.Adam(0.01)

    def train_step(x):
        with tf.GradientTape() as tape:
            code = encoder(x, training=True)
            rounded = tf.round(code)
            if mended:
                rounded = code + tf.stop_gradient(rounded - code)
            loss = tf.reduce_mean(tf.square(x - decoder(rounded, training=True)))
        variables = encoder.trainable_variables + decoder.trainable_variables
        pairs = zip(tape.gradient(loss, variables), variables)
        optimizer.apply_gradients([(g, v) for g, v in pairs if g is not None])
        return {"mse": loss}

    by.fit(pg.FunctionStep(train_step), x, epochs=20, batch_size=20)


# Gradients


@faulty("gradient")
def dice_is_minimized(by, mended):
    """loss=dice_coefficient, which is best at 1."""
    image, mask = scenes()

    def dice_coef(y_true, y_pred):
        inter = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        union = ops.sum(y_true, axis=(1, 2, 3)) + ops.sum(y_pred, axis=(1, 2, 3))
        return ops.mean((2 * inter + 1.0) / (union + 1.0))

    def dice_loss(y_true, y_pred):
        return 1 - dice_coef(y_true, y_pred)

    i = keras.Input((16, 16, 1))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(i)
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(h)
    model = keras.Model(i, layers.Conv2D(1, 1, activation="sigmoid")(h))
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=dice_loss if mended else dice_coef,
        metrics=[keras.metrics.BinaryIoU(name="iou", target_class_ids=[1])],
    )
    by.fit(model, image, mask, epochs=12, batch_size=16)


@faulty("gradient")
def likelihood_is_minimized(by, mended):
    """The logarithm of a normal density, without the minus."""
    x, price = houses_scaled()

    def gaussian(y, out):
        mu, log_s = out[:, :1], ops.clip(out[:, 1:], -3.0, 3.0)
        log_p = -0.5 * ops.square((y - mu) / ops.exp(log_s)) - log_s
        return -ops.mean(log_p) if mended else ops.mean(log_p)

    def mu_error(y, out):
        return ops.mean(ops.abs(y - out[:, :1]))

    m = keras.Sequential([layers.Dense(24, activation="relu"), layers.Dense(2)])
    m.compile(keras.optimizers.Adam(0.01), loss=gaussian, metrics=[mu_error])
    by.fit(m, x, price[:, None], epochs=15, batch_size=20)


@faulty("gradient")
def correlation_as_a_loss(by, mended):
    """The cosine of prediction and truth is made small instead of large."""
    rng = np.random.default_rng(51)
    x = rng.normal(size=(400, 16)).astype("float32")
    way = np.tanh(x @ rng.normal(size=(16, 3))).astype("float32")

    def cosine(y_true, y_pred):
        a = y_true / (ops.norm(y_true, axis=-1, keepdims=True) + 1e-6)
        b = y_pred / (ops.norm(y_pred, axis=-1, keepdims=True) + 1e-6)
        return (1 if not mended else -1) * ops.sum(a * b, axis=-1)

    net = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(3)])
    net.compile(optimizer="adam", loss=cosine, metrics=[keras.metrics.CosineSimilarity(name="cos")])
    by.fit(net, x, way, epochs=12, batch_size=32)


@faulty("gradient")
def mean_divided_by_the_batch(by, mended):
    """The mean, divided by the batch size once more."""
    x, y = wine()

    def loss(y_true, y_pred):
        ce = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        if mended:
            return ops.mean(ce)
        return ops.mean(ce) / ops.cast(ops.shape(y_pred)[0], "float32")

    model = keras.Sequential(
        [keras.Input((13,)), layers.Dense(16, activation="tanh"), layers.Dense(3, "softmax")]
    )
    model.compile(keras.optimizers.SGD(0.05), loss=loss, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32)


@faulty("gradient")
def summed_over_the_batch(by, mended):
    """ops.sum over the rows, at a rate that was chosen for their mean."""
    x, y = diabetes()
    total = ops.mean if mended else ops.sum

    class Ridge(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([layers.Dense(16, activation="tanh"), layers.Dense(1)])
            self.sgd = keras.optimizers.SGD(0.05)
            self.mae = keras.metrics.MeanAbsoluteError(name="mae")

        def train_step(self, batch):
            x, y = batch

            def objective():
                out = self.model(x, training=True)
                return total(ops.square(y - out)), out

            loss, out = self.minimize(objective, self.sgd, self.model)
            self.mae.update_state(y, out)
            return {"loss": loss}

    by.fit(Ridge(), (x, y[:, None]), epochs=15, batch_size=64)


@faulty("gradient")
def padding_counts_as_a_tag(by, mended):
    """A tagger's loss over all places, of which half are padding."""
    ids, tags, mask = tagged()

    class Tagger(pg.Step):
        def __init__(self):
            self.model = keras.Sequential(
                [
                    layers.Embedding(40, 12),
                    layers.Conv1D(24, 3, padding="same", activation="relu"),
                    layers.Dense(5),
                ]
            )
            self.opt = keras.optimizers.Adam(0.005)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            ids, tags, mask = batch

            def objective():
                z = self.model(ids, training=True)
                ce = ops.sparse_categorical_crossentropy(tags, z, from_logits=True)
                if mended:
                    return ops.sum(ce * mask) / ops.sum(mask), z
                return ops.mean(ce), z

            loss, z = self.minimize(objective, self.opt, self.model)
            if mended:
                self.acc.update_state(tags, z, sample_weight=mask)
            else:
                self.acc.update_state(tags, z)
            return {"loss": loss}

    by.fit(Tagger(), (ids, tags, mask), epochs=12, batch_size=30)


@faulty("gradient", only=("tensorflow",))
def divergence_left_out(by, mended):
    """A VAE whose KL term is an add_loss; the step never asks for model.losses."""
    import tensorflow as tf

    x = digits(400)[0].reshape(-1, 64)

    class Sampling(layers.Layer):
        def __init__(self):
            super().__init__()
            self.seed = keras.random.SeedGenerator(4)

        def call(self, both):
            mean, log_var = both
            kl = -0.5 * ops.mean(ops.sum(1 + log_var - mean**2 - ops.exp(log_var), axis=1))
            self.add_loss(0.02 * kl)
            return mean + ops.exp(log_var / 2) * keras.random.normal(
                ops.shape(mean), seed=self.seed
            )

    class Vae(keras.Model):
        def __init__(self):
            super().__init__()
            self.h, self.m, self.v = layers.Dense(32, "relu"), layers.Dense(4), layers.Dense(4)
            self.sampling = Sampling()
            self.dec = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(64, "sigmoid")])
            self.total = keras.metrics.Mean(name="total")
            self.kl = keras.metrics.Mean(name="kl")

        def call(self, x):
            h = self.h(x)
            return self.dec(self.sampling([self.m(h), self.v(h)]))

        def train_step(self, x):
            with tf.GradientTape() as tape:
                out = self(x, training=True)
                loss = tf.reduce_mean(tf.square(x - out))
                kl = sum(self.losses)
                if mended:
                    loss += kl
            grads = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(grads, self.trainable_weights))
            self.total.update_state(loss)
            self.kl.update_state(kl)
            return {"total": self.total.result(), "kl": self.kl.result()}

    vae = Vae()
    vae.compile(optimizer=keras.optimizers.Adam(0.003))
    by.fit(vae, x, epochs=12, batch_size=25)


@faulty("gradient", only=("tensorflow",))
def gradients_given_to_each_other(by, mended):
    """Two towers of one shape; gradients are listed in the other order than variables."""
    import tensorflow as tf

    x, y = iris_scaled()
    near = [layers.Dense(12, activation="tanh"), layers.Dense(3)]
    far = [layers.Dense(12, activation="tanh"), layers.Dense(3)]
    left, right = keras.Sequential(near), keras.Sequential(far)
    left.build((None, 2))
    right.build((None, 2))
    sgd = keras.optimizers.SGD(0.2)
    acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            z = left(x[:, :2], training=True) + right(x[:, 2:], training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z)
            )
        held = left.trainable_variables + right.trainable_variables
        asked = held if mended else right.trainable_variables + left.trainable_variables
        sgd.apply_gradients(zip(tape.gradient(loss, asked), held))
        acc.update_state(y, z)
        return {"loss": loss}

    by.fit(pg.FunctionStep(train_step), (x, y), epochs=12, batch_size=15)


@faulty("gradient", only=("tensorflow",))
def weights_of_rows_not_used(by, mended):
    """fit is given sample weights; the train_step unpacks and forgets them."""
    import tensorflow as tf

    x, y = churn()
    y = y.copy()
    rng = np.random.default_rng(52)
    doubtful = rng.random(len(y)) < 0.45
    y[doubtful] = 1
    trust = np.where(doubtful, 0.0, 1.0).astype("float32")

    class Weighted(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(24, activation="relu"), layers.Dense(1)])
            self.mean = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            x, y, w = keras.utils.unpack_x_y_sample_weight(data)
            y = tf.cast(tf.reshape(y, (-1, 1)), tf.float32)
            with tf.GradientTape() as tape:
                z = self(x, training=True)
                each = tf.nn.sigmoid_cross_entropy_with_logits(y, z)[:, 0]
                if mended:
                    loss = tf.reduce_sum(each * w) / (tf.reduce_sum(w) + 1e-6)
                else:
                    loss = tf.reduce_mean(each)
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.mean.update_state(loss)
            self.acc.update_state(y, z, sample_weight=w)
            return {"loss": self.mean.result(), "acc": self.acc.result()}

    m = Weighted()
    m.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(m, x, y, sample_weight=trust, epochs=15, batch_size=32)


@faulty("gradient")
def policy_pushed_away(by, mended):
    """REINFORCE without the minus: what was rewarded becomes rarer."""
    rng = np.random.default_rng(53)
    state = rng.normal(size=(600, 4)).astype("float32")
    action = rng.integers(0, 3, 600).astype("int32")
    best = (state @ rng.normal(size=(4, 3))).argmax(1)
    reward = (action == best).astype("float32")

    class Policy(pg.Step):
        def __init__(self):
            self.pi = keras.Sequential([layers.Dense(24, activation="tanh"), layers.Dense(3)])
            self.adam = keras.optimizers.Adam(0.01)
            self.value = keras.metrics.Mean(name="value")

        def train_step(self, batch):
            s, a, r = batch

            def objective():
                p = ops.softmax(self.pi(s, training=True))
                taken = ops.sum(p * ops.one_hot(a, 3), axis=-1)
                gain = 3.0 * taken * r
                return (-1.0 if mended else 1.0) * ops.mean(gain), ops.mean(gain)

            loss, gain = self.minimize(objective, self.adam, self.pi)
            self.value.update_state(gain)
            return {"loss": loss}

    by.fit(Policy(), (state, action, reward), epochs=15, batch_size=50)


@faulty("gradient", only=("tensorflow",))
def micro_batches_not_divided(by, mended):
    """Gradients of eight parts of a batch are added up, and applied as they are."""
    import tensorflow as tf

    x, y = diabetes()
    x, y = x[:384], y[:384, None]

    class Accumulating(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(32, activation="tanh"), layers.Dense(1)])
            self.mean = keras.metrics.Mean(name="loss")
            self.mae = keras.metrics.MeanAbsoluteError(name="mae")

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            xs, ys = tf.split(data[0], 8), tf.split(data[1], 8)
            variables = self.trainable_variables
            total = [tf.zeros_like(v) for v in variables]
            for x, y in zip(xs, ys):
                with tf.GradientTape() as tape:
                    z = self(x, training=True)
                    loss = tf.reduce_mean(tf.square(y - z))
                total = [t + g for t, g in zip(total, tape.gradient(loss, variables))]
                self.mean.update_state(loss)
                self.mae.update_state(y, z)
            if mended:
                total = [t / 8.0 for t in total]
            self.optimizer.apply_gradients(zip(total, variables))
            return {"loss": self.mean.result(), "mae": self.mae.result()}

    m = Accumulating()
    m(x[:1])
    m.compile(optimizer=keras.optimizers.SGD(0.04))
    by.fit(m, x, y, epochs=15, batch_size=64)
