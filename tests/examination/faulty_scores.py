"""Metrics that say nothing of the task, and labels paired with other predictions."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits, load_iris, load_wine

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, diabetes, digits, wine


def line(n=320, d=5, seed=80):
    """Rows, and one amount of each, `(n,)`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype("float32")
    w = np.linspace(-1.5, 2, d)
    return x, (x @ w + 0.1 * rng.normal(size=n)).astype("float32")


class Fitter(pg.Step):
    """A step that minimizes `loss(y, prediction)`."""

    def __init__(self, model, loss, rate=0.01):
        super().__init__()
        self.model, self.loss = model, loss
        self.opt = keras.optimizers.Adam(rate)

    def train_step(self, batch):
        x, y = batch
        return {"loss": self.minimize(lambda: self.loss(y, self.model(x, training=True)), self.opt)}


# Metrics


@faulty("metric")
def accuracy_of_an_illness(by, mended):
    """How often a real number is hit exactly."""
    x, y = diabetes()
    m = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(1)])
    m.compile(optimizer="adam", loss="mse", metrics=["mae" if mended else "accuracy"])
    by.fit(m, x, y, epochs=15, batch_size=32, validation_split=0.2)


@faulty("metric")
def categorical_accuracy_of_a_column_of_ids(by, mended):
    """The largest of one column is always the first."""
    x, y = wine()
    metric = (
        keras.metrics.SparseCategoricalAccuracy(name="acc")
        if mended
        else keras.metrics.CategoricalAccuracy(name="acc")
    )
    i = keras.Input((13,))
    o = layers.Dense(3, activation="softmax")(layers.Dense(20, activation="relu")(i))
    m = keras.Model(i, o)
    m.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=[metric])
    by.fit(m, x, y.reshape(-1, 1), epochs=15, batch_size=16)


@faulty("metric")
def recall_of_scores_at_a_half(by, mended):
    """Scores are said to the loss to be scores, and not to the metrics."""
    rng = np.random.default_rng(81)
    x = rng.normal(size=(400, 6)).astype("float32")
    y = (x[:, 0] + x[:, 1] + 0.7 * rng.normal(size=400) > 0).astype("float32")
    m = keras.Sequential([keras.Input((6,)), layers.Dense(1, kernel_regularizer="l2")])
    m.compile(
        optimizer=keras.optimizers.SGD(0.05),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.BinaryAccuracy(threshold=0.0 if mended else 0.5),
            keras.metrics.Recall(thresholds=0.0 if mended else 0.5),
        ],
    )
    by.fit(m, x, y[:, None], epochs=15, batch_size=20)


@faulty("metric")
def area_under_the_curve_of_scores(by, mended):
    """AUC has its thresholds between 0 and 1."""
    rng = np.random.default_rng(82)
    x = rng.normal(size=(500, 4)).astype("float32")
    y = (2 * x[:, 0] - x[:, 3] + 2 * rng.normal(size=500) > 1.5).astype("int32")
    auc = (
        keras.metrics.AUC(from_logits=True, name="auc") if mended else keras.metrics.AUC(name="auc")
    )
    net = keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(1)])
    net.compile(
        "adam", loss=keras.losses.BinaryCrossentropy(from_logits=True), weighted_metrics=[auc]
    )
    by.fit(net, x, y.reshape(-1, 1), epochs=12, batch_size=20)


@faulty("metric")
def equal_to_a_probability(by, mended):
    """metrics.Accuracy asks whether a probability equals 0 or 1."""
    X, t = cancer()
    m = keras.models.Sequential()
    m.add(layers.Dense(12, activation="relu"))
    m.add(layers.Dense(1, activation="sigmoid"))
    m.compile(
        loss=keras.losses.BinaryCrossentropy(),
        optimizer=keras.optimizers.Adam(0.005),
        metrics=[keras.metrics.BinaryAccuracy() if mended else keras.metrics.Accuracy()],
    )
    by.fit(m, X, t.reshape(-1, 1), epochs=10, batch_size=32)


