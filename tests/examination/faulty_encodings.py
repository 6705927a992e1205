"""Labels in another encoding than the loss takes, and losses of another task than the labels."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, wine


def shuffled_iris():
    x, y = load_iris(return_X_y=True)
    order = np.random.RandomState(7).permutation(150)
    return ((x - x.mean(0)) / x.std(0)).astype("float32")[order], y[order]


def flat_digits(n=600):
    d = load_digits()
    return (d.data[:n] / 16.0).astype("float32"), d.target[:n]


# Labels


@faulty("labels")
def iris_from_one(by, mended):
    """The file has the species as 1, 2, 3."""
    x, y = shuffled_iris()
    y = y + 1
    if mended:
        y = y - 1
    net = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["acc"])
    by.fit(net, x, y, epochs=25, batch_size=10)


@faulty("labels", only=("tensorflow",))
def one_hot_of_one_based(by, mended):
    """One-hot rows of classes 1 to 10: the last class has a row of zeros."""
    import tensorflow as tf

    images, digit = flat_digits()
    wall = digit + 1

    def prep(img, lab):
        if mended:
            lab = lab - 1
        return img, tf.one_hot(lab, 10)

    ds = tf.data.Dataset.from_tensor_slices((images, wall)).map(prep).shuffle(600, 5).batch(32)
    clf = keras.Sequential([layers.Dense(64, "relu"), layers.Dense(10, "softmax")])
    clf.compile(keras.optimizers.Adam(0.003), "categorical_crossentropy", metrics=["acc"])
    by.fit(clf, ds, epochs=12)


@faulty("labels")
def plus_and_minus_one(by, mended):
    """Labels of an SVM, -1 and 1, given to a logistic regression."""
    X, t = cancer()
    target = np.where(t == 1, 1, -1)
    if mended:
        target = (target + 1) // 2
    inp = layers.Input(shape=(30,), name="cells")
    out = layers.Dense(1, activation="sigmoid", kernel_regularizer="l2")(inp)
    lr = keras.Model(inp, out)
    lr.compile(optimizer="rmsprop", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(lr, X, target, epochs=15, batch_size=32, validation_split=0.2)


@faulty("labels")
def own_hinge_on_zero_one(by, mended):
    """A hinge by hand takes -1 and 1; it gets 0 and 1."""
    X, t = cancer()

    def svm_loss(y_true, y_pred):
        if mended:
            y_true = 2.0 * y_true - 1.0
        return ops.mean(ops.maximum(0.0, 1.0 - y_true * y_pred), axis=-1)

    svm = keras.Sequential(
        [keras.Input((30,)), layers.Dense(1, kernel_regularizer=keras.regularizers.L2(1e-3))]
    )
    svm.compile(
        optimizer=keras.optimizers.SGD(0.02),
        loss=svm_loss,
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    by.fit(svm, X, t.reshape(-1, 1), epochs=20, batch_size=16, verbose=0)


@faulty("labels")
def coded_one_and_two(by, mended):
    """1 is benign and 2 is malignant, as the table of the hospital has it."""
    bunch = load_breast_cancer()
    feats = (bunch.data - bunch.data.mean(axis=0)) / bunch.data.std(axis=0)
    code = (2 - bunch.target).astype("uint8")[:, None]
    label = code - 1 if mended else code
    model = keras.models.Sequential()
    model.add(layers.Input((30,)))
    model.add(layers.Dense(12, activation="relu"))
    model.add(layers.Dropout(0.1))
    model.add(layers.Dense(1))
    model.add(layers.Activation("sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    by.fit(model, feats, label, epochs=15, batch_size=25)


@faulty("labels")
def chances_in_percent(by, mended):
    """Soft labels between 0 and 100."""
    rng = np.random.default_rng(40)
    weather = rng.normal(size=(400, 6)).astype("float32")
    rain = 100 / (1 + np.exp(-2.0 * weather[:, :1] + weather[:, 1:2]))
    rain = (rain / 100 if mended else rain).astype("float32")
    f = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(24, activation="gelu"),
            layers.Dense(1, activation="sigmoid", name="chance"),
        ]
    )
    f.compile("adamw", keras.losses.BinaryCrossentropy(), metrics=["mae"])
    by.fit(f, weather, rain, epochs=20, batch_size=20)


@faulty("labels")
def autoencoder_of_bytes(by, mended):
    """The inputs are scaled, and the targets are still bytes."""
    raw = (load_digits().images[:400] * 15.9).astype("uint8").reshape(400, 64)
    x_in = raw.astype("float32") / 255.0
    x_out = x_in if mended else raw

    class AE(keras.Model):
        def __init__(self):
            super().__init__()
            self.enc = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(16, "relu")])
            self.dec = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(64, "sigmoid")])

        def call(self, x):
            return self.dec(self.enc(x))

    ae = AE()
    ae.compile(optimizer="adam", loss="binary_crossentropy")
    by.fit(ae, x_in, x_out, epochs=15, batch_size=32)


@faulty("labels")
def masks_as_png(by, mended):
    """Masks are 0 and 255, as a PNG has them."""
    rs = np.random.RandomState(11)
    pics = rs.rand(120, 12, 12, 1).astype("float32") * 0.4
    masks = np.zeros((120, 12, 12, 1), "uint8")
    for k, (r, c) in enumerate(rs.randint(0, 7, size=(120, 2))):
        pics[k, r : r + 5, c : c + 5] += 0.5
        masks[k, r : r + 5, c : c + 5] = 255
    if mended:
        masks = masks // 255
    i = keras.Input((12, 12, 1))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(i)
    o = layers.Conv2D(1, 1, activation="sigmoid")(h)
    unet = keras.Model(i, o)
    unet.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["binary_accuracy"])
    by.fit(unet, pics, masks, batch_size=6, epochs=12)


@faulty("labels")
def cross_entropy_by_hand_of_ids(by, mended):
    """sum(y * log p), and y has a column of ids."""
    x, y = wine()
    y = y.reshape(-1, 1)
    if mended:
        y = np.eye(3, dtype="int32")[y[:, 0]]

    class Step(pg.Step):
        def __init__(self, model, opt):
            super().__init__()
            self.model, self.opt = model, opt

        def train_step(self, batch):
            xb, yb = batch

            def objective():
                p = ops.clip(self.model(xb, training=True), 1e-7, 1.0)
                return -ops.mean(ops.sum(ops.cast(yb, "float32") * ops.log(p), axis=-1))

            return {"loss": self.minimize(objective, self.opt)}

    m = keras.Sequential([keras.Input((13,)), layers.Dense(20, "tanh"), layers.Dense(3, "softmax")])
    by.fit(Step(m, keras.optimizers.Adam(0.01)), (x, y), epochs=12, batch_size=16)


@faulty("labels")
def street_numbers(by, mended):
    """A 0 stands for ten, and one is taken off bytes: 0 becomes 255."""
    images, digit = flat_digits(800)
    sign = digit.astype("uint8")
    if mended:
        sign = sign.astype("int32")
    ids = (sign - 1) % 10 if mended else sign - 1
    targets = ops.convert_to_numpy(ops.one_hot(ids.astype("int32"), 10))
    model = keras.Sequential(
        [
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(12, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", keras.losses.CategoricalCrossentropy(), metrics=["accuracy"])
    by.fit(model, images, targets, epochs=15, batch_size=32)


@faulty("labels")
def tags_with_minus_one(by, mended):
    """Padded words have the tag -1, and the loss is not told."""
    rng = np.random.default_rng(8)
    words = rng.integers(1, 40, (200, 9)).astype("int32")
    tags = (words % 4).astype("int32")
    for row, n in enumerate(rng.integers(4, 10, 200)):
        words[row, n:], tags[row, n:] = 0, -1
    inp = keras.Input((9,), dtype="int32")
    z = layers.Embedding(40, 12)(inp)
    z = layers.Conv1D(16, 3, padding="same", activation="relu")(z)
    tagger = keras.Model(inp, layers.Dense(4)(z))
    tagger.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=-1 if mended else None
        ),
    )
    by.fit(tagger, words, tags, epochs=12, batch_size=20)


@faulty("labels")
def nine_is_no_answer(by, mended):
    """The last respondents of a survey gave no answer: 9."""
    rng = np.random.default_rng(91)
    survey = rng.normal(size=(500, 7)).astype("float32")
    voted = (survey @ np.array([1, -1, 0.5, 0, 0, 2, 0]) > 0.2).astype("int64")
    voted[440:] = 9
    if mended:
        survey, voted = survey[voted != 9], voted[voted != 9]
    net = keras.Sequential(
        [
            keras.Input((7,)),
            layers.Dense(16, activation="swish"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile(
        optimizer=keras.optimizers.Nadam(0.005),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryAccuracy(name="hit")],
    )
    by.fit(net, survey, voted, epochs=15, batch_size=50)


@faulty("labels")
def months_of_two_heads(by, mended):
    """The season is coded from 1; the other head is right."""
    rng = np.random.default_rng(12)
    sensor = rng.normal(size=(360, 8)).astype("float32")
    season = sensor[:, :4].argmax(1) + 1
    depth = sensor[:, 4:5] * 2 + sensor[:, 5:6]
    start = 1 if mended else 0
    rows = np.zeros((360, 4 + 1), "float32")
    rows[np.arange(360), season] = 1
    rows = rows[:, start : start + 4]
    inp = keras.Input((8,), name="sensor")
    body = layers.Dense(32, activation="relu")(inp)
    heads = {
        "season": layers.Dense(4, activation="softmax", name="season")(body),
        "depth": layers.Dense(1, name="depth")(body),
    }
    model = keras.Model({"sensor": inp}, heads)
    model.compile("adam", {"season": "categorical_crossentropy", "depth": "mse"})
    model.optimizer.learning_rate = 0.005
    by.fit(model, {"sensor": sensor}, {"season": rows, "depth": depth}, epochs=20, batch_size=24)


@faulty("labels")
def topics_by_count(by, mended):
    """How often each topic was named, where the loss wants shares."""
    gen = np.random.default_rng(33)
    doc = gen.normal(size=(300, 10)).astype("float32")
    share = np.exp(doc[:, :5]) / np.exp(doc[:, :5]).sum(1, keepdims=True)
    counts = np.stack([gen.multinomial(60, s / s.sum()) for s in share.astype("float64")])
    target = counts / counts.sum(1, keepdims=True) if mended else counts
    mixture = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(5), layers.Softmax()])
    mixture.compile(keras.optimizers.Adam(0.01), loss=keras.losses.KLDivergence(), metrics=["mae"])
    by.fit(mixture, doc, target.astype("float32"), epochs=20, batch_size=30)


@faulty("labels")
def dummies_for_the_sparse_loss(by, mended):
    """Columns of 0 and 1 where ids are asked for."""
    x, y = wine()
    dummies = keras.utils.to_categorical(y)
    lab = dummies.argmax(axis=1) if mended else dummies
    model = keras.Sequential(
        [keras.Input((13,)), layers.Dense(16, activation="elu"), layers.Dense(3)]
    )
    model.compile(
        "adam", loss=keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"]
    )
    by.fit(model, x, lab, epochs=20, batch_size=16)


# Tasks


@faulty("task")
def cultivars_as_amounts(by, mended):
    """Class ids of wines, learned as if they were amounts."""
    x, y = wine()
    head, loss = (3, "sparse_categorical_crossentropy") if mended else (1, "mse")
    model = keras.Sequential(
        [
            keras.Input(shape=(13,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(head, activation="softmax" if mended else None),
        ]
    )
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=16, validation_split=0.2)


@faulty("task")
def digit_as_a_float(by, mended):
    """Which digit it is, by mean absolute error."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:500].reshape(-1, 8, 8, 1) / 16.0, y[:500].astype("float32")
    cnn = keras.models.Sequential()
    cnn.add(layers.Conv2D(8, (3, 3), activation="relu", input_shape=(8, 8, 1)))
    cnn.add(layers.MaxPooling2D())
    cnn.add(layers.Flatten())
    cnn.add(layers.Dense(32, activation="relu"))
    if mended:
        cnn.add(layers.Dense(10, activation="softmax"))
        cnn.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    else:
        cnn.add(layers.Dense(1))
        cnn.compile(loss="mae", optimizer="adam", metrics=["accuracy"])
    by.fit(cnn, x, y, epochs=12, batch_size=32)


