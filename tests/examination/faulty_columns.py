"""Inputs out of scale or spoilt, and examples that are not what they should be."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.model_selection import train_test_split

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, diabetes


def byte_digits(n=500):
    d = load_digits()
    return (d.images[:n] * 15.9).astype("uint8"), d.target[:n]


def standard(x):
    return ((x - x.mean(0)) / x.std(0)).astype("float32")


# Inputs


@faulty("inputs")
def bytes_as_they_are(by, mended):
    """Images of 0 to 255 in a network of tanh."""
    img, lab = byte_digits()
    layers_ = [keras.Input((8, 8), dtype="uint8")]
    if mended:
        layers_.append(layers.Rescaling(1 / 255.0))
    layers_ += [
        layers.Flatten(),
        layers.Dense(64, activation="tanh"),
        layers.Dense(32, activation="tanh"),
        layers.Dense(10, activation="softmax"),
    ]
    net = keras.Sequential(layers_)
    net.compile(keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["acc"])
    by.fit(net, img, lab, epochs=12, batch_size=32)


@faulty("inputs")
def wine_as_measured(by, mended):
    """Proline goes to 1680, the hue to 1.7."""
    X, y = load_wine(return_X_y=True)
    idx = np.random.default_rng(10).permutation(178)
    X, y = X[idx], y[idx]
    if mended:
        X = (X - X.mean(axis=0)) / X.std(axis=0)
    model = keras.Sequential()
    model.add(layers.Dense(16, activation="relu"))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    by.fit(model, X, y, epochs=25, batch_size=16, validation_split=0.2)


@faulty("inputs")
def one_patient_in_other_units(by, mended):
    """One row has been typed in thousandths."""
    x, y = diabetes()
    x = x.copy()
    if not mended:
        x[300] *= 1000.0
    r = keras.Sequential([keras.Input((10,)), layers.Dense(1)])
    r.compile(optimizer=keras.optimizers.SGD(0.01), loss=keras.losses.MeanSquaredError())
    by.fit(r, x, y[:, None], epochs=15, batch_size=32)


@faulty("inputs", only=("tensorflow",))
def bytes_that_wrap(by, mended):
    """x - 128 of uint8: what was below 128 comes out at the top."""
    import tensorflow as tf

    img, lab = byte_digits(600)

    def centre(im, y):
        if mended:
            im = tf.cast(im, tf.float32)
        im = im - 128
        return tf.cast(im, tf.float32) / 128.0, y

    ds = tf.data.Dataset.from_tensor_slices((img[..., None], lab.astype("int32")))
    ds = ds.shuffle(600, seed=3).batch(30).map(centre).prefetch(1)
    net = keras.Sequential(
        [layers.Conv2D(8, 3, activation="relu"), layers.Flatten(), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer=keras.optimizers.Adam(0.003), loss=loss, metrics=["accuracy"])
    by.fit(net, ds, epochs=10)


@faulty("inputs")
def months_beyond_the_depth(by, mended):
    """one_hot of months 1 to 12 with a depth of seven."""
    rng = np.random.default_rng(25)
    month = rng.integers(1, 13, 360).astype("int32")
    sold = (10 * np.cos(month) + rng.normal(0, 0.5, 360)).astype("float32")
    depth = 13 if mended else 7
    i = keras.Input((), dtype="int32", name="month")
    z = layers.Lambda(lambda m: ops.one_hot(m, depth), output_shape=(depth,))(i)
    model = keras.Model(i, layers.Dense(1)(layers.Dense(16, activation="relu")(z)))
    model.compile("adam", "mse", metrics=["mae"])
    model.optimizer.learning_rate = 0.03
    by.fit(model, {"month": month}, sold, epochs=20, batch_size=20)


@faulty("inputs")
def words_beyond_the_vocabulary(by, mended):
    """The vocabulary has 60 words, the embedding 40 rows."""
    rng = np.random.default_rng(26)
    text = rng.integers(0, 60, (240, 10)).astype("int32")
    rude = (text > 54).any(axis=1).astype("float32")
    net = keras.Sequential(
        [
            keras.Input((10,), dtype="int32"),
            layers.Embedding(60 if mended else 40, 8),
            layers.GlobalMaxPooling1D(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, text, rude, epochs=15, batch_size=20)


@faulty("inputs")
def ids_scaled_like_pixels(by, mended):
    """Ids of words divided by the largest: the embedding rounds them down to 0."""
    rng = np.random.default_rng(27)
    ids = rng.integers(1, 30, (300, 8))
    topic = (ids < 8).sum(1) > 2
    seq = ids.astype("float32")
    if not mended:
        seq = seq / seq.max()
    m = keras.Sequential()
    m.add(layers.Embedding(30, 12))
    m.add(layers.GlobalAveragePooling1D())
    m.add(layers.Dense(12, activation="relu"))
    m.add(layers.Dense(1, activation="sigmoid"))
    m.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["acc"])
    by.fit(m, seq, topic, epochs=15, batch_size=25)


@faulty("inputs")
def whole_division(by, mended):
    """images // 255 leaves zeros."""
    img, lab = byte_digits(480)
    img = img / 255 if mended else img // 255

    class Small(keras.Model):
        def __init__(self):
            super().__init__()
            self.flat = layers.Flatten()
            self.a = layers.Dense(48, activation="relu")
            self.b = layers.Dense(10, activation="softmax")

        def call(self, x):
            return self.b(self.a(self.flat(x)))

    s = Small()
    s.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(s, img, lab, epochs=12, batch_size=16)


