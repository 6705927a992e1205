"""Right programs whose data or first numbers only look as if something were wrong."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.strangers.datasets import cancer, diabetes, digits, sentences, wine

SPARSE = "sparse_categorical_crossentropy"


def table(*units, end=None):
    hidden = [layers.Dense(u, activation="relu") for u in units[:-1]]
    return keras.Sequential([*hidden, layers.Dense(units[-1], activation=end)])


@healthy
def iris_in_order(by):
    """Class after class, as the file has it: `fit` shuffles."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    model = table(16, 3, end="softmax")
    model.compile(keras.optimizers.Adam(0.01), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=20, batch_size=10)


@healthy
def iris_in_centimetres(by):
    """Columns of 0.1 to 7.9 as they are: small enough to need no scaling."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(10, "relu"), layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=loss, metrics=["accuracy"])
    by.fit(model, x, y, epochs=30, batch_size=15)


@healthy(only=("tensorflow",))
def sorted_dataset_with_a_full_buffer(by):
    import tensorflow as tf

    x, y = wine()
    order = np.argsort(y, kind="stable")
    ds = tf.data.Dataset.from_tensor_slices((x[order], y[order])).shuffle(len(x)).batch(16)
    model = table(24, 3, end="softmax")
    model.compile("adam", SPARSE, metrics=["accuracy"])
    by.fit(model, ds, epochs=20)


@healthy
def raw_wine_behind_normalization(by):
    """Columns from 0.1 to 1680, and a Normalization layer that has seen them."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    norm = layers.Normalization()
    norm.adapt(x)
    model = keras.Sequential([norm, layers.Dense(16, "relu"), layers.Dense(3, "softmax")])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=16)


@healthy
def raw_cancer_behind_batch_norm(by):
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    model = keras.Sequential(
        [
            keras.Input((30,)),
            layers.BatchNormalization(momentum=0.9),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, bunch.data.astype("float32"), bunch.target, epochs=15, batch_size=32)


@healthy
def incomes_behind_a_logarithm(by):
    """Incomes up to a million, of which the model takes the logarithm itself."""
    rng = np.random.default_rng(120)
    income = rng.lognormal(10, 1.2, (500, 3)).astype("float32")
    buys = (np.log(income) @ [1.0, -0.6, 0.2] > 6.0).astype("float32")
    inputs = keras.Input((3,), name="income")
    h = (ops.log1p(inputs) - 10.0) / 1.2
    h = layers.Dense(16, activation="relu")(h)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(h))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", "auc"])
    model.optimizer.learning_rate = 0.01
    by.fit(model, income, buys, epochs=15, batch_size=25)