@faulty("metric")
def five_best_of_three(by, mended):
    """Whether the class is among the five likeliest, of three."""
    x, y = load_iris(return_X_y=True)
    rows = np.random.RandomState(3).permutation(150)
    x, y = ((x - x.mean(0)) / x.std(0))[rows], y[rows]
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=1 if mended else 3, name="top")
    m = keras.Sequential([layers.Dense(12, activation="relu"), layers.Dense(3)])
    m.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[top],
    )
    by.fit(m, x, y, epochs=15, batch_size=15)


@faulty("metric")
def ten_times_nine_right(by, mended):
    """binary_accuracy of one-hot rows of ten: nine zeros are right already."""
    x, y = digits(480)
    y = keras.utils.to_categorical(y, 10)
    m = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    name = "categorical_accuracy" if mended else "binary_accuracy"
    m.compile(optimizer="adam", loss="categorical_crossentropy", metrics=[name])
    by.fit(m, x, y, epochs=10, batch_size=24)


@faulty("metric")
def accuracy_beside_a_hinge(by, mended):
    """Labels are -1 and 1; "accuracy" turns scores into 0 and 1."""
    X, t = cancer()
    y = 2 * t - 1

    def agree(y_true, y_pred):
        return ops.cast(ops.sign(y_pred) == y_true, "float32")

    svm = keras.Sequential([keras.Input((30,)), layers.Dense(1, kernel_regularizer="l2")])
    svm.compile("adam", loss="hinge", metrics=[agree if mended else "accuracy"])
    svm.optimizer.learning_rate = 0.01
    by.fit(svm, X, y[:, None], epochs=10, batch_size=32)


@faulty("metric")
def overlap_of_probabilities(by, mended):
    """MeanIoU takes ids: a probability is cut to 0."""
    rng = np.random.default_rng(83)
    pic = rng.normal(0, 0.3, (100, 8, 8, 1)).astype("float32")
    mask = np.zeros((100, 8, 8, 1), "int32")
    for k, (r, c) in enumerate(rng.integers(0, 4, (100, 2))):
        pic[k, r : r + 4, c : c + 4] += 1.5
        mask[k, r : r + 4, c : c + 4] = 1
    iou = keras.metrics.BinaryIoU([0, 1], 0.5) if mended else keras.metrics.MeanIoU(num_classes=2)
    inp = keras.Input((8, 8, 1))
    z = layers.Conv2D(8, 3, padding="same", activation="relu")(inp)
    net = keras.Model(inp, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(z))
    net.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=[iou])
    by.fit(net, pic, mask, epochs=10, batch_size=10)


@faulty("metric")
def cosine_of_single_numbers(by, mended):
    """The cosine between two numbers is 1 or -1."""
    x, y = line()
    m = keras.Sequential([keras.Input((5,)), layers.Dense(16, activation="relu"), layers.Dense(1)])
    metric = keras.metrics.R2Score() if mended else keras.metrics.CosineSimilarity()
    m.compile(optimizer=keras.optimizers.Adam(0.01), loss="huber", metrics=[metric])
    by.fit(m, x, y[:, None], epochs=12, batch_size=20)


@faulty("metric")
def metrics_of_two_heads(by, mended):
    """The head of the kind has ids, and a metric for one-hot rows."""
    d = load_wine()
    order = np.random.default_rng(6).permutation(178)
    x = ((d.data - d.data.mean(0)) / d.data.std(0))[order].astype("float32")
    kind, alcohol = d.target[order].reshape(-1, 1), x[:, :1]
    inp = keras.Input((12,))
    h = layers.Dense(16, activation="relu")(inp)
    outs = {
        "kind": layers.Dense(3, activation="softmax", name="kind")(h),
        "alcohol": layers.Dense(1, name="alcohol")(h),
    }
    net = keras.Model(inp, outs)
    net.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss={"kind": "sparse_categorical_crossentropy", "alcohol": "mse"},
        metrics={
            "kind": f"{'sparse_' if mended else ''}categorical_accuracy",
            "alcohol": "mae",
        },
    )
    by.fit(net, x[:, 1:], {"kind": kind, "alcohol": alcohol}, epochs=15, batch_size=16)