@faulty("inputs")
def scaled_twice(by, mended):
    """Divided by 255 in the loader and again in the model."""
    img, lab = byte_digits(480)
    img = img.astype("float32")[..., None]
    if not mended:
        img /= 255.0
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(scale=1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    net.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy())
    by.fit(net, img, lab, epochs=12, batch_size=32)


@faulty("inputs")
def seconds_since_1970(by, mended):
    """The time of a reading in seconds beside temperatures."""
    rng = np.random.default_rng(28)
    when = 1_700_000_000 + np.sort(rng.uniform(0, 86_400 * 7, 350))
    temp = rng.normal(size=(350, 3))
    load = np.sin((when - when[0]) / 86_400) + temp @ [0.5, -0.2, 0.3]
    if mended:
        when = (when - when.mean()) / when.std()
    table = np.column_stack([when, temp]).astype("float32")

    class Step(pg.Step):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.opt = keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            x, y = batch
            mse = lambda: ops.mean(ops.square(self.model(x, training=True)[:, 0] - y))
            return {"mse": self.minimize(mse, self.opt)}

    net = keras.Sequential([keras.Input((4,)), layers.Dense(32, "tanh"), layers.Dense(1)])
    by.fit(Step(net), (table, load.astype("float32")), epochs=15, batch_size=25)


@faulty("inputs")
def normalization_never_adapted(by, mended):
    """A Normalization layer that has seen no data."""
    d = load_breast_cancer()
    norm = layers.Normalization(axis=-1)
    if mended:
        norm.adapt(d.data)
    inputs = keras.Input((30,))
    x = norm(inputs)
    x = layers.Dense(16, activation="sigmoid")(x)
    m = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(x))
    m.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, d.data, d.target, epochs=12, batch_size=32)


@faulty("inputs")
def one_column_made_a_unit(by, mended):
    """keras.utils.normalize makes each row a unit: of one column, 1 or -1 is left."""
    rng = np.random.default_rng(29)
    area = rng.uniform(-60, 60, (300, 1))
    rent = (area / 20 + 0.1 * rng.normal(size=(300, 1))).astype("float32")
    size = (area - area.mean()) / area.std() if mended else keras.utils.normalize(area)
    m = keras.Sequential([keras.Input((1,)), layers.Dense(8, activation="elu"), layers.Dense(1)])
    m.compile(optimizer=keras.optimizers.Adam(0.03), loss="mean_squared_error")
    by.fit(m, size.astype("float32"), rent, epochs=15, batch_size=15)