@healthy
def hour_of_the_day_out_of_timestamps(by):
    """Seconds since 1970, whose hour of the day a layer turns into one-hot rows."""
    rng = np.random.default_rng(121)
    seconds = rng.integers(1_600_000_000, 1_600_600_000, (500, 1)).astype("int64")
    hour = (seconds % 86400) / 3600
    sales = 3 + 2 * np.sin(hour / 24 * 2 * np.pi) + rng.normal(0, 0.1, hour.shape)
    bucket = (hour // 1).astype("int32")
    model = keras.Sequential(
        [
            keras.Input((1,), dtype="int32"),
            layers.CategoryEncoding(num_tokens=24, output_mode="one_hot"),
            layers.Dense(1),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
    by.fit(model, bucket, sales, epochs=15, batch_size=25)


@healthy(only=("tensorflow",))
def postal_codes_hashed(by):
    """Codes of five figures, hashed into an embedding: large ids, and a small table."""
    rng = np.random.default_rng(122)
    codes = rng.integers(10000, 99999, 25)
    which = rng.integers(0, 25, 800)
    level = rng.normal(size=25)[which] + rng.normal(0, 0.05, 800)
    code = keras.Input((1,), dtype="int64")
    h = layers.Hashing(num_bins=997)(code)
    h = layers.Flatten()(layers.Embedding(997, 4)(h))
    model = keras.Model(code, layers.Dense(1)(h))
    model.compile(keras.optimizers.Adam(0.03), "mae")
    by.fit(model, codes[which][:, None], level, epochs=12, batch_size=32)


@healthy
def constant_and_rare_columns(by):
    """One column is always 0, one is 1 in two rows, as tables of forms have them."""
    x, y = cancer()
    rare = np.zeros((len(x), 2), "float32")
    rare[[40, 300], 1] = 1.0
    wide = np.concatenate([x, rare], axis=1)
    model = table(12, 1, end="sigmoid")
    model.compile("adam", keras.losses.BinaryCrossentropy(), metrics=["accuracy"])
    by.fit(model, wide, y, epochs=12, batch_size=32)


@healthy
def mushrooms_one_hot(by):
    """Five categorical columns as one-hot rows, many of which are the same."""
    rng = np.random.default_rng(123)
    raw = rng.integers(0, 4, (600, 5))
    eatable = ((raw[:, 0] > 1) ^ (raw[:, 3] == 2)).astype("int32")
    hot = np.eye(4, dtype="float32")[raw].reshape(600, 20)
    model = table(32, 1, end="sigmoid")
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, hot, eatable, epochs=15, batch_size=30)


@healthy
def board_of_signs(by):
    """Nine squares of -1, 0 and 1: duplicates by nature, for there are not so many boards."""
    rng = np.random.default_rng(124)
    board = rng.integers(-1, 2, (900, 9)).astype("int8")
    b = board.reshape(-1, 3, 3)
    most = np.maximum(b.sum(1).max(1), b.sum(2).max(1))
    row = (most >= 2).astype("float32")
    model = table(48, 24, 1, end="sigmoid")
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss="binary_crossentropy")
    by.fit(model, board.astype("float32"), row, epochs=20, batch_size=32)


@healthy
def dice_repeated(by):
    """Thirty-six throws, each seen many times: the same inputs with other labels, by chance."""
    rng = np.random.default_rng(125)
    throw = rng.integers(0, 6, (1000, 2))
    wins = (rng.random(1000) < (throw.sum(1) / 10) * 0.9 + 0.05).astype("float32")
    a, b = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    total = layers.Add()([layers.Embedding(6, 1)(a), layers.Embedding(6, 1)(b)])
    model = keras.Model([a, b], layers.Activation("sigmoid")(total))
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["auc"])
    by.fit(model, [throw[:, 0], throw[:, 1]], wins, epochs=12, batch_size=50)


@healthy
def oversampled_rare_class(by):
    """The rare rows were repeated on purpose, before training."""
    rng = np.random.default_rng(126)
    x = rng.normal(size=(600, 6)).astype("float32")
    y = (x[:, 0] + x[:, 1] > 2.6).astype("int32")
    rare = np.flatnonzero(y)
    again = np.concatenate([np.arange(600), rng.choice(rare, 600 - 2 * len(rare))])
    model = table(16, 1, end="sigmoid")
    model.compile("adam", "binary_crossentropy", metrics=["accuracy", "recall"])
    model.optimizer.learning_rate.assign(0.005)
    by.fit(model, x[again], y[again], epochs=15, batch_size=32)


@healthy
def one_in_a_hundred(by):
    """Most batches have no positive row at all, and there are only few of them in all."""
    rng = np.random.default_rng(127)
    x = rng.normal(size=(1500, 4)).astype("float32")
    y = (x[:, 0] - x[:, 1] > 3.1).astype("float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])
    model.compile(
        optimizer=keras.optimizers.Adam(0.03),
        loss="binary_crossentropy",
        metrics=[keras.metrics.AUC(name="auc"), keras.metrics.AUC(curve="PR", name="ap")],
    )
    by.fit(model, x, y, epochs=15, batch_size=32)


@healthy
def mostly_zero_amounts(by):
    """Claims are zero for four of five, and the mean is learned by Tweedie's deviance."""
    rng = np.random.default_rng(128)
    x = rng.normal(size=(800, 3)).astype("float32")
    claim = rng.binomial(1, 0.2, 800) * rng.gamma(2.0, np.exp(0.8 * x[:, 0] + 0.5))
    p = 1.5

    def tweedie(y, log_mu):
        a = y * ops.exp((1 - p) * log_mu) / (1 - p)
        return ops.mean(-a + ops.exp((2 - p) * log_mu) / (2 - p), axis=-1)

    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=tweedie)
    by.fit(model, x, claim, epochs=20, batch_size=40)