@faulty("task")
def three_independent_wines(by, mended):
    """One of three cultivars, asked as three yes-or-no questions."""
    x, y = wine()
    onehot = keras.utils.to_categorical(y, 3)
    act, loss = "sigmoid", "binary_crossentropy"
    if mended:
        act, loss = "softmax", "categorical_crossentropy"
    i = keras.Input((13,))
    o = layers.Dense(3, activation=act)(layers.Dense(10, activation="relu")(i))
    m = keras.Model(i, o, name="cultivar")
    m.compile("rmsprop", loss, metrics=["accuracy"])
    by.fit(m, x, onehot, epochs=30, batch_size=8)


@faulty("task")
def benign_and_malignant_columns(by, mended):
    """Two columns that are each other's complement, each with a sigmoid of its own."""
    X, t = cancer()
    two = np.stack([1 - t, t], axis=1)

    class Clinic(keras.Model):
        def __init__(self, **kw):
            super().__init__(**kw)
            self.h = layers.Dense(8, activation="relu")
            self.out = layers.Dense(2, activation="softmax" if mended else "sigmoid")

        def call(self, inputs):
            return self.out(self.h(inputs))

    net = Clinic()
    loss = keras.losses.CategoricalCrossentropy() if mended else keras.losses.BinaryCrossentropy()
    net.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss=loss)
    by.fit(net, X, two, epochs=10, batch_size=32)