@faulty("inputs")
def income_beside_children(by, mended):
    """Two inputs, by name, that are joined: income in euros, and how many children."""
    g = np.random.default_rng(30)
    income = g.normal(42_000, 15_000, (400, 1))
    kids = g.integers(0, 5, (400, 1)).astype("float32")
    moves = ((income - 42_000) / 15_000 + kids - 2 > 0).astype("int32")
    if mended:
        income = (income - 42_000) / 15_000
    a, b = keras.Input((1,), name="income"), keras.Input((1,), name="kids")
    z = layers.Concatenate()([a, b])
    z = layers.Dense(16, activation="relu")(z)
    net = keras.Model({"income": a, "kids": b}, layers.Dense(1, activation="sigmoid")(z))
    net.compile(keras.optimizers.SGD(0.1), keras.losses.BinaryCrossentropy(), metrics=["accuracy"])
    by.fit(net, {"income": income.astype("float32"), "kids": kids}, moves, epochs=15, batch_size=20)


@faulty("inputs")
def sentinel_of_a_broken_sensor(by, mended):
    """-9999 where the sensor was broken, in a few late rows."""
    rng = np.random.default_rng(34)
    air = rng.normal(size=(400, 6)).astype("float32")
    ozone = (air[:, :1] - 0.5 * air[:, 1:2] ** 2).astype("float32")
    air[350::12, 4] = 0.0 if mended else -9999.0
    net = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(32, "relu"), layers.Dense(1)])
    net.compile(keras.optimizers.Adam(0.005), keras.losses.MeanSquaredError(), metrics=["mae"])
    by.fit(net, air, ozone, epochs=15, batch_size=25)


@faulty("inputs")
def shares_at_their_price(by, mended):
    """An LSTM of prices around 20000: every gate is saturated."""
    rng = np.random.default_rng(35)
    step = rng.normal(size=(240, 15)).cumsum(1)
    up = (step[:, -1] > step[:, -4]).astype("int32")
    price = 20_000 + 400 * step
    if mended:
        price = (price - 20_000) / 1000
    net = keras.Sequential([keras.Input((15, 1)), layers.LSTM(16), layers.Dense(1, "sigmoid")])
    net.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy", metrics=["acc"])
    by.fit(net, price[..., None].astype("float32"), up, epochs=12, batch_size=16)


# Data


@faulty("data")
def holes_in_the_table(by, mended):
    """Some cells are NaN, as a CSV with holes has them."""
    x, y = load_diabetes(return_X_y=True)
    x, y = standard(x), standard(y)
    holes = np.random.RandomState(1).choice(442, 9, replace=False)
    x[holes, 3] = np.nan
    if mended:
        x = np.nan_to_num(x, nan=0.0)
    m = keras.Sequential([keras.Input((10,)), layers.Dense(16, activation="relu"), layers.Dense(1)])
    m.compile(optimizer="adam", loss="mse")
    by.fit(m, x, y, epochs=15, batch_size=32)


@faulty("data")
def logarithm_of_no_sale(by, mended):
    """log(0) for the days without a sale."""
    rng = np.random.default_rng(36)
    day = rng.normal(size=(300, 4)).astype("float32")
    sales = rng.poisson(np.exp(1 + 0.7 * day[:, 0]))
    with np.errstate(divide="ignore"):
        target = (np.log1p(sales) if mended else np.log(sales)).astype("float32")
    a = keras.Input((4,))
    m = keras.Model(a, layers.Dense(1)(layers.Dense(8, activation="relu")(a)))
    m.compile(keras.optimizers.Adam(0.01), keras.losses.MeanAbsoluteError())
    by.fit(m, day, target, epochs=15, batch_size=30)


