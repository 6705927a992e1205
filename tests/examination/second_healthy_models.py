"""Right programs with unusual models and inputs: the second set."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.examination.tables import (
    churn,
    circles,
    houses,
    moons,
    motion,
    reviews,
    sales,
    tagged,
)
from tests.strangers.datasets import cancer, diabetes, digits, wine

SPARSE = "sparse_categorical_crossentropy"


@healthy
def reservoir_with_a_readout(by):
    """A random recurrent net that is never trained, and a linear readout that is."""
    x, y = sales()
    echo = layers.SimpleRNN(
        60,
        kernel_initializer=keras.initializers.RandomUniform(-0.5, 0.5),
        recurrent_initializer=keras.initializers.Orthogonal(gain=0.9),
        trainable=False,
    )
    m = keras.Sequential([keras.Input((14, 1)), echo, layers.Dense(1)])
    m.compile(keras.optimizers.Adam(0.02), "mse")
    by.fit(m, x, y, epochs=15, batch_size=32)


@healthy
def random_features(by):
    """A frozen random layer with cosines: a kernel machine."""
    x, y = circles()
    wide = layers.Dense(
        120,
        activation=lambda z: ops.cos(z),
        kernel_initializer=keras.initializers.RandomNormal(stddev=2.0),
        bias_initializer=keras.initializers.RandomUniform(0, 6.28),
        trainable=False,
    )
    m = keras.Sequential([keras.Input((2,)), wide, layers.Dense(1, activation="sigmoid")])
    m.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, x, y, epochs=15, batch_size=20)


@healthy
def pretrained_then_frozen(by):
    """A base learns digits up to 4, then only a head learns the others."""
    x, y = digits(600)
    base = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(16, 3, activation="relu"), layers.Flatten()]
    )
    first = keras.Sequential([base, layers.Dense(5, activation="softmax")])
    first.compile("adam", SPARSE)
    first.fit(x[y < 5], y[y < 5], epochs=5, verbose=0)
    base.trainable = False
    second = keras.Sequential([base, layers.Dropout(0.2), layers.Dense(5, activation="softmax")])
    second.compile(keras.optimizers.Adam(0.003), SPARSE, metrics=["accuracy"])
    by.fit(second, x[y > 4], y[y > 4] - 5, epochs=12, batch_size=24)


@healthy
def weights_from_another_net(by):
    """A hypernetwork: from one number it makes the weights of a regression."""
    rng = np.random.default_rng(81)
    task = rng.uniform(-1, 1, (500, 1)).astype("float32")
    x = rng.normal(size=(500, 3)).astype("float32")
    w = np.concatenate([np.sin(2 * task), task**2, 1 - task], axis=1)
    y = (w * x).sum(1).astype("float32") + rng.normal(0, 0.05, 500).astype("float32")

    class Hyper(keras.Model):
        def __init__(self):
            super().__init__()
            self.maker = keras.Sequential(
                [layers.Dense(24, activation="tanh"), layers.Dense(4, kernel_initializer="zeros")]
            )

        def call(self, inputs):
            made = self.maker(inputs["task"])
            return ops.sum(made[:, :3] * inputs["x"], axis=-1, keepdims=True) + made[:, 3:]

    m = Hyper()
    m.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(m, {"task": task, "x": x}, y, epochs=20, batch_size=25)


@healthy
def input_and_output_words_share(by):
    """Tied embeddings: the same matrix reads words and scores them."""
    rng = np.random.default_rng(82)
    follows = rng.permutation(24)
    ids = np.zeros((300, 9), dtype="int32")
    ids[:, 0] = rng.integers(0, 24, 300)
    for t in range(1, 9):
        stray = rng.random(300) < 0.1
        ids[:, t] = np.where(stray, rng.integers(0, 24, 300), follows[ids[:, t - 1]])

    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.words = layers.Embedding(24, 16, embeddings_initializer="glorot_normal")
            self.rnn = layers.GRU(16, return_sequences=True)

        def call(self, ids):
            h = self.rnn(self.words(ids))
            return ops.matmul(h, ops.transpose(self.words.embeddings))

    m = Tied()
    m.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(m, ids[:, :-1], ids[:, 1:], epochs=20, batch_size=30)


@healthy
def ragged_reviews_with_masks(by):
    """Sentences of 8 to 24 words, padded, and masked by the embedding."""
    ids, kind = reviews()
    m = keras.Sequential(
        [
            layers.Embedding(100, 12, mask_zero=True),
            layers.Bidirectional(layers.LSTM(8)),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    m.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, ids, kind, epochs=6, batch_size=30)


@healthy
def tagger_with_weights_of_places(by):
    """TimeDistributed, and sample weights of two axes for the padding."""
    ids, tags, mask = tagged()
    i = keras.Input((16,), dtype="int32")
    h = layers.Embedding(40, 12)(i)
    h = layers.Conv1D(24, 3, padding="same", activation="relu")(h)
    o = layers.TimeDistributed(layers.Dense(5, activation="softmax"))(h)
    m = keras.Model(i, o)
    m.compile(keras.optimizers.Adam(0.01), SPARSE, weighted_metrics=["accuracy"])
    by.fit(m, ids, tags, sample_weight=mask, epochs=10, batch_size=30)


@healthy
def columns_of_three_kinds(by):
    """Normalization, two embeddings of categories, and hashes, joined."""
    rng = np.random.default_rng(83)
    raw, price = houses(480)
    town = rng.integers(0, 12, 480).astype("int32")
    heating = rng.integers(0, 3, 480).astype("int32")
    price = price / 100 + 0.3 * np.sin(town) + 0.4 * (heating == 2)
    norm = layers.Normalization()
    norm.adapt(raw)
    a = keras.Input((4,), name="numbers")
    b = keras.Input((1,), dtype="int32", name="town")
    c = keras.Input((1,), dtype="int32", name="heating")
    e = [layers.Flatten()(layers.Embedding(n, 3)(z)) for n, z in ((12, b), (3, c))]
    h = layers.Dense(32, activation="relu")(layers.Concatenate()([norm(a), *e]))
    m = keras.Model([a, b, c], layers.Dense(1)(h))
    m.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    data = {"numbers": raw, "town": town[:, None], "heating": heating[:, None]}
    by.fit(m, data, price.astype("float32"), epochs=25, batch_size=24)


@healthy
def two_heads_two_losses(by):
    """One trunk; a class by cross entropy and an amount by squares, weighted."""
    x, y = wine()
    alcohol = x[:, :1]
    i = keras.Input((12,))
    t = layers.Dense(24, activation="relu")(i)
    m = keras.Model(
        i,
        {
            "kind": layers.Dense(3, "softmax", name="kind")(t),
            "alcohol": layers.Dense(1, name="alcohol")(t),
        },
    )
    m.compile(
        keras.optimizers.Adam(0.01),
        loss={"kind": SPARSE, "alcohol": "mse"},
        loss_weights={"kind": 1.0, "alcohol": 0.3},
        metrics={"kind": "accuracy"},
    )
    by.fit(m, x[:, 1:], {"kind": y, "alcohol": alcohol}, epochs=20, batch_size=16)


@healthy
def one_row_at_a_time(by):
    """Batches of one, plain gradient descent."""
    x, y = wine()
    m = keras.Sequential([layers.Dense(12, activation="tanh"), layers.Dense(3, "softmax")])
    m.compile(keras.optimizers.SGD(0.01), SPARSE, metrics=["accuracy"])
    by.fit(m, x[:90], y[:90], epochs=6, batch_size=1)


@healthy
def whole_batch_many_epochs(by):
    """All rows at once, three hundred times."""
    x, y = moons(200)
    m = keras.Sequential([layers.Dense(24, activation="tanh"), layers.Dense(1, "sigmoid")])
    m.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, x, y, epochs=300, batch_size=200)


@healthy
def self_normalizing_net(by):
    x, y = cancer()
    m = keras.Sequential([keras.Input((30,))])
    for _ in range(6):
        m.add(layers.Dense(24, activation="selu", kernel_initializer="lecun_normal"))
        m.add(layers.AlphaDropout(0.05))
    m.add(layers.Dense(1, activation="sigmoid"))
    m.compile(keras.optimizers.Adam(0.001), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, x, y, epochs=12, batch_size=32)


@healthy
def linear_model_by_design(by):
    """A linear regression of two linear layers: a low rank is wanted."""
    rng = np.random.default_rng(84)
    x = rng.normal(size=(400, 20)).astype("float32")
    y = x @ rng.normal(size=(20, 2)) @ rng.normal(size=(2, 10)) + rng.normal(0, 0.3, (400, 10))
    m = keras.Sequential([layers.Dense(2, use_bias=False, name="rank"), layers.Dense(10)])
    m.compile(keras.optimizers.Adam(0.02), "mse")
    by.fit(m, x, y.astype("float32"), epochs=30, batch_size=25)


@healthy
def gates_of_experts(by):
    """A mixture of experts whose gate is a softmax within the net."""
    x, y = circles()
    i = keras.Input((2,))
    gate = layers.Dense(4, activation="softmax")(i)
    experts = layers.Reshape((4, 8))(layers.Dense(32, activation="relu")(i))
    h = layers.Dot(axes=(1, 1))([gate, experts])
    m = keras.Model(i, layers.Dense(1, activation="sigmoid")(h))
    m.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, x, y, epochs=25, batch_size=20)


@healthy
def a_layer_called_three_times(by):
    """The same Dense is applied again and again, on purpose."""
    x, y = moons()

    class Repeated(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(16, activation="tanh")
            self.again = layers.Dense(16, activation="tanh")
            self.last = layers.Dense(1, activation="sigmoid")

        def call(self, x):
            h = self.first(x)
            for _ in range(3):
                h = h + self.again(h)
            return self.last(h)

    m = Repeated()
    m.compile(optimizer=keras.optimizers.Adam(0.005), loss="binary_crossentropy", metrics=["acc"])
    by.fit(m, x, y, epochs=20, batch_size=20)


@healthy
def noise_only_while_training(by):
    x, y = diabetes()
    m = keras.Sequential(
        [
            layers.GaussianNoise(0.3),
            layers.Dense(24, kernel_regularizer="l2", activation="relu"),
            layers.GaussianDropout(0.2),
            layers.Dense(1),
        ]
    )
    m.compile(keras.optimizers.Adam(0.005), "mse")
    by.fit(m, x, y, epochs=20, batch_size=26, validation_split=0.2)


@healthy
def network_of_a_graph(by):
    """A graph convolution over all nodes at once; labels are masked to those known."""
    rng = np.random.default_rng(85)
    kind = rng.integers(0, 3, 90)
    edge = rng.random((90, 90)) < np.where(kind[:, None] == kind, 0.15, 0.02)
    a = (edge | edge.T | np.eye(90, dtype=bool)).astype("float32")
    a = a / np.sqrt(a.sum(0)) / np.sqrt(a.sum(1))[:, None]
    x = (np.eye(3)[kind] + rng.normal(0, 1.2, (90, 3))).astype("float32")
    known = (rng.random(90) < 0.4).astype("float32")

    class Gcn(pg.Step):
        def __init__(self):
            self.one, self.two = layers.Dense(12), layers.Dense(3)
            self.one.build((None, 3))
            self.two.build((None, 12))
            self.adam = keras.optimizers.Adam(0.02)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            a, x, y, known = batch

            def objective():
                h = ops.relu(ops.matmul(a, self.one(x)))
                z = ops.matmul(a, self.two(h))
                each = ops.sparse_categorical_crossentropy(y, z, from_logits=True)
                return ops.sum(each * known) / ops.sum(known), z

            both = self.one.trainable_variables + self.two.trainable_variables
            loss, z = self.minimize(objective, self.adam, both)
            self.acc.update_state(y, z, sample_weight=known)
            return {"loss": loss}

    graph = (a, x, kind.astype("int32"), known)
    by.fit(Gcn(), graph, epochs=60, batch_size=90, shuffle=False)


@healthy
def sets_of_points(by):
    """A deep set: sum over the members, whatever their order."""
    rng = np.random.default_rng(86)
    sets = rng.normal(size=(400, 12, 2)).astype("float32")
    spread = sets.std(axis=1).mean(axis=1)
    i = keras.Input((12, 2))
    h = layers.Dense(24, activation="relu")(i)
    h = layers.Lambda(lambda z: ops.mean(z, axis=1))(h)
    m = keras.Model(i, layers.Dense(1)(layers.Dense(16, activation="relu")(h)))
    m.compile(keras.optimizers.Adam(0.01), "mse")
    by.fit(m, sets, spread, epochs=20, batch_size=25)


@healthy
def batches_of_a_pydataset(by):
    """A PyDataset that draws its rows with replacement."""
    ids, kind = reviews()

    class Draws(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(87)

        def __len__(self):
            return 12

        def __getitem__(self, k):
            rows = self.rng.integers(0, 360, 30)
            return ids[rows], kind[rows].astype("float32")[:, None]

    m = keras.Sequential(
        [layers.Embedding(100, 12), layers.GlobalAveragePooling1D(), layers.Dense(1, "sigmoid")]
    )
    m.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, Draws(), epochs=8)


@healthy
def attention_over_steps(by):
    """Positions that are learned from zero, and one block of attention."""
    x, y = motion()

    class Positions(layers.Layer):
        def build(self, shape):
            self.p = self.add_weight(shape=shape[1:], initializer="zeros", name="p")

        def call(self, x):
            return x + self.p

    i = keras.Input((24, 3))
    h = Positions()(layers.Dense(16)(i))
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 8)(h, h))
    h = layers.GlobalAveragePooling1D()(layers.Dense(16, activation="gelu")(h))
    m = keras.Model(i, layers.Dense(3, activation="softmax")(h))
    m.compile(keras.optimizers.Adam(0.005), SPARSE, metrics=["accuracy"])
    by.fit(m, x, y, epochs=12, batch_size=25)


@healthy
def residual_branches_that_begin_at_zero(by):
    """ReZero: each branch is multiplied by a weight that begins at zero."""
    x, y = churn()

    class ReZero(layers.Layer):
        def build(self, shape):
            self.inner = layers.Dense(shape[-1], activation="relu")
            self.inner.build(shape)
            self.alpha = self.add_weight(shape=(), initializer="zeros", name="alpha")

        def call(self, x):
            return x + self.alpha * self.inner(x)

    m = keras.Sequential(
        [layers.Dense(24), *(ReZero() for _ in range(4)), layers.Dense(1, "sigmoid")]
    )
    m.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, x, y, epochs=20, batch_size=25)