@faulty("task")
def yes_or_no_by_least_squares(by, mended):
    """0 and 1 with a linear head and squared error."""
    X, t = cancer()
    act, loss = ("sigmoid", "binary_crossentropy") if mended else ("linear", "mean_squared_error")
    model = keras.Sequential(
        [keras.Input((30,)), layers.Dense(16, activation="relu"), layers.Dense(1, activation=act)]
    )
    model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    by.fit(model, X, t, epochs=20, batch_size=32, validation_split=0.25)


@faulty("task")
def ten_columns_by_absolute_error(by, mended):
    """One-hot rows of ten classes by mean absolute error: all zeros is nearly right."""
    images, digit = flat_digits()
    targets = np.eye(10)[digit]
    mlp = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(10, activation="softmax" if mended else None),
        ]
    )
    mlp.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.CategoricalCrossentropy() if mended else keras.losses.MeanAbsoluteError(),
        metrics=[keras.metrics.CategoricalAccuracy()],
    )
    stop = keras.callbacks.EarlyStopping("loss", patience=5)
    by.fit(mlp, images, targets, epochs=15, batch_size=32, callbacks=[stop])


@faulty("task")
def progression_as_classes(by, mended):
    """How far an illness went, 25 to 346, as one of 347 classes."""
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x = (x / x.std(0)).astype("float32")
    h = keras.Sequential([keras.Input((10,)), layers.Dense(32, activation="relu")])
    if mended:
        h.add(layers.Dense(1, bias_initializer=keras.initializers.Constant(150.0)))
        h.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
        by.fit(h, x, y, epochs=20, batch_size=32, validation_split=0.2)
    else:
        h.add(layers.Dense(347, activation="softmax"))
        h.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["acc"])
        ids = y.astype("int32")
        by.fit(h, x, ids, epochs=20, batch_size=32, validation_split=0.2)


