"""Rows that are paired wrongly, and training mixed with inference: the second set."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.model_selection import train_test_split

import perigee as pg
from tests.examination.programs import faulty
from tests.examination.tables import churn, houses_scaled, moons, motion
from tests.strangers.datasets import cancer, diabetes, digits

SPARSE = "sparse_categorical_crossentropy"

# Pairing


@faulty("pairing")
def rows_against_columns(by, mended):
    """y of shape (32,) less predictions of shape (32, 1): a table of 32 by 32."""
    x, y = diabetes()

    class Mse(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
            self.optimizer = keras.optimizers.Adam(0.005)
            self.r2 = keras.metrics.R2Score(name="r2")

        def train_step(self, batch):
            x, y = batch

            def objective():
                y_pred = self.model(x, training=True)
                target = y[:, None] if mended else y
                return ops.mean(ops.square(target - y_pred)), y_pred

            loss, y_pred = self.minimize(objective, self.optimizer, self.model)
            self.r2.update_state(y[:, None], y_pred)
            return {"loss": loss}

    by.fit(Mse(), (x, y), epochs=20, batch_size=32)


@faulty("pairing", only=("tensorflow",))
def huber_by_hand(by, mended):
    """A train_step with a Huber loss of its own, of y as NumPy gave it."""
    import tensorflow as tf

    x, price = houses_scaled()

    class Robust(keras.Model):
        def __init__(self):
            super().__init__()
            self.h = layers.Dense(24, activation="relu")
            self.o = layers.Dense(1)
            self.mean = keras.metrics.Mean(name="huber")
            self.mae = keras.metrics.Mean(name="mae")

        def call(self, x):
            return self.o(self.h(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                pred = self(x, training=True)
                if mended:
                    pred = tf.squeeze(pred, -1)
                off = tf.abs(y - pred)
                loss = tf.reduce_mean(tf.where(off < 1.0, 0.5 * off**2, off - 0.5))
            g = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(g, self.trainable_variables))
            self.mean.update_state(loss)
            self.mae.update_state(tf.abs(y - tf.reshape(pred, [-1])))
            return {"huber": self.mean.result(), "mae": self.mae.result()}

    m = Robust()
    m.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(m, x, price, epochs=20, batch_size=25)


@faulty("pairing")
def reshaped_instead_of_transposed(by, mended):
    """(batch, time, features) is brought to (time, batch, features) by reshape."""
    x, y = motion()

    class Last(layers.Layer):
        def call(self, h):
            n, t, f = ops.shape(h)[0], 24, 3
            if mended:
                h = ops.transpose(h, (1, 0, 2))
            else:
                h = ops.reshape(h, (t, n, f))
            return ops.concatenate([h[i] for i in range(0, t, 2)], axis=-1)

        def compute_output_shape(self, shape):
            return (shape[0], 36)

    i = keras.Input((24, 3))
    h = layers.Dense(32, activation="relu")(Last()(i))
    h = layers.Dense(16, activation="relu")(h)
    model = keras.Model(i, layers.Dense(3, activation="softmax")(h))
    model.compile(keras.optimizers.Adam(0.005), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=30)


@faulty("pairing")
def two_heads_in_another_order(by, mended):
    """The outputs are price and age, the list of targets is age and price."""
    x, price = houses_scaled()
    price = (price - price.mean()) / price.std()
    rng = np.random.default_rng(61)
    tax = np.tanh(x[:, 2] + 0.3 * rng.normal(size=len(x))).astype("float32")
    i = keras.Input((4,))
    trunk = layers.Dense(32, activation="relu")(i)
    a = layers.Dense(1, name="price")(layers.Dense(16, activation="relu")(trunk))
    b = layers.Dense(1, name="tax", activation="tanh")(layers.Dense(16, activation="relu")(trunk))
    m = keras.Model(i, [a, b])
    m.compile(keras.optimizers.Adam(0.01), loss=["mse", "mse"], metrics=[["mae"], ["mae"]])
    by.fit(m, x, [price, tax] if mended else [tax, price], epochs=20, batch_size=25)


@faulty("pairing")
def labels_of_a_closure(by, mended):
    """The loss compares with labels that it took from outside, not with y_true."""
    x, y = cancer()
    x, y = x[:544], y[:544, None]
    first = keras.ops.convert_to_tensor(y[:32])

    def loss(y_true, y_pred):
        target = y_true if mended else first
        p = ops.clip(y_pred, 1e-6, 1 - 1e-6)
        return -ops.mean(target * ops.log(p) + (1 - target) * ops.log(1 - p))

    m = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(1, "sigmoid")])
    m.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    by.fit(m, x, y, epochs=10, batch_size=32)


@faulty("pairing")
def attention_across_the_batch(by, mended):
    """Rows of a table are given to an attention of two axes: each row sees the others."""
    x, y = churn()

    class Attend(layers.Layer):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = layers.Dense(16), layers.Dense(16), layers.Dense(16)

        def call(self, x):
            if mended:
                x = x[:, :, None]
            q, k, v = self.q(x), self.k(x), self.v(x)
            a = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 4.0, axis=-1)
            return ops.reshape(ops.matmul(a, v), (ops.shape(x)[0], 128 if mended else 16))

    class Net(pg.Step):
        def __init__(self):
            self.model = keras.Sequential(
                [Attend(), layers.Dense(16, activation="relu"), layers.Dense(1)]
            )
            self.opt = keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def train_step(self, batch):
            x, y = batch
            y = ops.cast(y[:, None], "float32")

            def objective():
                z = self.model(x, training=True)
                return ops.mean(ops.binary_crossentropy(y, z, from_logits=True)), z

            loss, z = self.minimize(objective, self.opt, self.model)
            self.acc.update_state(y, z)
            return {"loss": loss}

        def test_step(self, batch):
            x, y = batch
            self.acc.update_state(ops.cast(y[:, None], "float32"), self.model(x, training=False))
            return {}

    data = (x[:400], y[:400])
    by.fit(Net(), data, epochs=20, batch_size=25, validation=(x[400:], y[400:]))


@faulty("pairing")
def mixed_with_other_labels(by, mended):
    """Mixup draws one order for the images and another for the labels."""
    x, y = digits(400)
    target = np.eye(10, dtype="float32")[y]

    class Mixup(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [layers.Flatten(), layers.Dense(48, activation="relu"), layers.Dense(10)]
            )
            self.opt = keras.optimizers.Adam(0.003)
            self.seed = keras.random.SeedGenerator(3)
            self.acc = keras.metrics.CategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch
            a = keras.random.shuffle(ops.arange(ops.shape(x)[0]), seed=self.seed)
            b = a if mended else keras.random.shuffle(ops.arange(ops.shape(x)[0]), seed=self.seed)
            mixed = 0.5 * x + 0.5 * ops.take(x, a, axis=0)
            wanted = 0.5 * y + 0.5 * ops.take(y, b, axis=0)

            def objective():
                z = self.net(mixed, training=True)
                return ops.mean(ops.categorical_crossentropy(wanted, z, from_logits=True))

            loss = self.minimize(objective, self.opt, self.net)
            self.acc.update_state(y, self.net(x, training=False))
            return {"loss": loss}

    by.fit(Mixup(), (x, target), epochs=15, batch_size=25)


# Modes


def blocks(depth, units=32):
    """Return dense layers without a bias, each with its norm."""
    made = [layers.Flatten()]
    for _ in range(depth):
        made += [layers.Dense(units, use_bias=False), layers.BatchNormalization(momentum=0.9)]
        made.append(layers.ReLU())
    return made


@faulty("mode")
def norm_without_training(by, mended):
    """self.model(x) in a train_step: the norms of a deep net do nothing."""
    x, y = digits(400)

    class Normed(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([*blocks(10), layers.Dense(10)])
            self.opt = keras.optimizers.SGD(0.05)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                z = self.model(x, training=True) if mended else self.model(x)
                return ops.mean(ops.sparse_categorical_crossentropy(y, z, from_logits=True)), z

            loss, z = self.minimize(objective, self.opt, self.model)
            self.acc.update_state(y, z)
            return {"loss": loss}

        def test_step(self, batch):
            x, y = batch
            self.acc.update_state(y, self.model(x, training=False))
            return {}

    by.fit(Normed(), (x[:320], y[:320]), epochs=12, batch_size=16, validation=(x[320:], y[320:]))


@faulty("mode")
def validated_with_dropout(by, mended):
    """test_step calls the model as train_step does."""
    x, y = digits(500)
    a, b, p, q = train_test_split(x, y, test_size=0.3, random_state=3)

    class Dropped(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [
                    layers.Flatten(),
                    layers.Dropout(0.5),
                    layers.Dense(64, activation="relu"),
                    layers.Dropout(0.5),
                    layers.Dense(10),
                ]
            )
            self.opt = keras.optimizers.Adam(0.005)
            self.ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch
            objective = lambda: self.ce(y, self.net(x, training=True))
            return {"loss": self.minimize(objective, self.opt, self.net)}

        def test_step(self, batch):
            x, y = batch
            z = self.net(x, training=not mended)
            self.acc.update_state(y, z)
            return {"loss": self.ce(y, z)}

    by.fit(Dropped(), (a, p), epochs=12, batch_size=25, validation=(b, q))


@faulty("mode")
def norm_told_to_infer(by, mended):
    """Copied from a guide on transfer: training=False, for a base that begins at nothing."""
    x, y = digits(500)

    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.base = keras.Sequential(blocks(8, 48))
            self.head = layers.Dense(10, activation="softmax")

        def call(self, x, training=None):
            h = self.base(x, training=training if mended else False)
            return self.head(h)

    model = Classifier()
    model.compile(keras.optimizers.SGD(0.05), SPARSE, metrics=["accuracy"])
    by.fit(model, x[:400], y[:400], epochs=10, batch_size=20, validation_data=(x[400:], y[400:]))


@faulty("mode")
def dropout_always_on(by, mended):
    """self.drop(h, training=True), left from a try at uncertainty."""
    x, y = churn()

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = layers.Dense(32, "relu"), layers.Dense(32, "relu")
            self.drop, self.out = layers.Dropout(0.6), layers.Dense(1, activation="sigmoid")

        def call(self, x, training=None):
            mode = training if mended else True
            h = self.drop(self.one(x), training=mode)
            h = self.drop(self.two(h), training=mode)
            return self.out(h)

    model = Net()
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    model.optimizer.learning_rate = 0.01
    by.fit(model, x, y, epochs=20, batch_size=20, validation_split=0.2)


@faulty("mode")
def noise_in_each_call(by, mended):
    """A layer that adds noise, without asking whether it is training."""
    x, y = moons()

    class Jitter(layers.Layer):
        def __init__(self, scale):
            super().__init__()
            self.scale = scale
            self.seed_generator = keras.random.SeedGenerator(9)

        def call(self, x, training=None):
            if mended and not training:
                return x
            return x + self.scale * keras.random.normal(ops.shape(x), seed=self.seed_generator)

    net = keras.Sequential(
        [keras.Input((2,)), Jitter(0.5), layers.Dense(32, "relu"), layers.Dense(1, "sigmoid")]
    )
    net.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, x[:300], y[:300], epochs=20, batch_size=20, validation_data=(x[300:], y[300:]))


@faulty("mode", only=("tensorflow",))
def tape_around_inference(by, mended):
    """training=False within the tape, copied from the test step."""
    import tensorflow as tf

    x, y = diabetes()
    x = 3.0 * x + 5.0
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.BatchNormalization(),
            layers.Dense(32, activation="tanh"),
            layers.Dropout(0.2),
            layers.Dense(1),
        ]
    )
    optimizer = keras.optimizers.SGD(0.02)
    mse = keras.losses.MeanSquaredError()

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = mse(y, model(x, training=mended))
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))
        return {"loss": loss}

    @tf.function
    def test_step(x, y):
        return {"loss": mse(y, model(x, training=False))}

    step = pg.FunctionStep(train_step, test_step)
    y = y[:, None]
    by.fit(step, (x[:340], y[:340]), epochs=12, batch_size=34, validation=(x[340:], y[340:]))