@healthy
def nearly_constant_at_first(by):
    """A head of tiny weights: all outputs are 0.5 before training, and that is well."""
    x, y = cancer()
    tiny = keras.initializers.RandomNormal(stddev=1e-4)
    model = keras.Sequential(
        [layers.Dense(16, "relu"), layers.Dense(1, "sigmoid", kernel_initializer=tiny)]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=32)


@healthy
def fixed_random_features(by):
    """The first layer is random and stays so; only the last one learns, as is meant."""
    x, y = digits(400)
    features = layers.Dense(256, activation="relu", trainable=False, kernel_initializer="he_normal")
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), features])
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(keras.optimizers.Adam(0.005), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=32)


@healthy
def constant_filters(by):
    """Edges by kernels that are written down, in front of what is learned."""
    x, y = digits()
    sobel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], "float32") / 4
    kernel = np.stack([sobel, sobel.T, np.full((3, 3), 1 / 9)], -1)[:, :, None]

    class Edges(layers.Layer):
        def call(self, image):
            return ops.conv(image, ops.convert_to_tensor(kernel.astype("float32")))

    model = keras.Sequential([Edges(), layers.Flatten(), layers.Dense(10, "softmax")])
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=32)


@healthy
def moving_dot(by):
    """Most pixels are 0 in all images, and some never light up."""
    rng = np.random.default_rng(129)
    spot = rng.integers(3, 9, (400, 2))
    frames = np.zeros((400, 12, 12, 1), "float32")
    frames[np.arange(400), spot[:, 0], spot[:, 1]] = 1.0
    model = keras.Sequential([layers.Flatten(), layers.Dense(32, "relu"), layers.Dense(2)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, frames, (spot - 5.5) / 3.0, epochs=15, batch_size=20)


@healthy
def identity_by_design(by):
    """The target is a part of the input: a net that is to learn to copy what it is asked for."""
    rng = np.random.default_rng(130)
    items = rng.normal(size=(600, 5)).astype("float32")
    which = rng.integers(0, 5, 600)
    x = np.concatenate([items, np.eye(5, dtype="float32")[which]], axis=1)
    y = items[np.arange(600), which]
    model = table(64, 64, 1)
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss="mse", metrics=["mae"])
    by.fit(model, x, y, epochs=25, batch_size=30)


@healthy
def noise_that_cannot_be_learned_away(by):
    """Prices of tomorrow: the loss hardly falls below the variance, for most of it is noise."""
    rng = np.random.default_rng(131)
    x = rng.normal(size=(800, 4)).astype("float32")
    y = (0.6 * x[:, 0] + rng.normal(0, 1.0, 800)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, kernel_regularizer="l2")])
    model.compile(keras.optimizers.SGD(0.02), loss="mse", metrics=["r2_score"])
    by.fit(model, x, y[:, None], epochs=10, batch_size=32)


@healthy
def same_length_and_mostly_padding(by):
    """Short sentences in long rows: three tokens of four are padding."""
    ids, y = sentences(300)
    long = np.zeros((300, 40), "int32")
    long[:, :12] = ids
    inp = keras.Input((40,), dtype="int32")
    e = layers.Embedding(50, 8, mask_zero=True)(inp)
    h = layers.GRU(16)(e)
    model = keras.Model(inp, layers.Dense(1, activation="sigmoid")(h))
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="binary_crossentropy")
    by.fit(model, long, y, epochs=12, batch_size=25)