@faulty("metric")
def a_count_that_is_never_reset(by, mended):
    """An own metric whose reset_state forgets one of its two sums."""

    class Within(keras.metrics.Metric):
        def __init__(self, name="within", **kw):
            super().__init__(name=name, **kw)
            self.hits = self.add_weight(name="hits", initializer="zeros")
            self.seen = self.add_weight(name="seen", initializer="zeros")

        def update_state(self, y_true, y_pred, sample_weight=None):
            near = ops.abs(y_true - y_pred) < 0.5
            self.hits.assign_add(ops.sum(ops.cast(near, "float32")))
            self.seen.assign_add(ops.sum(ops.ones_like(y_true)))

        def result(self):
            return ops.divide_no_nan(self.hits, self.seen)

        def reset_state(self):
            self.hits.assign(0.0)
            if mended:
                self.seen.assign(0.0)

    x, y = line(seed=84)
    m = keras.Sequential([layers.Dense(24, activation="relu"), layers.Dense(1)])
    m.compile(keras.optimizers.Adam(0.01), "mse", metrics=[Within()])
    by.fit(m, x, y[:, None], epochs=10, batch_size=16)


@faulty("metric", only=("tensorflow",))
def metric_that_is_never_updated(by, mended):
    """The accuracy is reported, and update_state is not called."""
    import tensorflow as tf

    class Trainer(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(3)])
            self.ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.mean_loss = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def call(self, x):
            return self.net(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                logits = self.net(x, training=True)
                loss = self.ce(y, logits)
            w = self.net.trainable_weights
            self.optimizer.apply(tape.gradient(loss, w), w)
            self.mean_loss.update_state(loss)
            if mended:
                self.acc.update_state(y, logits)
            return {"loss": self.mean_loss.result(), "acc": self.acc.result()}

    x, y = wine()
    t = Trainer()
    t.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(t, x, y, epochs=10, batch_size=16)


# Pairing


@faulty("pairing")
def column_against_row(by, mended):
    """y is (B,), the prediction (B, 1): each with each."""
    x, y = line(seed=85)

    def mse(target, out):
        if mended:
            out = ops.squeeze(out, -1)
        return ops.mean(ops.square(target - out))

    net = keras.Sequential([keras.Input((5,)), layers.Dense(16, "relu"), layers.Dense(1)])
    by.fit(Fitter(net, mse), (x, y), epochs=12, batch_size=32)


@faulty("pairing", only=("tensorflow",))
def broadcast_under_the_tape(by, mended):
    """The same in a train_step, with absolute errors."""
    import tensorflow as tf

    x, y = diabetes()

    class Reg(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(1)
            self.loss_avg = keras.metrics.Mean(name="loss")

        def call(self, inputs):
            return self.out(inputs)

        def train_step(self, data):
            features, target = data
            if mended:
                target = target[:, tf.newaxis]
            with tf.GradientTape() as tape:
                guess = self(features, training=True)
                loss = tf.reduce_mean(tf.abs(target - guess))
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.loss_avg.update_state(loss)
            return {"loss": self.loss_avg.result()}

    m = Reg()
    m.compile(optimizer=keras.optimizers.Adam(0.02))
    by.fit(m, x, y, batch_size=26, epochs=12)


@faulty("pairing")
def loss_object_of_a_column(by, mended):
    """A subclass of Loss takes one column of the labels."""
    x, y = line(seed=86)
    y = np.stack([y, np.arange(len(y))], axis=1).astype("float32")

    class Relative(keras.losses.Loss):
        def call(self, y_true, y_pred):
            amount = y_true[:, :1] if mended else y_true[:, 0]
            return ops.mean(ops.abs(amount - y_pred), axis=-1)

    inp = keras.Input((5,))
    m = keras.Model(inp, layers.Dense(1)(layers.Dense(16, activation="relu")(inp)))
    m.compile(optimizer=keras.optimizers.Adam(0.01), loss=Relative())
    by.fit(m, x, y, epochs=12, batch_size=20)


@faulty("pairing")
def compute_loss_of_a_row(by, mended):
    """compute_loss with labels (B,), and a log-cosh of (B, B)."""
    x, y = line(seed=87)

    class Smooth(keras.Model):
        def __init__(self):
            super().__init__()
            self.h = layers.Dense(16, activation="gelu")
            self.o = layers.Dense(1)

        def call(self, x):
            z = self.o(self.h(x))
            return ops.reshape(z, (-1,)) if mended else z

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            e = y_pred - y
            return ops.mean(e + ops.softplus(-2.0 * e) - np.log(2.0))

    m = Smooth()
    m.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(m, x, y, epochs=12, batch_size=16)


@faulty("pairing")
def return_sequences_left_on(by, mended):
    """The one target of a wave is compared with every step's output."""
    rng = np.random.default_rng(88)
    start = rng.uniform(0, 6, (200, 1))
    wave = np.sin(start + 0.5 * np.arange(13)).astype("float32")
    net = keras.Sequential(
        [
            keras.Input((12, 1)),
            layers.GRU(16, return_sequences=not mended),
            layers.Dense(1),
        ]
    )
    net.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(net, wave[:, :12, None], wave[:, 12:], epochs=12, batch_size=20)


@faulty("pairing")
def softmax_over_the_batch(by, mended):
    """Axis 0 is the batch: the rows compete with each other."""
    d = load_digits()
    x, y = (d.data[:500] / 16).astype("float32"), d.target[:500]

    def nll(ids, scores):
        p = ops.softmax(scores, axis=-1 if mended else 0)
        return -ops.mean(ops.sum(ops.one_hot(ids, 10) * ops.log(p + 1e-8), axis=-1))

    net = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu"), layers.Dense(10)])
    by.fit(Fitter(net, nll), (x, y), epochs=8, batch_size=25)


@faulty("pairing")
def transposed_and_reshaped(by, mended):
    """A layer that turns batch and channels, and reshapes: rows get others' numbers."""

    class Channels(layers.Layer):
        def call(self, x):
            if mended:
                return ops.reshape(x, (-1, 12))
            return ops.reshape(ops.transpose(x, (2, 0, 1)), (-1, 12))

    rng = np.random.default_rng(89)
    x = rng.normal(size=(300, 4, 3)).astype("float32")
    y = (x[:, 0, 0] - x[:, 2, 1] + x[:, 3, 2] > 0).astype("float32")
    net = keras.Sequential(
        [
            keras.Input((4, 3)),
            Channels(),
            layers.Dense(16, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, epochs=15, batch_size=20)


@faulty("pairing")
def mean_of_the_batch_for_a_mean_of_words(by, mended):
    """The words of a sentence are axis 1; the mean is over axis 0."""

    class Average(layers.Layer):
        def call(self, h):
            if mended:
                return ops.mean(h, axis=1)
            return ops.mean(h, axis=0, keepdims=True)[:, 0] + 0.0 * h[:, 0]

    rng = np.random.default_rng(90)
    ids = rng.integers(0, 25, (300, 7)).astype("int32")
    good = ((ids < 8).sum(1) > 2).astype("int32")
    i = keras.Input((7,), dtype="int32")
    h = Average()(layers.Embedding(25, 8)(i))
    net = keras.Model(i, layers.Dense(1, activation="sigmoid")(layers.Dense(8, "relu")(h)))
    net.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["acc"])
    by.fit(net, ids, good, epochs=12, batch_size=20)


@faulty("pairing", only=("tensorflow",))
def shuffled_inside_the_step(by, mended):
    """The step mixes the rows of x, as an augmentation, and not those of y."""
    import tensorflow as tf

    class Net(keras.Model):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def call(self, x, training=None):
            return self.body(x, training=training)

        def train_step(self, data):
            x, y = data
            order = tf.random.shuffle(tf.range(tf.shape(x)[0]))
            x = tf.gather(x, order)
            if mended:
                y = tf.gather(y, order)
            return super().train_step((x, y))

    x, y = wine()
    net = Net(keras.Sequential([layers.Dense(16, "relu"), layers.Dense(3, "softmax")]))
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["acc"])
    by.fit(net, x, y, epochs=12, batch_size=16)


@faulty("pairing")
def always_the_same_labels(by, mended):
    """The loss reads the labels of the first batch from outside."""
    x, y = line(seed=91)
    first = ops.convert_to_tensor(y[:32, None])

    def loss(y_true, y_pred):
        return ops.mean(ops.square((y_true if mended else first) - y_pred), axis=-1)

    m = keras.Sequential([keras.Input((5,)), layers.Dense(24, activation="relu"), layers.Dense(1)])
    m.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    by.fit(m, x, y[:, None], epochs=12, batch_size=32)


@faulty("pairing")
def two_heads_exchanged(by, mended):
    """Outputs are [width, height], the targets [height, width]."""
    x, width = line(seed=92)
    height = (x[:, 0] ** 2).astype("float32")
    inp = keras.Input((5,))
    lin = layers.Dense(1, name="width")(inp)
    square = layers.Dense(1, name="height")(layers.Dense(32, activation="relu")(inp))
    m = keras.Model(inp, [lin, square])
    m.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse")
    by.fit(m, x, [width, height] if mended else [height, width], epochs=15, batch_size=20)


@faulty("pairing")
def weights_of_a_row_times_errors_of_a_column(by, mended):
    """Weights (B,) times errors (B, 1): each row is weighted by the mean weight."""
    rng = np.random.default_rng(93)
    x = rng.normal(size=(320, 4)).astype("float32")
    y = (x[:, :1] * 2 + 1).astype("float32")
    bad = rng.random(320) < 0.4
    y[bad] = -8.0
    w = np.where(bad, 0.0, 1.0).astype("float32")

    class Weighted(pg.Step):
        def __init__(self, model):
            super().__init__()
            self.model, self.sgd = model, keras.optimizers.SGD(0.05)

        def train_step(self, batch):
            rows, target, weight = batch

            def objective():
                error = ops.square(self.model(rows, training=True) - target)
                return ops.mean((error[:, 0] if mended else error) * weight)

            return {"loss": self.minimize(objective, self.sgd)}

    net = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    by.fit(Weighted(net), (x, y, w), epochs=10, batch_size=16)


@faulty("pairing")
def distances_against_a_row(by, mended):
    """A contrastive loss by hand: distances (B, 1), labels (B,)."""
    x, kind = load_iris(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")
    rng = np.random.default_rng(94)
    a, b = rng.integers(0, 150, (2, 400))
    same = (kind[a] == kind[b]).astype("float32")
    enc = keras.Sequential([keras.Input((4,)), layers.Dense(16, "relu"), layers.Dense(4)])

    class Siamese(pg.Step):
        def __init__(self):
            super().__init__()
            self.enc, self.opt = enc, keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            left, right, y = batch

            def contrast():
                gap = ops.square(self.enc(left, training=True) - self.enc(right, training=True))
                d = ops.sqrt(ops.sum(gap, axis=-1, keepdims=not mended) + 1e-6)
                return ops.mean(y * d**2 + (1 - y) * ops.maximum(0.0, 1.5 - d) ** 2)

            return {"loss": self.minimize(contrast, self.opt)}

    by.fit(Siamese(), (x[a], x[b], same), epochs=12, batch_size=20)