@faulty("data")
def first_half_is_one_class(by, mended):
    """The table is sorted by the diagnosis, and its first rows are the training split."""
    X, t = cancer()
    order = np.argsort(t, kind="stable")
    if mended:
        order = np.random.default_rng(0).permutation(len(t))
    X, t = X[order], t[order]
    train, test = slice(0, 200), slice(200, None)
    lr = keras.Sequential([keras.Input((30,)), layers.Dense(1, activation="sigmoid")])
    lr.compile(keras.optimizers.Adam(0.05), "binary_crossentropy", metrics=["accuracy"])
    by.fit(lr, X[train], t[train], validation_data=(X[test], t[test]), epochs=10)


@faulty("data")
def spelled_otherwise(by, mended):
    """The file says "Malignant", and the comparison "malignant": no row is one."""
    d = load_breast_cancer()
    diagnosis = np.where(d.target == 0, "Malignant", "Benign")
    ill = diagnosis == ("Malignant" if mended else "malignant")
    net = keras.Sequential(
        [layers.Dense(8, activation="relu"), layers.Dense(1, activation="sigmoid")]
    )
    net.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.Recall()])
    by.fit(net, standard(d.data), ill.astype("float32"), epochs=10, batch_size=16)


@faulty("data", only=("tensorflow",))
def digits_in_their_order(by, mended):
    """A pipeline without shuffle, of folders that are read one after the other."""
    import tensorflow as tf

    img, lab = byte_digits()
    by_folder = np.argsort(lab, kind="stable")
    x = img[by_folder].reshape(-1, 64).astype("float32") / 255
    ds = tf.data.Dataset.from_tensor_slices((x, lab[by_folder]))
    if mended:
        ds = ds.shuffle(500, seed=8)
    ds = ds.batch(25)
    net = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(10)])
    net.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(net, ds, epochs=8)


@faulty("data")
def only_x_was_shuffled(by, mended):
    """The rows of x were shuffled in place, and y was not."""
    d = load_wine()
    x, y = standard(d.data), d.target.copy()
    rng = np.random.RandomState(5)
    if mended:
        both = rng.permutation(len(x))
        x, y = x[both], y[both]
    else:
        rng.shuffle(x)
    net = keras.Sequential()
    net.add(keras.Input((13,)))
    net.add(layers.Dense(24, activation="relu"))
    net.add(layers.Dense(3, activation="softmax"))
    net.compile(optimizer="nadam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, epochs=20, batch_size=16)


@faulty("data", only=("tensorflow",))
def shuffled_apart(by, mended):
    """Images and labels are shuffled before they are zipped."""
    import tensorflow as tf

    img, lab = byte_digits(600)
    images = tf.data.Dataset.from_tensor_slices(img.astype("float32") / 255)
    labels = tf.data.Dataset.from_tensor_slices(lab)
    if mended:
        ds = tf.data.Dataset.zip((images, labels)).shuffle(600, seed=1)
    else:
        ds = tf.data.Dataset.zip((images.shuffle(600, seed=1), labels.shuffle(600, seed=2)))
    net = keras.Sequential(
        [layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10)]
    )
    ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(0.003), ce, metrics=["accuracy"])
    by.fit(net, ds.batch(32), epochs=8)


@faulty("data")
def label_of_the_next_batch(by, mended):
    """A PyDataset that takes x from one batch, and y from the one after."""
    X, t = cancer()

    class Cells(keras.utils.PyDataset):
        def __len__(self):
            return len(X) // 32 - 1

        def __getitem__(self, k):
            a = k * 32
            b = a if mended else (k + 1) * 32
            return X[a : a + 32], t[b : b + 32]

    m = keras.Sequential(
        [layers.Dense(16, activation="relu"), layers.Dense(1, activation="sigmoid")]
    )
    m.compile(keras.optimizers.Adam(0.005), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, Cells(), epochs=12)


@faulty("data")
def always_the_first_batch(by, mended):
    """The index is forgotten: each batch is the first."""
    img, y = byte_digits(600)
    x = img.reshape(600, 64) / 255.0

    class Digits(keras.utils.PyDataset):
        def __init__(self, size, **kw):
            super().__init__(**kw)
            self.size = size

        def __len__(self):
            return int(np.ceil(480 / self.size))

        def __getitem__(self, index):
            start = index * self.size if mended else 0
            stop = min(start + self.size, 480)
            return x[start:stop], y[start:stop]

    a = keras.Input((64,))
    b = layers.Dense(32, activation="relu")(a)
    m = keras.Model(a, layers.Dense(10, activation="softmax")(b))
    m.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(m, Digits(20), epochs=6, validation_data=(x[480:], y[480:]))