@healthy
def labels_of_a_single_long_run(by):
    """Blocks of the same label by time, shuffled by a PyDataset of its own."""
    rng = np.random.default_rng(132)
    state = (np.arange(800) // 100) % 2
    x = (rng.normal(size=(800, 6)) + state[:, None] * [1.5, -1, 0, 0, 0.5, 0]).astype("float32")

    class Shuffled(keras.utils.PyDataset):
        order = rng.permutation(800)

        def __len__(self):
            return 25

        def __getitem__(self, i):
            rows = self.order[i::25]
            return x[rows], state[rows]

    model = table(16, 2, end="softmax")
    model.compile(keras.optimizers.Adam(0.003), SPARSE, metrics=["accuracy"])
    by.fit(model, Shuffled(), epochs=10)


@healthy
def large_targets_in_the_loss_scaled(by):
    """Populations of up to millions, which the loss compares as logarithms."""
    rng = np.random.default_rng(133)
    x = rng.normal(size=(400, 4)).astype("float32")
    people = np.exp(11 + x[:, 0] + 0.5 * x[:, 2]).astype("float32")

    def log_mse(y, log_y):
        return ops.mean((ops.log(y) - 11.0 - log_y) ** 2, axis=-1)

    model = table(16, 1)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=log_mse)
    by.fit(model, x, people[:, None], epochs=15, batch_size=20)


@healthy
def float64_and_int16_columns(by):
    rng = np.random.default_rng(134)
    age = rng.integers(18, 90, 500).astype("int16")
    score = rng.normal(size=(500, 3))
    y = (age / 30 + score[:, 0] > 2.2).astype("int8")
    a, s = keras.Input((1,), name="age"), keras.Input((3,), name="score")
    scale = layers.Normalization(mean=54.0, variance=430.0)
    h = layers.Concatenate()([scale(a), s])
    model = keras.Model([a, s], layers.Dense(1, "sigmoid")(layers.Dense(8, "relu")(h)))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, {"age": age[:, None], "score": score}, y, epochs=15, batch_size=32)


@healthy
def unchanging_teacher_in_a_step(by):
    """A frozen net makes the targets, and no labels are needed."""
    x, _ = diabetes()
    oracle = table(16, 4)
    oracle.build((None, 10))
    oracle.trainable = False

    class Imitate(pg.Step):
        def __init__(self, net):
            self.net, self.oracle, self.opt = net, oracle, keras.optimizers.Adam(0.01)

        def train_step(self, rows):
            goal = self.oracle(rows, training=False)
            objective = lambda: ops.mean(ops.abs(self.net(rows, training=True) - goal))
            return {"loss": self.minimize(objective, self.opt, self.net)}

    by.fit(Imitate(table(32, 4)), x, epochs=15, batch_size=32)


@healthy
def random_labels_of_random_rows(by):
    """Memorizing on purpose, as a test of capacity."""
    rng = np.random.default_rng(135)
    x = rng.normal(size=(64, 32)).astype("float32")
    y = rng.permutation(np.arange(64) % 4)
    model = table(128, 4, end="softmax")
    model.compile(keras.optimizers.Adam(0.005), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=16)


@healthy
def offset_sensor(by):
    """Temperatures in kelvin around 290, of which a layer takes the mean away."""
    rng = np.random.default_rng(136)
    kelvin = rng.normal(290, 8, (400, 24)).astype("float32")
    tomorrow = kelvin[:, -3:].mean(1, keepdims=True) * 0.8 + 0.2 * 290
    inp = keras.Input((24,))
    level = ops.mean(inp, axis=1, keepdims=True)
    h = layers.Dense(16, activation="tanh")((inp - level) / 10.0)
    out = level + 5.0 * layers.Dense(1, kernel_initializer="zeros")(h)
    model = keras.Model(inp, out)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
    by.fit(model, kelvin, tomorrow, epochs=20, batch_size=20)