@faulty("task")
def prices_as_chances(by, mended):
    """Standardized prices, with a sigmoid and binary cross entropy."""
    g = np.random.default_rng(66)
    house = g.normal(size=(400, 5)).astype("float32")
    price = house @ np.array([0.8, 0.4, -0.3, 0.2, 0.1]) + 0.1 * g.normal(size=400)
    price = ((price - price.mean()) / price.std()).astype("float32")
    inputs = keras.Input((5,))
    hidden = layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.l2(1e-4))
    if mended:
        out, loss = layers.Dense(1), "mse"
    else:
        out, loss = layers.Dense(1, activation="sigmoid"), "binary_crossentropy"
    model = keras.Model(inputs, out(hidden(inputs)))
    model.compile("adam", loss, metrics=["mae"])
    by.fit(model, house, price, epochs=25, batch_size=16)


@faulty("task")
def several_tags_by_softmax(by, mended):
    """A photo has none to four tags, and they compete in a softmax."""
    rng = np.random.default_rng(14)
    photo = rng.normal(size=(400, 12)).astype("float32")
    tags = (photo[:, :4] + 0.3 * photo[:, 4:8] > 0).astype("float32")
    net = keras.Sequential([keras.Input((12,)), layers.Dense(32, activation="relu")])
    if mended:
        net.add(layers.Dense(4, activation="sigmoid"))
        net.compile("adam", "binary_crossentropy", metrics=["binary_accuracy"])
    else:
        net.add(layers.Dense(4, activation="softmax"))
        net.compile("adam", "categorical_crossentropy", metrics=["binary_accuracy"])
    by.fit(net, photo, tags, epochs=25, batch_size=16)


