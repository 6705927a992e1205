"""Right programs with unusual last layers, targets and losses."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.strangers.datasets import cancer, diabetes, waves, wine


@healthy
def zero_head_wine(by):
    x, y = wine()
    model = keras.Sequential(
        [
            keras.Input((13,)),
            layers.Dense(24, activation="relu"),
            layers.Dense(3, kernel_initializer="zeros"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    by.fit(model, x, y, epochs=10, batch_size=16)


@healthy
def persistence_plus_correction(by):
    """The forecast begins as the last value that was seen."""
    x, y = waves()
    seq = keras.Input((20, 1))
    h = layers.GRU(16)(seq)
    delta = layers.Dense(1, kernel_initializer="zeros", name="delta")(h)
    out = layers.Add()([seq[:, -1, :], delta])
    model = keras.Model(seq, out)
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss="mse", metrics=["mae"])
    by.fit(model, x, y, epochs=15, batch_size=20)


@healthy
def fraud_with_log_odds_bias(by):
    """As in the guide on imbalanced data: the bias is the log odds of the rare class."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(800, 6)).astype("float32")
    fraud = (X[:, 0] + X[:, 1] - X[:, 2] > 3.2).astype("int64")
    pos = fraud.sum()
    start = keras.initializers.Constant(np.log(pos / (len(fraud) - pos)))
    model = keras.Sequential()
    model.add(keras.Input(shape=(6,)))
    model.add(layers.Dense(16, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid", bias_initializer=start))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=5e-3),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.AUC(name="prc", curve="PR"), keras.metrics.Recall(name="recall")],
    )
    by.fit(model, X, fraud, batch_size=64, epochs=15)


@healthy
def bikes_poisson_exponential(by):
    rng = np.random.default_rng(0)
    weather = rng.uniform(-1, 1, (600, 4))
    bikes = rng.poisson(np.exp(1.5 + weather @ [0.8, -0.5, 0.3, 0.0]))
    m = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="exponential")])
    m.compile(optimizer=keras.optimizers.Adam(0.02), loss="poisson")
    by.fit(m, weather, bikes, epochs=20, batch_size=32)


@healthy
def goals_zero_inflated(by):
    """Counts with too many zeros: a gate and a rate, by their likelihood."""
    rng = np.random.default_rng(21)
    x = rng.normal(size=(500, 3)).astype("float32")
    plays = rng.uniform(size=500) < 1 / (1 + np.exp(-2 * x[:, 0]))
    goals = (plays * rng.poisson(np.exp(0.7 + 0.6 * x[:, 1]))).astype("float32")

    def zip_nll(y, params):
        gate, log_rate = params[:, 0], params[:, 1]
        y = ops.reshape(y, (-1,))
        count = ops.log_sigmoid(gate) + y * log_rate - ops.exp(log_rate)
        at_zero = ops.logaddexp(ops.log_sigmoid(-gate), count)
        return -ops.where(y == 0, at_zero, count)

    model = keras.Sequential([keras.Input((3,)), layers.Dense(8, "tanh"), layers.Dense(2)])
    model.compile("adam", zip_nll)
    model.optimizer.learning_rate = 0.01
    by.fit(model, x, goals, epochs=25)


@healthy
def house_prices_softplus_huber(by):
    rng = np.random.default_rng(11)
    size, rooms = rng.uniform(0.3, 2.5, 400), rng.integers(1, 7, 400)
    price = 1.2 * size + 0.4 * rooms + rng.gamma(1.0, 0.1, 400)
    feats = np.stack([size, rooms / 6.0], axis=1)
    inputs = keras.Input((2,), name="house")
    z = layers.Dense(32, activation="swish")(inputs)
    price_hat = layers.Dense(1, activation="softplus")(z)
    reg = keras.Model(inputs, price_hat)
    reg.compile(keras.optimizers.RMSprop(0.005), keras.losses.Huber(delta=0.5), metrics=["mae"])
    by.fit(reg, feats, price, epochs=25, validation_split=0.2)


