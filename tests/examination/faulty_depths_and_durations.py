"""Activations through which nothing passes, and trainings that end before they begin."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine


def moons(rows=360, seed=4):
    rng = np.random.default_rng(seed)
    half, angle = np.arange(rows) % 2, rng.uniform(0, np.pi, rows)
    x = np.where(half, 1 - np.cos(angle), np.cos(angle)) - 0.5
    y = np.where(half, 0.5 - np.sin(angle), np.sin(angle)) - 0.25
    points = np.stack([x, y], 1) + rng.normal(0, 0.05, (rows, 2))
    return points.astype("float32"), half.astype("int32")


def checkers(rows=600, seed=9):
    """Points of a board of two by two fields."""
    p = np.random.default_rng(seed).uniform(-1, 1, (rows, 2)).astype("float32")
    return p, (p[:, 0] * p[:, 1] > 0).astype("float32")


# Activations


@faulty("activations")
def ten_sigmoids_deep(by, mended):
    x, y = digits()
    act = "relu" if mended else "sigmoid"
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    for _ in range(10):
        model.add(layers.Dense(64, activation=act, kernel_initializer="he_normal"))
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(
        optimizer=keras.optimizers.SGD(0.02, momentum=0.9),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=20, batch_size=16)


@faulty("activations")
def nothing_between_dense_layers(by, mended):
    """No activation is named, so that all the layers are one."""
    points, moon = moons()
    a = "relu" if mended else None
    inp = keras.Input((2,))
    h = layers.Dense(32, activation=a)(inp)
    h = layers.Dense(32, activation=a)(h)
    h = layers.Dense(16, activation=a)(h)
    out = layers.Dense(1, activation="sigmoid")(h)
    model = keras.Model(inp, out)
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, points, moon, epochs=20, batch_size=20)


@faulty("activations")
def rectified_log_probabilities(by, mended):
    """The features are logarithms of probabilities, all below zero. A ReLU takes them all."""
    rng = np.random.default_rng(15)
    kind = rng.integers(0, 3, 420)
    logp = np.log(rng.dirichlet(np.ones(6), 420) * 0.5 + np.eye(6)[kind] * 0.3 + 0.01)
    net = keras.Sequential([keras.Input((6,))])
    net.add(layers.Dense(16))
    if not mended:
        net = keras.Sequential([keras.Input((6,)), layers.ReLU(), layers.Dense(16)])
    net.add(layers.ReLU())
    net.add(layers.Dense(3, activation="softmax"))
    net.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    by.fit(net, logp.astype("float32"), kind, epochs=15)


@faulty("activations")
def dropout_as_the_share_to_keep(by, mended):
    """0.95 is meant to be what is kept."""
    x, y = digits(300)
    rate = 0.05 if mended else 0.95
    model = keras.Sequential(
        [
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(rate),
            layers.Dense(64, activation="relu"),
            layers.Dropout(rate),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=16)


@faulty("activations")
def softmax_in_the_middle(by, mended):
    pics, nums = digits()
    activation = keras.activations.gelu if mended else keras.activations.softmax
    i = keras.Input((8, 8, 1))
    h = layers.Flatten()(i)
    h = layers.Dense(128, activation=activation)(h)
    h = layers.Dense(128, activation=activation)(h)
    model = keras.Model(i, layers.Dense(10)(h))
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(2e-3),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    by.fit(model, pics, nums, epochs=12, batch_size=32, validation_split=0.2)


class Contrast(keras.Model):
    """Whether a patch has a bar, dark or bright, by convolutions."""

    def __init__(self, use_act):
        super().__init__()
        self.c1, self.c2 = layers.Conv2D(12, 3), layers.Conv2D(12, 3)
        self.act = layers.Activation("relu")
        self.pool, self.out = layers.GlobalAveragePooling2D(), layers.Dense(1)
        self.use_act = use_act

    def call(self, image):
        h = self.c1(image)
        if self.use_act:
            h = self.act(h)
        h = self.c2(h)
        if self.use_act:
            h = self.act(h)
        return self.out(self.pool(h))


@faulty("activations")
def convolutions_without_activation(by, mended):
    """The activation is made and is never called."""
    rng = np.random.default_rng(21)
    bar = rng.integers(0, 2, 300)
    sign = rng.choice([-1.0, 1.0], 300)
    image = rng.normal(0, 0.1, (300, 9, 9, 1))
    image[:, :, 4:5, 0] += (bar * sign)[:, None, None]
    model = Contrast(use_act=mended)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    by.fit(model, image.astype("float32"), bar.reshape(-1, 1), epochs=12, batch_size=25)


@faulty("activations")
def threshold_taken_for_a_maximum(by, mended):
    """ReLU6 has max_value=6; threshold=6 lets only what is above six through."""
    x, y = wine()
    six = dict(max_value=6.0) if mended else dict(threshold=6.0)
    seq = keras.Sequential(name="mobile")
    seq.add(keras.Input(shape=(13,)))
    for units in (32, 16):
        seq.add(layers.Dense(units))
        seq.add(layers.ReLU(**six))
    seq.add(layers.Dense(3, activation="softmax"))
    seq.compile("rmsprop", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(seq, x, y, epochs=25, batch_size=8)


def spike(x):
    """1 where a neuron fires."""
    return ops.cast(x > 0, "float32")


def soft_spike(x):
    hard = ops.cast(x > 0, "float32")
    soft = ops.sigmoid(4 * x)
    return soft + ops.stop_gradient(hard - soft)


@faulty("activations")
def neurons_that_only_fire(by, mended):
    """A step function has no slope; the twin has a surrogate."""
    xs, ys = checkers()
    fire = soft_spike if mended else spike
    net = keras.Sequential([keras.Input((2,))])
    net.add(layers.Dense(24, activation=fire))
    net.add(layers.Dense(24, activation=fire))
    net.add(layers.Dense(1, activation="sigmoid"))
    net.compile(keras.optimizers.Adam(0.01), loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(net, xs, ys[:, None], epochs=25, batch_size=20)


@faulty("activations")
def leaky_without_a_bend(by, mended):
    """A slope of 1 on both sides is a straight line."""
    x, y = checkers()
    slope = 0.1 if mended else 1.0
    inputs = keras.Input((2,), name="position")
    h = layers.LeakyReLU(negative_slope=slope)(layers.Dense(32)(inputs))
    h = layers.LeakyReLU(negative_slope=slope)(layers.Dense(32)(h))
    colour = layers.Dense(2, activation="softmax", name="colour")(h)
    model = keras.Model({"position": inputs}, {"colour": colour})
    model.compile(
        optimizer=keras.optimizers.RMSprop(5e-3),
        loss={"colour": "sparse_categorical_crossentropy"},
        metrics={"colour": "accuracy"},
    )
    by.fit(model, {"position": x}, {"colour": y.astype("int32")}, epochs=15, batch_size=20)


class Supervised(pg.Step):
    def __init__(self, model, optimizer, loss):
        super().__init__()
        self.model, self.optimizer, self.loss = model, optimizer, loss

    def train_step(self, batch):
        x, y = batch
        objective = lambda: ops.mean(self.loss(y, self.model(x, training=True)))
        return {"loss": self.minimize(objective, self.optimizer)}

    def test_step(self, batch):
        x, y = batch
        return {"loss": ops.mean(self.loss(y, self.model(x, training=False)))}


class Steep(layers.Layer):
    """A dense layer and a very steep tanh: at its ends nearly everywhere."""

    def __init__(self, units, steepness):
        super().__init__()
        self.dense, self.steepness = layers.Dense(units), steepness

    def call(self, x):
        return ops.tanh(self.steepness * self.dense(x))


@faulty("activations")
def tanh_at_its_ends(by, mended):
    x, y = digits(250)
    k = 1.0 if mended else 50.0
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), Steep(32, k), Steep(32, k), Steep(32, k)]
    )
    model.add(layers.Dense(10, activation="softmax"))
    loss = keras.losses.sparse_categorical_crossentropy
    step = Supervised(model, keras.optimizers.SGD(0.1), loss)
    by.fit(step, (x, y), epochs=15, batch_size=16)


@faulty("activations")
def relu_over_biases_far_below(by, mended):
    """Biases meant for sparse units: nothing ever rises above zero."""
    x, y = cancer()
    bias = "zeros" if mended else keras.initializers.Constant(-25.0)
    model = keras.Sequential(
        [
            layers.Dense(32, activation="relu", bias_initializer=bias),
            layers.Dense(32, activation="relu", bias_initializer=bias),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer="adam", loss=keras.losses.BinaryCrossentropy(), metrics=["accuracy"])
    by.fit(model, x, y, epochs=10, batch_size=32, validation_split=0.2)


@faulty("activations")
def recurrent_sigmoids(by, mended):
    """Whether the first of twenty values is positive, through twenty sigmoids."""
    rng = np.random.default_rng(30)
    series = rng.normal(0, 0.1, (400, 20, 1)).astype("float32")
    series[:, 0] = np.sign(series[:, 0])
    up = (series[:, 0, 0] > 0).astype("int32")
    cell = layers.SimpleRNN(24, activation="tanh" if mended else "sigmoid")
    rnn = keras.Sequential([cell, layers.Dense(1, activation="sigmoid")])
    rnn.compile(keras.optimizers.Adam(5e-3), "binary_crossentropy", metrics=["accuracy"])
    by.fit(rnn, series, up, epochs=10, batch_size=20)


# Too little training


@faulty("too little training")
def whole_table_as_one_batch(by, mended):
    X, y = wine()
    clf = keras.Sequential([layers.Dense(12, activation="relu"), layers.Dense(3, "softmax")])
    clf.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(clf, X, y, epochs=30, batch_size=8 if mended else len(X))


@faulty("too little training")
def one_epoch_of_ten_steps(by, mended):
    images, labels = digits()
    inp = keras.Input(images.shape[1:])
    h = layers.Conv2D(16, 3, activation="relu")(inp)
    h = layers.Flatten()(h)
    net = keras.Model(inp, layers.Dense(10, activation="softmax")(h))
    net.compile(
        keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    by.fit(net, images, labels, epochs=15 if mended else 1, batch_size=32)


@faulty("too little training")
def patience_of_nothing(by, mended):
    """It stops at the first epoch that is not better by a half."""
    x, y = diabetes()
    net = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
    net.compile(loss="mse", optimizer=keras.optimizers.SGD(2e-3), metrics=["mae"])
    stop = keras.callbacks.EarlyStopping(
        monitor="loss", patience=5 if mended else 0, min_delta=1e-3 if mended else 0.5
    )
    by.fit(net, x, y, epochs=25, batch_size=16, callbacks=[stop])


@faulty("too little training")
def a_single_step_per_epoch(by, mended):
    toks, spam = sentences()
    emb = keras.Sequential([layers.Embedding(50, 12), layers.GlobalMaxPooling1D(), layers.Dense(1)])
    emb.compile(
        optimizer=keras.optimizers.Adam(5e-3),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0)],
    )
    kw = {} if mended else {"steps_per_epoch": 1}
    by.fit(emb, toks, spam[:, None], epochs=15, batch_size=10, **kw)


@faulty("too little training", only=("tensorflow",))
def take_two_left_in(by, mended):
    """Two batches were enough to try the pipeline."""
    import tensorflow as tf

    x, y = digits()
    ds = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(400, seed=1).batch(16)
    if not mended:
        ds = ds.take(2)
    model = keras.Sequential([layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)])
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(model, ds.prefetch(1), epochs=12)


class Rows(keras.utils.PyDataset):
    """Batches of a table. Their number is divided by the size of a batch once too often."""

    def __init__(self, x, y, size, right):
        super().__init__()
        self.x, self.y, self.size, self.right = x, y, size, right

    def __len__(self):
        batches = len(self.x) // self.size
        return batches if self.right else batches // self.size

    def __getitem__(self, i):
        part = slice(i * self.size, (i + 1) * self.size)
        return self.x[part], self.y[part]


@faulty("too little training")
def dataset_divided_twice(by, mended):
    x, y = cancer()
    net = keras.Sequential([layers.Dense(16, "tanh"), layers.Dense(1, "sigmoid")])
    net.compile(loss="binary_crossentropy", optimizer="sgd", metrics=["AUC", "accuracy"])
    by.fit(net, Rows(x, y[:, None], 16, mended), epochs=12)


@faulty("too little training")
def accumulates_more_batches_than_there_are(by, mended):
    """An update at every 256th batch, and an epoch has 14."""
    x, y = diabetes()
    inp = keras.Input((10,))
    out = layers.Dense(1)(layers.Dense(24, activation="relu")(inp))
    reg = keras.Model(inp, out)
    every = 2 if mended else 256
    opt = keras.optimizers.Adam(5e-3, gradient_accumulation_steps=every)
    reg.compile(optimizer=opt, loss=keras.losses.MeanSquaredError(), metrics=["mae"])
    by.fit(reg, x, y, epochs=15, batch_size=32)


@faulty("too little training")
def resumed_at_the_last_epoch(by, mended):
    past, coming = waves()
    rnn = keras.Sequential([layers.LSTM(12), layers.Dense(1)])
    rnn.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    start = 0 if mended else 19
    by.fit(rnn, past, coming, initial_epoch=start, epochs=20, batch_size=20)


@faulty("too little training")
def three_steps_in_all(by, mended):
    """Epochs were meant."""
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), layers.Dense(16, "relu"), layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    step = Supervised(model, keras.optimizers.Adam(5e-3), loss)
    length = {"epochs": 20} if mended else {"steps": 3}
    by.fit(step, (x, y), batch_size=16, **length)


@faulty("too little training")
def step_with_a_batch_of_all(by, mended):
    x, y = digits()
    cnn = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(8, 3, activation="relu"), layers.Flatten()]
    )
    cnn.add(layers.Dense(10, activation="softmax"))
    step = Supervised(
        cnn, keras.optimizers.Adam(2e-3), keras.losses.sparse_categorical_crossentropy
    )
    by.fit(step, (x, y), epochs=15, batch_size=16 if mended else 512)


@faulty("too little training")
def held_back_nearly_all(by, mended):
    """validation_split is the share held back, not the share that trains."""
    x, y = digits()
    model = keras.Sequential(
        [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(10, "softmax")]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=30, validation_split=0.1 if mended else 0.9, batch_size=32)


@faulty("too little training")
def batches_of_a_big_machine(by, mended):
    """A recipe for a million rows: batches of 4096, three epochs, a careful SGD."""
    x, y = cancer()
    i = keras.Input((30,))
    h = layers.Dense(32, activation="gelu")(i)
    o = layers.Dense(1, activation="sigmoid")(layers.Dropout(0.1)(h))
    model = keras.Model(i, o)
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "bce", metrics=["accuracy"])
    size, epochs = (16, 8) if mended else (4096, 3)
    by.fit(model, x, y, batch_size=size, epochs=epochs)
