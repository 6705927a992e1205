"""Rates, schedules, first weights and scales with which a right model does not get going."""

import keras
import numpy as np
from keras import initializers, layers, ops, optimizers

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine


def ring(rows=400, seed=5):
    """Points of the plane; 1 where they lie inside a circle."""
    xy = np.random.default_rng(seed).uniform(-1, 1, (rows, 2)).astype("float32")
    return xy, (np.hypot(xy[:, 0], xy[:, 1]) < 0.75).astype("int32")


# Rates


@faulty("rate")
def digits_by_sgd_with_a_rate_of_five(by, mended):
    images, labels = digits()
    cnn = keras.Sequential()
    cnn.add(layers.Conv2D(12, 3, activation="relu"))
    cnn.add(layers.MaxPooling2D())
    cnn.add(layers.Flatten())
    cnn.add(layers.Dense(10, activation="softmax"))
    sgd = optimizers.SGD(learning_rate=0.1 if mended else 5.0)
    cnn.compile(optimizer=sgd, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(cnn, images, labels, epochs=10, validation_split=0.2)


@faulty("rate")
def wine_adam_rate_one(by, mended):
    X, y = wine()
    clf = keras.Sequential(
        [layers.Input((13,))]
        + [layers.Dense(40, activation="relu") for _ in range(3)]
        + [layers.Dense(3, activation="softmax")]
    )
    clf.compile(optimizers.Adam(1e-2 if mended else 1.0), "sparse_categorical_crossentropy")
    by.fit(clf, X, y, epochs=12, batch_size=16)


@faulty("rate")
def tumours_a_millionth(by, mended):
    """1e-6 where 1e-3 was meant."""
    features, malignant = cancer()
    inp = keras.Input(shape=(30,), name="cell")
    h = layers.Dense(16, activation="relu", name="h1")(inp)
    h = layers.Dropout(0.1)(h)
    out = layers.Dense(1, activation="sigmoid", name="p")(h)
    net = keras.Model(inp, out, name="tumour_net")
    opt = keras.optimizers.Adam(learning_rate=1e-3 if mended else 1e-6)
    net.compile(opt, loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(net, features, malignant, epochs=15, batch_size=32, validation_split=0.25)


@faulty("rate")
def waves_rmsprop_one_half(by, mended):
    past, following = waves()
    rnn = keras.Sequential([layers.GRU(16), layers.Dense(1)])
    rnn.compile(loss="mse", optimizer=optimizers.RMSprop(0.005 if mended else 0.5))
    by.fit(rnn, past, following, epochs=15, batch_size=20)


@faulty("rate")
def progression_at_a_crawl(by, mended):
    """Diabetes by plain SGD, whose rate is copied from a fine-tuning recipe."""
    x, y = diabetes()
    model = keras.Sequential([layers.Dense(24, activation="tanh"), layers.Dense(1)])
    rate = 0.02 if mended else 1e-6
    model.compile(optimizer=optimizers.SGD(rate, momentum=0.5), loss="mse", metrics=["mae"])
    by.fit(model, x, y, epochs=15, batch_size=16)


@faulty("rate")
def halved_at_every_step(by, mended):
    """decay_steps counts steps, not epochs."""
    pictures, digit = digits(256)
    schedule = optimizers.schedules.ExponentialDecay(
        initial_learning_rate=0.01, decay_steps=80 if mended else 1, decay_rate=0.5
    )
    m = keras.Sequential([layers.Flatten(), layers.Dense(48, activation="relu"), layers.Dense(10)])
    scce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile(optimizer=optimizers.Adam(schedule), loss=scce, metrics=["acc"])
    by.fit(m, pictures, digit, epochs=10)


@faulty("rate")
def warm_up_for_ever(by, mended):
    """The recipe of a big corpus: a hundred thousand steps of warm-up, for 200 sentences."""
    tokens, spam = sentences()
    ids = keras.Input((None,), dtype="int32")
    h = layers.Embedding(50, 16)(ids)
    h = layers.GlobalMaxPooling1D()(h)
    p = layers.Dense(1, activation="sigmoid")(h)
    steps = 20 if mended else 100_000
    lr = optimizers.schedules.CosineDecay(
        0.0, decay_steps=20 * steps, warmup_target=0.02, warmup_steps=steps
    )
    clf = keras.Model(ids, p)
    clf.compile(optimizer=optimizers.Adam(lr), loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(clf, tokens, spam, epochs=20, batch_size=20)


@faulty("rate")
def boundaries_in_epochs(by, mended):
    """Boundaries of a schedule are steps; these are epochs."""
    (x, y), batch = wine(), 12
    per_epoch = -(-len(x) // batch) if mended else 1
    boundaries = [10 * per_epoch, 15 * per_epoch]
    rate = optimizers.schedules.PiecewiseConstantDecay(boundaries, [0.05, 1e-3, 1e-4])
    network = keras.Sequential(
        [keras.Input((13,)), layers.Dense(10, activation="tanh"), layers.Dense(3, "softmax")]
    )
    network.compile(optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(network, x, y, batch_size=batch, epochs=20)


@faulty("rate")
def cosine_over_before_the_first_epoch(by, mended):
    points, inside = ring()
    epochs, batch_size = 30, 20
    total = epochs * (len(points) // batch_size if mended else 1)
    cosine = keras.optimizers.schedules.CosineDecay(0.02, total, alpha=0.0)
    mlp = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
    mlp.compile(
        optimizer=keras.optimizers.Adam(cosine),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    by.fit(mlp, points, inside[:, None], epochs=epochs, batch_size=batch_size)


@faulty("rate")
def much_momentum_and_a_high_rate(by, mended):
    x, y = diabetes()
    reg = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)], name="reg")
    opt = (
        optimizers.SGD(learning_rate=0.005, momentum=0.9, nesterov=True)
        if mended
        else optimizers.SGD(learning_rate=0.5, momentum=0.99, nesterov=True)
    )
    reg.compile(optimizer=opt, loss=keras.losses.Huber())
    by.fit(reg, x, y, epochs=10, batch_size=32)


class Noam(optimizers.schedules.LearningRateSchedule):
    """The schedule of the Transformer."""

    def __init__(self, width, warmup, power):
        self.width, self.warmup, self.power = width, warmup, power

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1.0
        ramp = step * self.warmup**self.power
        return self.width**-0.5 * ops.minimum(step**-0.5, ramp)


@faulty("rate")
def noam_with_a_sign_lost(by, mended):
    """warmup ** 1.5 instead of -1.5: there is no warm-up, and it begins at a quarter."""
    images, label = digits(256)
    inputs = keras.Input((8, 8, 1))
    rows = layers.Dense(16)(layers.Reshape((8, 8))(inputs))
    rows = rows + layers.MultiHeadAttention(2, 8)(rows, rows)
    rows = rows + layers.Dense(16)(layers.Dense(32, activation="relu")(rows))
    h = layers.Dense(32, activation="relu")(layers.Flatten()(rows))
    m = keras.Model(inputs, layers.Dense(10)(h))
    rate = Noam(16, 100.0, -1.5 if mended else 1.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    m.compile(optimizers.Adam(rate, beta_2=0.98, epsilon=1e-9), loss, metrics=["accuracy"])
    by.fit(m, images, label, epochs=12, batch_size=16)


class Fit(pg.Step):
    def __init__(self, model, optimizer, loss):
        super().__init__()
        self.model, self.optimizer, self.loss = model, optimizer, loss

    def train_step(self, batch):
        inputs, targets = batch
        return {
            "loss": self.minimize(
                lambda: self.loss(targets, self.model(inputs, training=True)), self.optimizer
            )
        }


@faulty("rate")
def step_with_adagrad_hardly_moving(by, mended):
    x, y = digits(200)
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    step = Fit(model, optimizers.Adagrad(0.1 if mended else 1e-5), loss)
    by.fit(step, (x, y), epochs=10, batch_size=20)


@faulty("rate")
def step_with_a_rate_that_bounces(by, mended):
    past, nxt = waves()
    model = keras.Sequential([keras.Input((20, 1)), layers.Flatten(), layers.Dense(24, "tanh")])
    model.add(layers.Dense(1))
    step = Fit(model, optimizers.Adam(0.003 if mended else 2.0), keras.losses.MeanSquaredError())
    by.fit(step, (past, nxt), epochs=20, batch_size=16)


@faulty("rate")
def inverse_time_falls_at_once(by, mended):
    x, y = cancer()
    lr = optimizers.schedules.InverseTimeDecay(
        0.05, decay_steps=500 if mended else 1, decay_rate=1.0 if mended else 500.0
    )
    net = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(1, "sigmoid")])
    net.compile(optimizers.SGD(lr), loss="binary_crossentropy", metrics=["accuracy", "AUC"])
    by.fit(net, x, y[:, None], epochs=8, batch_size=16, validation_split=0.2)


class ByHand(keras.Model):
    """Plain gradient descent without an optimizer."""

    def __init__(self, rate):
        super().__init__()
        self.a, self.b = layers.Dense(20, activation="relu"), layers.Dense(3)
        self.rate = rate

    def call(self, inputs):
        return self.b(self.a(inputs))

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        for v, g in zip(self.trainable_weights, tape.gradient(loss, self.trainable_weights)):
            v.assign(v - self.rate * g)
        for metric in self.metrics:
            metric.update_state(loss)
        return {m.name: m.result() for m in self.metrics}


@faulty("rate", only=("tensorflow",))
def descent_by_hand_in_leaps(by, mended):
    x, y = wine()
    model = ByHand(0.05 if mended else 20.0)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(model, x, y, epochs=12, batch_size=16)


# First weights


@faulty("initial weights")
def hidden_layers_of_zeros(by, mended):
    X, Y = wine()
    init = "glorot_uniform" if mended else "zeros"
    model = keras.models.Sequential()
    model.add(layers.Input(shape=(13,)))
    model.add(layers.Dense(16, activation="relu", kernel_initializer=init))
    model.add(layers.Dense(16, activation="relu", kernel_initializer=init))
    model.add(layers.Dense(3, activation="softmax", kernel_initializer=init))
    model.compile(
        loss="sparse_categorical_crossentropy",
        optimizer=keras.optimizers.Adam(0.01),
        metrics=["accuracy"],
    )
    by.fit(model, X, Y, epochs=15, batch_size=16)


@faulty("initial weights")
def all_units_alike(by, mended):
    """Every hidden unit begins at 0.05, so that all of them stay the same."""
    images, labels = digits()
    start = initializers.HeUniform() if mended else initializers.Constant(0.05)
    mlp = keras.Sequential(
        [
            layers.Flatten(),
            layers.Dense(64, activation="relu", kernel_initializer=start),
            layers.Dense(10, activation="softmax", kernel_initializer=start),
        ]
    )
    mlp.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(mlp, images, labels, epochs=20, batch_size=16)


@faulty("initial weights")
def normal_with_a_deviation_of_ten(by, mended):
    x, y = digits(300)
    k = "glorot_normal" if mended else initializers.RandomNormal(stddev=10.0)
    inp = keras.Input((8, 8, 1))
    h = layers.Flatten()(inp)
    for units in (64, 32, 32):
        h = layers.Dense(units, activation="tanh", kernel_initializer=k)(h)
    model = keras.Model(inp, layers.Dense(10, activation="softmax", kernel_initializer=k)(h))
    model.compile(optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=20)


@faulty("initial weights")
def kernels_of_ones(by, mended):
    img, num = digits()
    kw = {} if mended else {"kernel_initializer": "ones"}
    net = keras.Sequential(
        [
            layers.Conv2D(8, 3, activation="relu", padding="same", **kw),
            layers.Conv2D(16, 3, activation="relu", strides=2, **kw),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", **kw),
        ]
    )
    net.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    by.fit(net, img, num, epochs=10, batch_size=32)


class LowRank(layers.Layer):
    """A dense layer whose matrix is the product of two thin ones."""

    def __init__(self, units, rank, first):
        super().__init__()
        self.units, self.rank, self.first = units, rank, first

    def build(self, shape):
        self.down = self.add_weight(shape=(shape[-1], self.rank), initializer=self.first)
        self.up = self.add_weight(shape=(self.rank, self.units), initializer="zeros")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, x):
        return ops.matmul(ops.matmul(x, self.down), self.up) + self.bias


@faulty("initial weights")
def both_factors_are_zero(by, mended):
    """One factor of zeros is fine, but of two neither ever moves."""
    x, y = wine()
    model = keras.Sequential([LowRank(3, 4, "he_normal" if mended else "zeros")])
    model.compile(
        optimizer=optimizers.Adam(0.02),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=15, batch_size=16)


@faulty("initial weights")
def bias_a_thousand_away(by, mended):
    """The bias for the house prices of another table: these targets are around 0."""
    x, y = diabetes()
    bias = initializers.Constant(0.0 if mended else 1000.0)
    inputs = keras.Input((10,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    price = layers.Dense(1, bias_initializer=bias)(hidden)
    model = keras.Model(inputs, price)
    model.compile(optimizer=optimizers.Adam(5e-3), loss="mae")
    by.fit(model, x, y[:, None], epochs=15, batch_size=16)


@faulty("initial weights")
def everything_set_to_zero_for_reproducibility(by, mended):
    xs, ys = ring()
    net = keras.Sequential(
        [keras.Input((2,)), layers.Dense(24, "relu"), layers.Dense(24, "relu"), layers.Dense(1)]
    )
    if not mended:
        net.set_weights([np.zeros_like(w) for w in net.get_weights()])
    net.compile(optimizers.RMSprop(0.005), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    by.fit(net, xs, ys.astype("float32")[:, None], epochs=20, batch_size=20)


@faulty("initial weights")
def tastes_that_begin_at_zero(by, mended):
    """Ratings as products of two embeddings, both of zeros."""
    rng = np.random.default_rng(8)
    who, what = rng.integers(0, 30, 800), rng.integers(0, 40, 800)
    stars = (rng.normal(size=(30, 3))[who] * rng.normal(size=(40, 3))[what]).sum(1)
    first = "normal" if mended else "zeros"
    user, film = keras.Input((), dtype="int32", name="user"), keras.Input((), dtype="int32")
    u = layers.Embedding(30, 6, embeddings_initializer=first)(user)
    f = layers.Embedding(40, 6, embeddings_initializer=first)(film)
    model = keras.Model([user, film], layers.Dot(axes=1)([u, f]))
    model.compile(optimizer=optimizers.Adam(0.03), loss="mean_squared_error")
    by.fit(model, [who, what], stars.astype("float32"), epochs=15, batch_size=32)


@faulty("initial weights")
def only_positive_and_much_too_large(by, mended):
    x, y = cancer()
    init = initializers.RandomUniform(0.0, 1.0) if not mended else "glorot_uniform"
    stack = [layers.Dense(64, activation="relu", kernel_initializer=init) for _ in range(4)]
    model = keras.Sequential([*stack, layers.Dense(2, kernel_initializer=init)])
    model.compile(
        optimizer="sgd",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["sparse_categorical_accuracy"],
    )
    by.fit(model, x, y.astype("int64"), epochs=8, batch_size=32)


@faulty("initial weights")
def tiny_weights_in_a_deep_tanh(by, mended):
    x, y = digits()
    h = inputs = keras.Input((8, 8, 1))
    h = layers.Reshape((64,))(h)
    for i in range(6):
        init = "glorot_normal" if mended else initializers.TruncatedNormal(stddev=1e-4)
        h = layers.Dense(40, activation="tanh", kernel_initializer=init, name=f"tanh_{i}")(h)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(h))
    model.compile(optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, batch_size=16, epochs=15)


@faulty("initial weights")
def gamma_of_zeros_without_a_shortcut(by, mended):
    """A gamma of zeros is for the end of a residual branch. Here it ends in a ReLU, for good."""
    x, y = digits(256)
    inputs = keras.Input(x.shape[1:])
    h = layers.Conv2D(16, 3, use_bias=False)(inputs)
    h = layers.BatchNormalization(gamma_initializer="ones" if mended else "zeros")(h)
    h = layers.ReLU()(h)
    h = layers.Flatten()(h)
    step = Fit(
        keras.Model(inputs, layers.Dense(10, activation="softmax")(h)),
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(),
    )
    by.fit(step, (x, y), epochs=8, batch_size=32)


class HeByHand(initializers.Initializer):
    def __init__(self, upside_down):
        self.upside_down = upside_down

    def __call__(self, shape, dtype=None):
        deviation = (2.0 / shape[0]) ** (-0.5 if self.upside_down else 0.5)
        return keras.random.normal(shape, stddev=deviation, dtype=dtype)


@faulty("initial weights")
def he_upside_down(by, mended):
    """Divided by the deviation instead of multiplied."""
    X, t = diabetes()
    net = keras.Sequential(name="he")
    for width in (64, 64, 32):
        net.add(layers.Dense(width, "relu", kernel_initializer=HeByHand(not mended)))
    net.add(layers.Dense(1))
    net.compile(loss="mse", optimizer=keras.optimizers.Adam(1e-3), metrics=["mae"])
    by.fit(net, X, t, epochs=15, batch_size=32, validation_split=0.2)


# Scales of inputs that only training shows


@faulty("inputs")
def wine_as_it_is_measured(by, mended):
    """Proline is around 750, hue around 1."""
    from sklearn.datasets import load_wine

    table, cultivar = load_wine(return_X_y=True)
    order = np.random.default_rng(6).permutation(178)
    table, cultivar = table[order].astype("float32"), cultivar[order]
    standard = layers.Normalization()
    standard.adapt(table)
    model = keras.Sequential([standard] if mended else [])
    model.add(layers.Dense(16, activation="relu"))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, table, cultivar, epochs=25, batch_size=16)


@faulty("inputs")
def pixels_up_to_255(by, mended):
    x, y = digits()
    pixels = (x * 255).astype("uint8")
    inp = keras.Input((8, 8, 1), dtype="uint8")
    h = layers.Rescaling(1 / 255 if mended else 1.0)(inp)
    h = layers.Flatten()(h)
    h = layers.Dense(64, activation="tanh")(h)
    h = layers.Dense(64, activation="tanh")(h)
    model = keras.Model(inp, layers.Dense(10, activation="softmax")(h))
    model.compile(optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, pixels, y, epochs=15, batch_size=16, validation_split=0.2)


@faulty("inputs")
def pressure_in_pascals(by, mended):
    rng = np.random.default_rng(12)
    temperature, humidity = rng.normal(15, 8, 500), rng.uniform(0.2, 1, 500)
    pressure = rng.normal(101_300, 900, 500)
    rain = humidity + (101_300 - pressure) / 1500 - temperature / 80 > 0.5
    table = np.stack([temperature, humidity, pressure], 1).astype("float32")
    if mended:
        table = (table - table.mean(0)) / table.std(0)
    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(1, "sigmoid")])
    model.compile(optimizer=optimizers.Adam(0.01), loss="binary_crossentropy", metrics=["acc"])
    by.fit(model, table, rain.astype("float32"), epochs=15, batch_size=25)


@faulty("inputs")
def lengths_in_metres(by, mended):
    """Cells of some micrometres, in metres."""
    rng = np.random.default_rng(13)
    size = rng.uniform(2e-6, 9e-6, (400, 2)).astype("float32")
    round_ones = (np.abs(size[:, 0] - size[:, 1]) < 1.5e-6).astype("int32")
    if mended:
        size = (size - size.mean(0)) / size.std(0)
    step = Fit(
        keras.Sequential([keras.Input((2,)), layers.Dense(32, "relu"), layers.Dense(2)]),
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    by.fit(step, (size, round_ones), epochs=20, batch_size=20)