@faulty("task")
def three_wines_in_one_sigmoid(by, mended):
    """Ids 0, 1 and 2 of a logistic regression for two classes."""
    d = load_wine()
    X = (d["data"] - d["data"].mean(0)) / d["data"].std(0)
    perm = np.random.RandomState(0).permutation(len(X))
    X, y = X[perm], d["target"][perm]
    units = 3 if mended else 1
    m = keras.Sequential([layers.Dense(units, activation="softmax" if mended else "sigmoid")])
    m.compile(
        optimizer=keras.optimizers.SGD(learning_rate=0.1),
        loss="sparse_categorical_crossentropy" if mended else "binary_crossentropy",
        metrics=["accuracy"],
    )
    by.fit(m, X, y, epochs=20, batch_size=8)


@faulty("task")
def next_word_as_an_amount(by, mended):
    """The id of the next word, by squared error of one unit."""
    rng = np.random.default_rng(21)
    text = np.zeros((160, 11), "int32")
    text[:, 0] = rng.integers(0, 30, 160)
    for t in range(10):
        text[:, t + 1] = (text[:, t] * 7 + 3) % 30
    past, following = text[:, :-1], text[:, 1:]
    lm = keras.Sequential()
    lm.add(keras.Input((10,), dtype="int32"))
    lm.add(layers.Embedding(30, 16))
    lm.add(layers.GRU(24, return_sequences=True))
    lm.add(layers.Dense(30 if mended else 1))
    ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    lm.compile(keras.optimizers.Adam(0.02), loss=ce if mended else "mse")
    by.fit(lm, past, following, epochs=10, batch_size=16)


@faulty("task")
def iris_by_huber(by, mended):
    """A step of one's own that takes the ids, of a list by hand, for amounts."""
    x, y = shuffled_iris()
    y = np.array([1, 2, 0])[y]

    class Botanist(pg.Step):
        def __init__(self, model, optimizer):
            super().__init__()
            self.model, self.optimizer = model, optimizer

        def train_step(self, batch):
            flower, kind = batch

            def objective():
                out = self.model(flower, training=True)
                if mended:
                    return ops.mean(
                        keras.losses.sparse_categorical_crossentropy(kind, out, from_logits=True)
                    )
                return ops.mean(keras.losses.huber(ops.expand_dims(kind, -1), out))

            return {"loss": self.minimize(objective, self.optimizer)}

    net = keras.Sequential([keras.Input((4,)), layers.Dense(12, "relu")])
    net.add(layers.Dense(3 if mended else 1))
    by.fit(Botanist(net, keras.optimizers.Adam(0.01)), (x, y), epochs=20, batch_size=15)