@healthy
def rain_relu_head(by):
    """Millimetres of rain, never negative; the bias keeps the ReLU open at first."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(400, 5)).astype("float32")
    mm = np.maximum(0, 4 + 2 * x[:, 0] - 1.5 * x[:, 3] + rng.normal(0, 0.3, 400))
    model = keras.Sequential(
        [
            layers.Dense(16, activation="gelu"),
            layers.Dense(1, activation="relu", bias_initializer=keras.initializers.Constant(4.0)),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mean_absolute_error")
    by.fit(model, x, mm.astype("float32"), epochs=20, batch_size=25)


class GaussianHead(layers.Layer):
    def __init__(self, **kw):
        super().__init__(**kw)
        self.mu = layers.Dense(1)
        self.raw = layers.Dense(1, bias_initializer=keras.initializers.Constant(-1.0))

    def call(self, h):
        return ops.concatenate([self.mu(h), ops.softplus(self.raw(h)) + 1e-3], axis=-1)


@healthy
def gaussian_nll_below_zero(by):
    """The noise is small, so that densities are above 1 and the loss becomes negative."""
    rng = np.random.default_rng(8)
    t = rng.uniform(-2, 2, (512, 1)).astype("float32")
    y = (0.3 * np.sin(2 * t) + rng.normal(0, 0.02 + 0.02 * (t > 0))).astype("float32")

    def nll(y_true, y_pred):
        mu, sigma = y_pred[:, :1], y_pred[:, 1:]
        return ops.mean(ops.log(sigma) + 0.5 * ops.square((y_true - mu) / sigma), axis=-1)

    inp = keras.Input((1,))
    h = layers.Dense(32, activation="tanh")(inp)
    h = layers.Dense(32, activation="tanh")(h)
    model = keras.Model(inp, GaussianHead()(h))
    model.compile(optimizer=keras.optimizers.Adam(5e-3, clipnorm=1.0), loss=nll)
    by.fit(model, t, y, epochs=30, batch_size=64)


@healthy
def heteroscedastic_log_variance(by):
    x, y = diabetes()

    class Loss(keras.losses.Loss):
        def call(self, y_true, y_pred):
            mean, log_var = ops.split(y_pred, 2, axis=-1)
            y_true = ops.reshape(y_true, ops.shape(mean))
            return 0.5 * ops.mean(log_var + (y_true - mean) ** 2 * ops.exp(-log_var), axis=-1)

    def rmse(y_true, y_pred):
        return ops.sqrt(ops.mean((ops.reshape(y_true, (-1,)) - y_pred[:, 0]) ** 2))

    net = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(2, kernel_initializer="zeros")])
    net.compile(keras.optimizers.Adam(0.003), loss=Loss(), metrics=[rmse])
    by.fit(net, x, y, batch_size=32, epochs=20, validation_split=0.25)


@healthy
def directions_by_cosine(by):
    """Cosine similarity is -1 at best."""
    rng = np.random.default_rng(42)
    a = rng.normal(size=(300, 12)).astype("float32")
    w = rng.normal(size=(12, 4))
    d = np.tanh(a @ w / 2)
    d = (d / np.linalg.norm(d, axis=1, keepdims=True)).astype("float32")
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(32, "relu"), layers.Dense(4), layers.UnitNormalization()]
    )
    model.compile(optimizer="adam", loss=keras.losses.CosineSimilarity(axis=-1))
    by.fit(model, a, d, epochs=25, batch_size=20)


@healthy
def squares_of_distances(by):
    """The target is a square, and goes to about 20."""
    rng = np.random.default_rng(17)
    points = rng.uniform(-2, 2, size=(600, 3))
    sq = np.square(points).sum(axis=1, keepdims=True)
    model = keras.models.Sequential()
    model.add(layers.Input((3,)))
    for units in (64, 64):
        model.add(layers.Dense(units, activation="relu"))
    model.add(layers.Dense(1))
    model.compile(loss="mse", optimizer=keras.optimizers.Adam(0.005), metrics=["mae", "r2_score"])
    by.fit(model, points, sq, epochs=20, batch_size=32)


@healthy
def tumours_hinge_tanh(by):
    x, y = cancer()
    signs = y * 2 - 1

    def sign_accuracy(t, p):
        return ops.mean(ops.cast(ops.equal(ops.sign(p[:, 0]), ops.reshape(t, (-1,))), "float32"))

    clf = keras.Sequential([keras.Input((30,)), layers.Dense(1, activation="tanh")])
    clf.compile(optimizer=keras.optimizers.SGD(0.05), loss="hinge", metrics=[sign_accuracy])
    by.fit(clf, x, signs, epochs=10, batch_size=16)


@healthy
def linear_svm(by):
    """Squared hinge on labels of 0 and 1, which Keras turns into -1 and 1 itself."""
    x, y = cancer()
    svm = keras.Sequential(name="svm")
    svm.add(keras.Input((30,)))
    svm.add(layers.Dense(1, kernel_regularizer=keras.regularizers.L2(1e-3)))
    svm.compile(
        loss=keras.losses.SquaredHinge(),
        optimizer=keras.optimizers.Adam(0.01),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    by.fit(svm, x, y, epochs=12, batch_size=32, validation_split=0.2)


@keras.saving.register_keras_serializable("exam")
class CosineHead(layers.Layer):
    """Scores of unit vectors, times a temperature that is learned."""

    def __init__(self, classes, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes

    def build(self, shape):
        self.proto = self.add_weight(shape=(shape[-1], self.classes), name="proto")
        self.log_scale = self.add_weight(shape=(), initializer=keras.initializers.Constant(2.0))

    def call(self, h):
        h, w = ops.normalize(h, axis=-1), ops.normalize(self.proto, axis=0)
        return ops.matmul(h, w) * ops.exp(self.log_scale)


@healthy
def learned_temperature(by):
    x, y = wine()
    inp = keras.Input((13,))
    out = CosineHead(3)(layers.Dense(16, activation="elu")(inp))
    model = keras.Model(inp, out)
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=20, batch_size=8)


@healthy
def share_of_water_by_mse(by):
    """A share between 0 and 1, with a sigmoid and squared error."""
    rng = np.random.default_rng(6)
    soil = rng.normal(size=(350, 5)).astype("f4")
    share = 1 / (1 + np.exp(-(1.5 * soil[:, 0] - soil[:, 2] * soil[:, 4])))
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(20, "relu"), layers.Dense(1, activation="sigmoid")]
    )
    model.compile("rmsprop", "mean_squared_error", metrics=["mae"])
    model.optimizer.learning_rate.assign(0.01)
    by.fit(model, soil, share, epochs=20, batch_size=16)


@healthy
def share_of_votes_by_bce(by):
    """Shares as soft labels of binary cross entropy: the loss does not go to zero."""
    rng = np.random.default_rng(60)
    towns = rng.normal(size=(400, 7)).astype("float32")
    votes = 1 / (1 + np.exp(-towns[:, :1] + 0.5 * towns[:, 1:2]))
    inp = keras.Input((7,))
    x = layers.Dense(1)(inp)
    model = keras.Model(inp, layers.Activation("sigmoid")(x))
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["mse"])
    by.fit(model, towns, votes, epochs=12)


@healthy
def steering_angle_tanh(by):
    rng = np.random.default_rng(13)
    lanes = rng.uniform(-1, 1, (320, 6))
    angle = np.tanh(1.2 * lanes[:, 0] - 0.7 * lanes[:, 1] + 0.1 * rng.normal(size=320))
    pilot = keras.Sequential(
        [
            layers.Dense(24, activation="relu"),
            layers.Dropout(0.05),
            layers.Dense(1, activation="tanh"),
        ]
    )
    pilot.compile(optimizer="adam", loss="mse")
    by.fit(pilot, lanes, angle, epochs=25, batch_size=16)


@healthy
def stars_one_to_five(by):
    """Ratings as numbers, by a sigmoid that is stretched to 1..5."""
    rng = np.random.default_rng(33)
    film = rng.normal(size=(400, 8)).astype("float32")
    stars = np.clip(np.round(3 + film[:, 0] - film[:, 5] + rng.normal(0, 0.3, 400)), 1, 5)
    inputs = keras.Input((8,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    bounded = layers.Dense(1, activation="sigmoid")(hidden)
    outputs = layers.Rescaling(4.0, offset=1.0)(bounded)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["root_mean_squared_error"])
    by.fit(model, film, stars.astype("int32"), epochs=15)


@healthy
def delivery_time_quantiles(by):
    rng = np.random.default_rng(9)
    km = rng.uniform(0, 1, (500, 2)).astype("float32")
    hours = (2 * km[:, 0] + rng.exponential(0.2 + 0.5 * km[:, 1])).astype("float32")[:, None]
    taus = np.array([[0.1, 0.5, 0.9]], "float32")

    def pinball(y_true, y_pred):
        err = y_true - y_pred
        return ops.mean(ops.maximum(taus * err, (taus - 1) * err), axis=-1)

    model = keras.Sequential([keras.Input((2,)), layers.Dense(32, "relu"), layers.Dense(3)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=pinball)
    by.fit(model, km, hours, epochs=20, batch_size=50)


@healthy
def mixture_density(by):
    """Two branches of a curve, which no single mean describes."""
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (600, 1)).astype("float32")
    y = (np.where(rng.random((600, 1)) < 0.5, 1, -1) * (0.5 + x**2)).astype("float32")
    y += rng.normal(0, 0.05, y.shape).astype("float32")

    def mdn(y_true, p):
        logits, mu, log_s = ops.split(p, 3, axis=-1)
        log_s = ops.clip(log_s, -4, 3)
        log_n = -0.5 * ((y_true - mu) * ops.exp(-log_s)) ** 2 - log_s - 0.919
        return -ops.logsumexp(ops.log_softmax(logits, axis=-1) + log_n, axis=-1)

    net = keras.Sequential([keras.Input((1,)), layers.Dense(24, "tanh"), layers.Dense(9)])
    net.compile(keras.optimizers.Adam(0.01), loss=mdn)
    by.fit(net, x, y, epochs=30, batch_size=64)


@healthy
def cox_survival(by):
    """Partial likelihood over a batch; labels are pairs of a time and whether it was seen."""
    rng = np.random.default_rng(18)
    x = rng.normal(size=(384, 5)).astype("float32")
    time = rng.exponential(np.exp(-(1.2 * x[:, 0] - 0.8 * x[:, 1])))
    cut = rng.exponential(2.0, 384)
    y = np.stack([np.minimum(time, cut), time <= cut], 1).astype("float32")

    def cox(y_true, risk):
        t, seen = y_true[:, 0], y_true[:, 1]
        at_risk = ops.cast(t[None, :] >= t[:, None], "float32")
        total = ops.log(ops.sum(at_risk * ops.exp(ops.transpose(risk)), axis=1))
        return -ops.sum((risk[:, 0] - total) * seen) / (ops.sum(seen) + 1e-6)

    model = keras.Sequential([keras.Input((5,)), layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.Adam(0.02), cox)
    by.fit(model, x, y, epochs=15, batch_size=64)


@healthy
def discrete_time_hazards(by):
    """One hazard for each of 8 weeks; weeks after the end have no part in the loss."""
    rng = np.random.default_rng(81)
    x = rng.normal(size=(300, 4)).astype("float32")
    hazard = 1 / (1 + np.exp(1.5 - 1.5 * x[:, :1]))
    ends = (rng.random((300, 8)) < hazard).argmax(1)
    died = (np.arange(8) == ends[:, None]).astype("float32")
    alive = (np.arange(8) <= ends[:, None]).astype("float32")

    def hazard_loss(y, logits):
        bce = ops.binary_crossentropy(y[..., 0], logits, from_logits=True)
        return ops.sum(bce * y[..., 1], axis=-1)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(12, "relu"), layers.Dense(8)])
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss=hazard_loss)
    by.fit(model, x, np.stack([died, alive], -1), epochs=20, batch_size=16)


@healthy
def ordinal_thresholds(by):
    """Grades of 0 to 4 as the answers to four questions: is it more than k?"""
    rng = np.random.default_rng(14)
    essays = rng.normal(size=(400, 6)).astype("float32")
    level = essays[:, 0] + 0.8 * essays[:, 1]
    grade = np.digitize(level, [-1.2, -0.3, 0.5, 1.4])
    y = (grade[:, None] > np.arange(4)).astype("float32")

    class Thresholds(layers.Layer):
        def build(self, shape):
            self.b = self.add_weight(shape=(4,), initializer="zeros", name="thresholds")

        def call(self, score):
            return ops.sigmoid(score + self.b)

    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(1), Thresholds()])
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["binary_accuracy"])
    by.fit(model, essays, y, epochs=20, batch_size=32)


@healthy
def ages_around_forty(by):
    rng = np.random.default_rng(15)
    face = rng.normal(size=(400, 10)).astype("float32")
    age = np.clip(40 + 12 * face[:, 0] + 6 * face[:, 3] + rng.normal(0, 2, 400), 1, 95)
    age = age.astype("uint8")
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(1),
            layers.Rescaling(15.0, offset=40.0),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mae")
    by.fit(model, face, age, epochs=15, batch_size=32)


@healthy
def year_of_a_song(by):
    """Years as whole numbers; the head begins at the mean year."""
    rng = np.random.default_rng(16)
    timbre = rng.normal(size=(500, 12))
    year = (1990 + 9 * timbre[:, 0] - 6 * np.abs(timbre[:, 1])).astype(int)
    inputs = keras.Input((12,))
    h = layers.Dense(64, activation="relu")(inputs)
    y = layers.Dense(1, bias_initializer=keras.initializers.Constant(float(year.mean())))(h)
    model = keras.Model(inputs, y)
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    by.fit(model, timbre, year, epochs=20, batch_size=32)


@healthy
def claims_gamma_deviance(by):
    rng = np.random.default_rng(19)
    X = rng.normal(size=(500, 4)).astype("float32")
    claim = rng.gamma(2.0, np.exp(0.5 + 0.7 * X[:, 0] - 0.4 * X[:, 2]) / 2).astype("float32")

    @keras.saving.register_keras_serializable("exam")
    def gamma(y_true, log_mu):
        return ops.mean(y_true * ops.exp(-log_mu) + log_mu, axis=-1)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, kernel_initializer="zeros")])
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=gamma)
    by.fit(model, X, claim[:, None], epochs=15)


@healthy
def prices_by_relative_error(by):
    """Prices over three decades: percentage error, from a head that is an exponential."""
    rng = np.random.default_rng(20)
    item = rng.uniform(0, 1, (400, 3)).astype("float32")
    price = (10 ** (1 + 2 * item[:, 0]) * (1 + 0.5 * item[:, 1])).astype("float32")
    inp = keras.Input((3,))
    log_price = layers.Dense(1, bias_initializer=keras.initializers.Constant(4.0))(
        layers.Dense(32, activation="tanh")(inp)
    )
    model = keras.Model(inp, ops.exp(log_price))
    model.compile("adam", "mean_absolute_percentage_error")
    model.optimizer.learning_rate = 0.005
    by.fit(model, item, price, epochs=25, batch_size=20)


@healthy
def visits_msle(by):
    rng = np.random.default_rng(22)
    page = rng.normal(size=(400, 5)).astype("float32")
    visits = np.exp(2 + page[:, 0] + 0.5 * page[:, 1]).round()
    net = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(1, activation="exponential"),
        ]
    )
    net.compile(keras.optimizers.Adam(0.01), keras.losses.MeanSquaredLogarithmicError())
    by.fit(net, page, visits, epochs=20, batch_size=32)


@healthy
def angle_as_sine_and_cosine(by):
    rng = np.random.default_rng(24)
    phi = rng.uniform(0, 2 * np.pi, 400)
    sensors = np.cos(phi[:, None] - np.arange(6)) + rng.normal(0, 0.05, (400, 6))
    target = np.stack([np.sin(phi), np.cos(phi)], axis=-1)

    def degrees_off(t, p):
        a = ops.arctan2(t[:, 0], t[:, 1]) - ops.arctan2(p[:, 0], p[:, 1])
        return ops.mean(ops.abs(ops.arctan2(ops.sin(a), ops.cos(a)))) * 57.3

    model = keras.Sequential([keras.Input((6,)), layers.Dense(2, activation="linear")])
    model.compile(optimizer="sgd", loss="mse", metrics=[degrees_off])
    by.fit(model, sensors.astype("float32"), target.astype("float32"), epochs=10, batch_size=10)


@healthy
def monotone_net(by):
    """Weights that may not be negative, for a curve that only rises."""
    rng = np.random.default_rng(25)
    dose = rng.uniform(-2, 2, (300, 1)).astype("float32")
    effect = np.tanh(dose * 1.5) + 0.2 * dose
    free, kept = keras.initializers.RandomUniform(0, 0.5), keras.constraints.NonNeg()
    model = keras.Sequential(
        [
            keras.Input((1,)),
            layers.Dense(16, "tanh", kernel_initializer=free, kernel_constraint=kept),
            layers.Dense(1, kernel_initializer=free, kernel_constraint=kept),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse")
    by.fit(model, dose, effect, epochs=20, batch_size=30)


@healthy
def chess_ratings(by):
    """Bradley-Terry: the better of two players, from one embedding each."""
    rng = np.random.default_rng(26)
    true = rng.normal(size=30)
    pairs = rng.integers(0, 30, (1500, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    wins = rng.random(len(pairs)) < 1 / (1 + np.exp(3 * (true[pairs[:, 1]] - true[pairs[:, 0]])))

    class Elo(keras.Model):
        def __init__(self):
            super().__init__()
            self.rating = layers.Embedding(30, 1, embeddings_initializer="zeros")

        def call(self, players):
            r = self.rating(players)[..., 0]
            return ops.sigmoid(r[:, :1] - r[:, 1:])

    elo = Elo()
    elo.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["accuracy"])
    by.fit(elo, pairs, wins, epochs=10, batch_size=64)


@healthy
def expectile_step(by):
    x, y = diabetes()

    class Expectile(pg.Step):
        def __init__(self, net, tau):
            self.net, self.tau = net, tau
            self.opt = keras.optimizers.SGD(0.02, momentum=0.9)

        def train_step(self, data):
            rows, target = data

            def objective():
                err = target - self.net(rows, training=True)[:, 0]
                w = ops.where(err > 0, self.tau, 1 - self.tau)
                return ops.mean(w * err * err)

            return {"loss": self.minimize(objective, self.opt, self.net)}

    net = keras.Sequential([keras.Input((10,)), layers.Dense(1)])
    by.fit(Expectile(net, 0.8), (x, y), epochs=15, batch_size=32)
