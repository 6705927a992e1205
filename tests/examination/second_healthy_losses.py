"""Right programs with unusual heads, losses and labels: the second set."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_linnerud

import perigee as pg
from tests.examination.programs import healthy
from tests.examination.tables import (
    churn,
    houses_scaled,
    iris_scaled,
    moons,
    motion,
    ratings,
    sales,
    scenes,
    topics,
)
from tests.strangers.datasets import cancer, diabetes, digits, wine

SPARSE = "sparse_categorical_crossentropy"


class Fits(pg.Step):
    """Fits a model by a loss of (y, model(x))."""

    def __init__(self, model, loss, optimizer=None):
        self.model, self.loss = model, loss
        self.optimizer = optimizer or keras.optimizers.Adam(0.005)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: self.loss(y, self.model(x, training=True))
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def mlp(*units, act="relu"):
    *hidden, last = units
    return keras.Sequential(
        [*(layers.Dense(u, activation=act) for u in hidden), layers.Dense(last)]
    )


@healthy
def zero_head_of_a_classifier(by):
    x, y = digits(400)
    model = keras.Sequential(
        [
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, kernel_initializer="zeros", activation="softmax"),
        ]
    )
    model.compile("adam", SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=25)


@healthy
def sum_with_a_small_rate(by):
    """The loss is a sum, and the rate is meant for sums."""
    x, y = diabetes()
    loss = keras.losses.MeanSquaredError(reduction="sum")
    model = keras.Sequential([layers.Dense(16, activation="tanh"), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0005), loss, metrics=["mae"])
    by.fit(model, x, y, epochs=20, batch_size=32)


@healthy
def likelihood_below_zero(by):
    """The density of a narrow normal is above one."""
    rng = np.random.default_rng(71)
    t = rng.uniform(-2, 2, (400, 1)).astype("float32")
    y = (0.3 * np.sin(2 * t) + 0.02 * (1 + np.abs(t)) * rng.normal(size=t.shape)).astype("float32")

    def nll(y, out):
        mu, log_s = out[:, :1], out[:, 1:]
        return ops.mean(log_s + 0.5 * ops.square((y - mu) * ops.exp(-log_s)), axis=-1)

    m = mlp(32, 32, 2, act="tanh")
    m.compile(keras.optimizers.Adam(0.005), loss=nll)
    by.fit(m, t, y, epochs=30, batch_size=32)


@healthy
def mixture_density(by):
    """Three normals for a curve that comes back over itself."""
    rng = np.random.default_rng(72)
    y = rng.uniform(-1, 1, (480, 1))
    x = y + 0.3 * np.sin(2 * np.pi * y) + rng.normal(0, 0.05, y.shape)

    def loss(y, out):
        logit, mu, log_s = ops.split(out, 3, axis=-1)
        each = -0.5 * ops.square((y - mu) / ops.exp(log_s)) - log_s - 0.919
        return -ops.logsumexp(ops.log_softmax(logit, axis=-1) + each, axis=-1)

    data = (x.astype("float32"), y.astype("float32"))
    by.fit(Fits(mlp(32, 32, 9, act="tanh"), loss), data, epochs=40, batch_size=48)


@healthy
def three_quantiles(by):
    x, price = houses_scaled()
    q = np.array([0.1, 0.5, 0.9], dtype="float32")

    def pinball(y_true, y_pred):
        off = y_true - y_pred
        return ops.mean(ops.maximum(q * off, (q - 1) * off), axis=-1)

    i = keras.Input((4,), name="house")
    m = keras.Model(i, layers.Dense(3)(layers.Dense(32, activation="relu")(i)))
    m.compile(keras.optimizers.Adam(0.01), loss=pinball)
    by.fit(m, {"house": x}, np.repeat(price[:, None], 3, axis=1), epochs=20, batch_size=25)


@healthy
def ordinal_stars(by):
    """Is it more than 1, more than 2, ...: cumulative labels, weights shared by all thresholds."""
    x, y = houses_scaled()
    grade = np.digitize(y, np.quantile(y, [0.2, 0.4, 0.6, 0.8]))
    target = (grade[:, None] > np.arange(4)).astype("float32")

    class Thresholds(layers.Layer):
        def build(self, shape):
            first = keras.initializers.Constant([1.5, 0.5, -0.5, -1.5])
            self.cuts = self.add_weight(shape=(4,), initializer=first, name="cuts")

        def call(self, score):
            return score + self.cuts

    model = keras.Sequential(
        [layers.Dense(16, activation="relu"), layers.Dense(1, use_bias=False), Thresholds()]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    by.fit(model, x, target, epochs=25, batch_size=25)


@healthy
def smoothed_labels(by):
    x, y = wine()
    model = mlp(24, 3, act="silu")
    model.compile(
        keras.optimizers.AdamW(0.01),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        metrics=["accuracy"],
    )
    by.fit(model, x, keras.utils.to_categorical(y, 3), epochs=15, batch_size=16)


@healthy
def rare_cases_by_focal_loss(by):
    x, y = churn()
    rare = ((y == 1) & (x[:, 4] > 0.8)).astype("float32")
    model = keras.Sequential([layers.Dense(24, activation="relu"), layers.Dense(1, "sigmoid")])
    model.compile(
        "adam",
        keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.8),
        metrics=[keras.metrics.AUC(curve="PR", name="pr")],
    )
    by.fit(model, x, rare, epochs=20, batch_size=25)


@healthy
def class_weights_of_the_rare(by):
    x, y = cancer()
    few = np.concatenate([np.flatnonzero(y == 1), np.flatnonzero(y == 0)[:40]])
    few = np.random.default_rng(73).permutation(few)
    x, y = x[few], y[few]
    model = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(0.005), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=32, class_weight={0: 4.5, 1: 0.6})


@healthy
def recent_days_weigh_more(by):
    x, y = sales()
    weight = np.linspace(0.1, 1.9, len(x)).astype("float32")
    m = keras.Sequential([keras.Input((14, 1)), layers.GRU(12), layers.Dense(1)])
    m.compile(keras.optimizers.Adam(0.01), "mse", weighted_metrics=["mae"])
    by.fit(m, x, y, sample_weight=weight, epochs=10, batch_size=32)


@healthy
def survival_by_partial_likelihood(by):
    """Cox: each patient is compared with those of the batch who are still at risk."""
    rng = np.random.default_rng(74)
    x = rng.normal(size=(480, 6)).astype("float32")
    time = rng.exponential(np.exp(-(x[:, 0] - 0.7 * x[:, 1])))
    censor = rng.exponential(2.0, 480)
    seen = (time < censor).astype("float32")
    time = np.minimum(time, censor).astype("float32")

    class Cox(pg.Step):
        def __init__(self):
            self.risk, self.adam = mlp(16, 1, act="tanh"), keras.optimizers.Adam(0.005)

        def train_step(self, batch):
            x, time, seen = batch
            at_risk = ops.cast(time[None, :] >= time[:, None], "float32")

            def objective():
                r = self.risk(x, training=True)[:, 0]
                total = ops.log(ops.sum(at_risk * ops.exp(r)[None, :], axis=1))
                return -ops.sum(seen * (r - total)) / (ops.sum(seen) + 1e-6)

            return {"loss": self.minimize(objective, self.adam, self.risk)}

    by.fit(Cox(), (x, time, seen), epochs=20, batch_size=60)


@healthy
def counts_by_poisson(by):
    rng = np.random.default_rng(75)
    x = rng.normal(size=(400, 5)).astype("float32")
    n = rng.poisson(np.exp(0.5 + x[:, 0] - 0.5 * x[:, 1])).astype("float32")
    m = keras.Sequential(
        [layers.Dense(16, activation="relu"), layers.Dense(1, activation="exponential")]
    )
    m.compile(keras.optimizers.Adam(0.005), loss="poisson", metrics=["mae"])
    by.fit(m, x, n, epochs=20, batch_size=25)


@healthy
def margins_of_triplets(by):
    """Metric learning with a margin; many triplets cost nothing in the end."""
    x, y = iris_scaled()
    rng = np.random.default_rng(76)
    near = np.array([rng.choice(np.flatnonzero(y == c)) for c in y])
    far = np.array([rng.choice(np.flatnonzero(y != c)) for c in y])

    class Triplets(pg.Step):
        def __init__(self, net):
            self.net, self.adam = net, keras.optimizers.Adam(0.005)
            self.active = keras.metrics.Mean(name="active")

        def train_step(self, batch):
            def objective():
                a, p, n = (self.net(part, training=True) for part in batch)
                d = ops.sum((a - p) ** 2, axis=-1) - ops.sum((a - n) ** 2, axis=-1)
                return ops.relu(d + 0.5), d

            loss, d = self.minimize(objective, self.adam, self.net)
            self.active.update_state(ops.cast(d > -0.5, "float32"))
            return {"loss": ops.mean(loss)}

    net = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(4)])
    by.fit(Triplets(net), (x, x[near], x[far]), epochs=25, batch_size=15)


@healthy
def pairs_in_the_batch(by):
    """InfoNCE of two views: the other rows of the batch are what is not alike."""
    x = digits(400)[0].reshape(-1, 64)

    class Contrast(pg.Step):
        def __init__(self):
            self.net, self.adam = mlp(48, 16), keras.optimizers.Adam(0.003)
            self.seed = keras.random.SeedGenerator(2)

        def view(self, x):
            kept = keras.random.uniform(ops.shape(x), seed=self.seed) > 0.2
            return x * ops.cast(kept, x.dtype)

        def train_step(self, x):
            one, two = self.view(x), self.view(x)

            def objective():
                a = ops.normalize(self.net(one, training=True), axis=-1)
                b = ops.normalize(self.net(two, training=True), axis=-1)
                alike = ops.matmul(a, ops.transpose(b)) / 0.2
                mine = ops.arange(ops.shape(x)[0])
                return ops.sparse_categorical_crossentropy(mine, alike, from_logits=True)

            return {"loss": ops.mean(self.minimize(objective, self.adam, self.net))}

    by.fit(Contrast(), x, epochs=12, batch_size=40)


@healthy
def siamese_distances(by):
    """Are two digits the same? One network for both images."""
    x, y = digits(500)
    rng = np.random.default_rng(77)
    i, j = rng.integers(0, 500, (2, 600))
    same = np.array([rng.choice(np.flatnonzero(y == y[k])) for k in i])
    j = np.where(rng.random(600) < 0.5, same, j)
    alike = (y[i] == y[j]).astype("float32")
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    tower = keras.Sequential([layers.Flatten(), layers.Dense(48, "relu"), layers.Dense(16)])
    far = layers.Lambda(lambda p: ops.norm(p[0] - p[1] + 1e-4, axis=-1, keepdims=True))
    model = keras.Model([a, b], far([tower(a), tower(b)]))

    def contrastive(y, d):
        return ops.mean(y * ops.square(d) + (1 - y) * ops.square(ops.maximum(1.0 - d, 0.0)))

    model.compile(keras.optimizers.Adam(0.002), loss=contrastive)
    by.fit(model, [x[i], x[j]], alike[:, None], epochs=15, batch_size=30)


@healthy
def angles_as_sine_and_cosine(by):
    """Two outputs on the unit circle."""
    x, _ = sales()
    phase = (np.arange(len(x)) % 7) * 2 * np.pi / 7
    target = np.stack([np.sin(phase), np.cos(phase)], axis=1).astype("float32")
    m = keras.Sequential(
        [layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(2), layers.UnitNormalization()]
    )
    m.compile("adam", loss="cosine_similarity")
    by.fit(m, x, target, epochs=15, batch_size=32)


@healthy
def expectile_of_squares(by):
    """Squared labels, and a softplus for amounts that are never negative."""
    x, y = diabetes()
    m = keras.Sequential(
        [layers.Dense(24, activation="relu"), layers.Dense(1, activation="softplus")]
    )

    def asymmetric(y, p):
        off = y - p
        return ops.mean(ops.where(off > 0, 0.7, 0.3) * ops.square(off), axis=-1)

    m.compile(keras.optimizers.Adam(0.005), asymmetric)
    by.fit(m, x, np.square(y)[:, None], epochs=20, batch_size=26)


@healthy
def hinge_of_signs(by):
    """Labels of -1 and 1 for the hinge, and tanh in the last layer."""
    x, y = moons()
    m = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1, activation="tanh")])
    m.compile(keras.optimizers.Adam(0.01), "squared_hinge")
    by.fit(m, x, 2 * y - 1, epochs=20, batch_size=20)


@healthy
def soft_labels_of_raters(by):
    """Shares of raters, not classes: the cross entropy stays far above zero."""
    rng = np.random.default_rng(78)
    x = rng.normal(size=(400, 6)).astype("float32")
    z = 0.8 * x @ rng.normal(size=(6, 4))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    votes = np.stack([rng.multinomial(10, row) for row in p]) / 10
    m = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(4, "softmax")])
    m.compile("adam", "categorical_crossentropy", metrics=["kl_divergence"])
    by.fit(m, x, votes.astype("float32"), epochs=20, batch_size=25)


@healthy
def brier_score_of_classes(by):
    """Squared error of probabilities is a proper score."""
    x, y = wine()
    m = keras.Sequential([layers.Dense(24, activation="relu"), layers.Dense(3, "softmax")])
    m.compile(keras.optimizers.Adam(0.01), "mse", metrics=["categorical_accuracy"])
    by.fit(m, x, keras.utils.to_categorical(y), epochs=20, batch_size=16)


@healthy
def tags_that_occur_together(by):
    x, y = topics()
    weight = 1.0 + y.mean(axis=0)

    def weighted(y_true, z):
        each = ops.softplus(z) - y_true * z
        return ops.mean(each * weight, axis=-1)

    m = mlp(32, 5, act="selu")
    m.compile(
        "adam",
        weighted,
        metrics=[keras.metrics.AUC(multi_label=True, num_labels=5, from_logits=True)],
    )
    by.fit(m, x, y, epochs=15, batch_size=32)


@healthy
def stars_of_users_and_films(by):
    """Embeddings and their product, with biases that begin at zero."""
    u, f, stars = ratings()
    a, b = keras.Input((), dtype="int32", name="u"), keras.Input((), dtype="int32", name="f")
    product = layers.Dot(axes=1)([layers.Embedding(40, 4)(a), layers.Embedding(30, 4)(b)])
    bias = [
        layers.Embedding(40, 1, embeddings_initializer="zeros")(a),
        layers.Embedding(30, 1, embeddings_initializer="zeros")(b),
    ]
    m = keras.Model([a, b], layers.Rescaling(1.0, offset=3.0)(layers.Add()([product, *bias])))
    m.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    by.fit(m, {"u": u, "f": f}, stars, epochs=25, batch_size=32)


@healthy
def ranks_of_pairs(by):
    """RankNet: one net scores both sides, and only the difference counts."""
    x, price = houses_scaled()
    rng = np.random.default_rng(79)
    i, j = rng.integers(0, 400, (2, 600))
    first = (price[i] > price[j]).astype("float32")

    class Rank(pg.Step):
        def __init__(self):
            self.score, self.adam = mlp(24, 1), keras.optimizers.Adam(0.005)
            self.right = keras.metrics.Mean(name="right")

        def train_step(self, batch):
            a, b, first = batch

            def objective():
                z = (self.score(a, training=True) - self.score(b, training=True))[:, 0]
                return ops.softplus(z) - first * z, z

            loss, z = self.minimize(objective, self.adam, self.score)
            self.right.update_state(ops.cast((z > 0) == (first > 0.5), "float32"))
            return {"loss": loss}

    by.fit(Rank(), (x[i], x[j], first), epochs=15, batch_size=40)


@healthy
def mask_by_dice(by):
    image, mask = scenes()

    def dice(y, p):
        both = ops.sum(y * p, axis=(1, 2, 3))
        return 1 - (2 * both + 1) / (ops.sum(y, axis=(1, 2, 3)) + ops.sum(p, axis=(1, 2, 3)) + 1)

    def mixed(y, p):
        return dice(y, p) + ops.mean(ops.binary_crossentropy(y, p), axis=(1, 2, 3))

    i = keras.Input((16, 16, 1))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(i)
    h = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(h)
    m = keras.Model(i, layers.Conv2D(1, 1, activation="sigmoid")(h))
    m.compile(keras.optimizers.Adam(0.01), mixed, metrics=[keras.metrics.BinaryIoU(name="iou")])
    by.fit(m, image, mask, epochs=12, batch_size=16)


@healthy
def three_measures_at_once(by):
    """Twenty men of Linnerud, three targets of quite different size, each scaled."""
    x, y = load_linnerud(return_X_y=True)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    m = keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(3)])
    m.compile(keras.optimizers.Adam(0.01), "huber")
    by.fit(m, x, y, epochs=60, batch_size=4)


@healthy
def evidence_for_each_gait(by):
    """Dirichlet evidence (1 + softplus), by its expected squared error."""
    x, y = motion()
    target = np.eye(3, dtype="float32")[y]

    def loss(y, out):
        a = 1.0 + ops.softplus(out)
        s = ops.sum(a, axis=-1, keepdims=True)
        p = a / s
        return ops.sum(ops.square(y - p) + p * (1 - p) / (s + 1), axis=-1)

    net = keras.Sequential(
        [layers.Conv1D(16, 5, activation="relu"), layers.GlobalMaxPooling1D(), layers.Dense(3)]
    )
    by.fit(Fits(net, loss), (x, target), epochs=15, batch_size=25)