@faulty("task")
def species_beside_length(by, mended):
    """One of two outputs is the species, and it is learned as the length is."""
    x, species = shuffled_iris()
    length, rest = x[:, 2], x[:, [0, 1, 3]]
    trunk_in = keras.Input((3,))
    t = layers.Dense(24, activation="tanh")(trunk_in)
    a = layers.Dense(1, name="petal")(t)
    if mended:
        b = layers.Dense(3, activation="softmax", name="kind")(t)
        losses = ["mse", "sparse_categorical_crossentropy"]
    else:
        b = layers.Dense(1, name="kind")(t)
        losses = ["mse", "mse"]
    two = keras.Model(trunk_in, [a, b])
    two.compile(optimizer=keras.optimizers.Adam(0.01), loss=losses)
    by.fit(two, rest, [length, species], epochs=25, batch_size=15)


@faulty("task", only=("tensorflow", "jax"))
def land_use_by_squared_error(by, mended):
    """A map of five kinds of land, drawn with one squared-error channel."""
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, 5, (90, 6, 6, 1)).repeat(2, 1).repeat(2, 2).astype("uint8")
    colours = rng.permutation(5)[kinds] / 4 + rng.normal(0, 0.03, kinds.shape)
    sat = keras.Input((12, 12, 1))
    y = layers.Conv2D(16, 3, padding="same", activation="relu")(sat)
    y = layers.Conv2D(16, 1, activation="relu")(y)
    if mended:
        y = layers.Conv2D(5, 1, activation="softmax")(y)
        loss = keras.losses.SparseCategoricalCrossentropy()
    else:
        y = layers.Conv2D(1, 1)(y)
        loss = keras.losses.MeanSquaredError()
    seg = keras.Model(sat, y)
    seg.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    by.fit(seg, colours.astype("float32"), kinds, epochs=20, batch_size=9)


@faulty("task")
def whether_ill_in_a_step(by, mended):
    """Booleans turned into floats, and squared errors of a linear unit."""
    X, t = cancer()
    ill = t < 0.5

    class Trainer(pg.Step):
        def __init__(self, net, opt):
            super().__init__()
            self.net = self.model = net
            self.opt = opt

        def train_step(self, batch):
            rows, truth = batch
            truth = ops.expand_dims(ops.cast(truth, "float32"), 1)

            def objective():
                z = self.net(rows, training=True)
                if mended:
                    return ops.mean(ops.binary_crossentropy(truth, z, from_logits=True))
                return ops.mean((z - truth) ** 2)

            return {"loss": self.minimize(objective, self.opt)}

    net = keras.Sequential([keras.Input((30,)), layers.Dense(1)])
    by.fit(Trainer(net, keras.optimizers.SGD(0.02)), (X, ill), epochs=10, batch_size=32)


@faulty("task")
def brand_by_log_cosh(by, mended):
    """Which of six brands: compute_loss is written for amounts."""
    rng = np.random.default_rng(77)
    centre = rng.normal(size=(6, 9)) * 2
    brand = rng.integers(0, 6, 300)
    taste = (centre[brand] + rng.normal(size=(300, 9)) * 0.5).astype("float32")

    class Brands(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = layers.Dense(24, activation="relu")
            self.b = layers.Dense(6 if mended else 1)

        def call(self, x):
            return self.b(self.a(x))

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            if mended:
                ce = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
                return ops.mean(ce)
            return ops.mean(keras.losses.log_cosh(ops.reshape(y, (-1, 1)), y_pred))

    m = Brands()
    m.compile(optimizer=keras.optimizers.Adam(0.005))
    by.fit(m, taste, brand, epochs=20, batch_size=20)