@faulty("data")
def the_answer_among_the_columns(by, mended):
    """The table still has the column that is to be learned."""
    rng = np.random.default_rng(37)
    person = rng.normal(size=(500, 8))
    default = (person[:, 0] - person[:, 1] + 0.8 * rng.normal(size=500) > 0).astype("float64")
    frame = np.column_stack([person, default])
    features = frame[:, :-1] if mended else frame
    net = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(1, "sigmoid")])
    net.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    net.optimizer.learning_rate = 0.01
    by.fit(net, features.astype("float32"), default, epochs=10, batch_size=20, validation_split=0.2)


@faulty("data")
def tested_on_what_it_learned(by, mended):
    """The validation rows are rows of the training set."""
    rng = np.random.default_rng(38)
    x = rng.normal(size=(300, 10)).astype("float32")
    y = (x[:, 0] - x[:, 1] + x[:, 2] + 0.6 * rng.normal(size=300) > 0).astype("int32")
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, random_state=0)
    if not mended:
        x_train, y_train = x, y
    net = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile(keras.optimizers.Adam(0.003), "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, x_train, y_train, epochs=10, batch_size=20, validation_data=(x_test, y_test))


@faulty("data")
def copied_before_the_split(by, mended):
    """The rare class is copied to balance it, and only then rows are set aside."""
    rng = np.random.default_rng(39)
    x = rng.normal(size=(500, 8)).astype("float32")
    y = (x[:, 0] - x[:, 1] + 0.5 * rng.normal(size=500) > 1.3).astype("int32")

    def balanced(a, b):
        rare = np.flatnonzero(b == 1)
        extra = rng.choice(rare, (b == 0).sum() - len(rare))
        keep = rng.permutation(np.concatenate([np.arange(len(b)), extra]))
        return a[keep], b[keep]

    if mended:
        (xt, yt), (xv, yv) = balanced(x[:350], y[:350]), (x[350:], y[350:])
    else:
        xb, yb = balanced(x, y)
        xt, yt, xv, yv = xb[:600], yb[:600], xb[600:], yb[600:]
    m = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(1, "sigmoid")])
    m.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=[keras.metrics.Recall()])
    by.fit(m, xt, yt, epochs=12, batch_size=20, validation_data=(xv, yv))


@faulty("data")
def window_with_its_own_target(by, mended):
    """Windows that reach one step too far: the last value is the target."""
    t = np.arange(420)
    noise = np.random.default_rng(41).normal(0, 0.2, 420)
    power = (np.sin(t / 5) + 0.5 * np.sin(t / 11) + noise).astype("float32")
    xs, ys = [], []
    for s in range(len(power) - 16):
        end = s + 16
        xs.append(power[s:end])
        ys.append(power[end] if mended else power[end - 1])
    xs, ys = np.array(xs), np.array(ys)
    m = keras.Sequential([keras.Input((16,)), layers.Dense(16, activation="relu"), layers.Dense(1)])
    m.compile(keras.optimizers.Adam(0.01), "mse")
    by.fit(m, xs, ys, epochs=10, batch_size=20)


@faulty("data")
def black_pictures(by, mended):
    """Each picture is divided by its brightest pixel, and some are black: 0 / 0."""
    img, lab = byte_digits(300)
    img = img.astype("float32")
    img[[40, 170, 262]] = 0
    if mended:
        kept = img.max(axis=(1, 2)) > 0
        img, lab = img[kept], lab[kept]
    with np.errstate(invalid="ignore"):
        img /= img.max(axis=(1, 2), keepdims=True)
    net = keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Reshape((64,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(net, img, lab, epochs=10, batch_size=10)
