"""Scores taken for probabilities and the other way, and heads that cannot give what is asked."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, digits, wine


class Train(pg.Step):
    """Minimizes what a function of the model and a batch returns."""

    def __init__(self, model, optimizer, loss):
        super().__init__()
        self.model, self.optimizer, self.loss = model, optimizer, loss

    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.loss(self.model, *batch), self.optimizer)}


def three_measures(n=300, seed=50):
    """Three amounts that follow from eight."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype("float32")
    y = np.stack([2 * x[:, 0] - x[:, 1], x[:, 2] + 1, 0.5 * x[:, 3] - x[:, 4]], axis=1)
    return x, (y + 0.05 * rng.normal(size=y.shape)).astype("float32")


# Scores and probabilities


@faulty("logits")
def digits_without_from_logits(by, mended):
    """Ten linear outputs, and the name of the loss."""
    x, y = digits(480)
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    if mended:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    by.fit(net, x, y, epochs=12, batch_size=32, validation_split=0.1)


@faulty("logits")
def tumour_scores(by, mended):
    """A unit without an activation before "binary_crossentropy"."""
    X, t = cancer()
    model = keras.Sequential()
    model.add(keras.Input((30,)))
    model.add(layers.Dense(16, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid" if mended else None))
    model.compile("adam", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(model, X, t, epochs=15, batch_size=32, class_weight={0: 1.5, 1: 1.0})


@faulty("logits", only=("jax", "torch"))
def softmax_said_to_be_logits(by, mended):
    """A softmax at the end, and from_logits=True."""
    x, y = wine()
    inp = keras.Input((13,))
    out = layers.Dense(3, activation="softmax")(layers.Dense(16, activation="relu")(inp))
    m = keras.Model(inp, out)
    m.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=not mended),
        metrics=["accuracy"],
    )
    by.fit(m, x, y, epochs=20, batch_size=16)


@faulty("logits", only=("tensorflow",))
def tf_nn_on_a_softmax(by, mended):
    """A function of tf.nn, that takes scores, after a softmax."""
    import tensorflow as tf

    d = load_digits()
    ds = tf.data.Dataset.from_tensor_slices(((d.data[:600] / 16).astype("float32"), d.target[:600]))

    def ce(y_true, y_pred):
        ids = tf.cast(tf.reshape(y_true, [-1]), tf.int32)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=ids, logits=y_pred)

    net = keras.Sequential([layers.Dense(48, activation="relu"), layers.Dense(10)])
    if not mended:
        net.add(layers.Softmax())
    net.compile(optimizer=keras.optimizers.Adam(0.002), loss=ce)
    by.fit(net, ds.shuffle(600, seed=1).batch(32), epochs=8)


@faulty("logits", only=("tensorflow",))
def sigmoid_of_a_sigmoid(by, mended):
    """sigmoid_cross_entropy_with_logits of a model that ends in a sigmoid."""
    import tensorflow as tf

    X, t = cancer()

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.d1 = layers.Dense(12, activation="relu")
            self.d2 = layers.Dense(1, activation=None if mended else "sigmoid")
            self.avg = keras.metrics.Mean(name="loss")

        def call(self, x):
            return self.d2(self.d1(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                z = self(x, training=True)[:, 0]
                ce = tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=z)
                loss = tf.reduce_mean(ce)
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.avg.update_state(loss)
            return {"loss": self.avg.result()}

    m = Net()
    m.compile(optimizer="adam")
    by.fit(m, X, t, epochs=15, batch_size=32)


@faulty("logits")
def log_loss_of_scores(by, mended):
    """The log loss as in the textbook, clipped, of a linear unit."""
    X, t = cancer()

    def logloss(model, rows, truth):
        p = model(rows, training=True)[:, 0]
        if mended:
            p = ops.sigmoid(p)
        p = ops.clip(p, 1e-6, 1 - 1e-6)
        return -ops.mean(truth * ops.log(p) + (1 - truth) * ops.log(1 - p))

    net = keras.Sequential([keras.Input((30,)), layers.Dense(10, "relu"), layers.Dense(1)])
    by.fit(Train(net, keras.optimizers.Adam(0.005), logloss), (X, t), epochs=10, batch_size=32)


@faulty("logits")
def backbone_with_its_own_softmax(by, mended):
    """The inner model ends in a softmax already, and the outer one adds another."""
    d = load_digits()
    imgs, ids = d.images[:500, ..., None].astype("float32") / 16, d.target[:500]
    inner_in = keras.Input((8, 8, 1))
    h = layers.Flatten()(layers.Conv2D(8, 3, activation="relu")(inner_in))
    inner = keras.Model(inner_in, layers.Dense(10, None if mended else "softmax")(h), name="body")
    outer = keras.Sequential([layers.GaussianNoise(0.05), inner, layers.Softmax(name="probs")])
    outer.compile(
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        metrics=["sparse_top_k_categorical_accuracy"],
    )
    by.fit(outer, imgs, ids, epochs=10, batch_size=25)


@faulty("logits")
def focal_loss_of_scores(by, mended):
    """A focal loss by hand that forgets the sigmoid."""
    rng = np.random.default_rng(31)
    table = rng.normal(size=(500, 6)).astype("float32")
    fraud = (table[:, :1] + table[:, 1:2] ** 2 + 0.9 * rng.normal(size=(500, 1)) > 1.5).astype(
        "float32"
    )

    def focal(y_true, y_pred, gamma=2.0):
        p = ops.sigmoid(y_pred) if mended else y_pred
        p = ops.clip(p, 1e-5, 1.0 - 1e-5)
        pt = y_true * p + (1 - y_true) * (1 - p)
        return ops.mean(-((1 - pt) ** gamma) * ops.log(pt), axis=-1)

    net = keras.Sequential([layers.Dense(24, "relu"), layers.Dense(12, "relu"), layers.Dense(1)])
    net.compile(keras.optimizers.Adam(0.01), loss=focal)
    by.fit(net, table, fraud, epochs=12, batch_size=25)


@faulty("logits")
def loss_function_without_from_logits(by, mended):
    """keras.losses.categorical_crossentropy of scores, in a step."""
    x, y = load_iris(return_X_y=True)
    keep = np.random.default_rng(2).permutation(150)
    x, y = ((x - x.mean(0)) / x.std(0)).astype("float32")[keep], np.eye(3, dtype="float32")[y[keep]]

    def loss(model, flowers, rows):
        scores = model(flowers, training=True)
        ce = keras.losses.categorical_crossentropy(rows, scores, from_logits=mended)
        return ops.mean(ce)

    net = keras.Sequential([keras.Input((4,)), layers.Dense(16, "relu"), layers.Dense(3)])
    by.fit(Train(net, keras.optimizers.Adam(0.01), loss), (x, y), epochs=15, batch_size=10)


@faulty("logits")
def flat_probabilities_as_logits(by, mended):
    """A sigmoid, then a Reshape, and from_logits=True."""
    rng = np.random.default_rng(17)
    pic = rng.normal(0, 0.3, (160, 10, 10, 1)).astype("float32")
    mask = np.zeros((160, 100), "int32")
    for k in range(160):
        r, c = rng.integers(0, 6, 2)
        pic[k, r : r + 4, c : c + 4, 0] += 1.0
        mask.reshape(-1, 10, 10)[k, r : r + 4, c : c + 4] = 1
    net = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
            layers.Reshape((-1,)),
        ]
    )
    net.compile("adam", loss=keras.losses.BinaryCrossentropy(from_logits=not mended))
    net.optimizer.learning_rate.assign(0.01)
    by.fit(net, pic, mask, epochs=12, batch_size=16)


@faulty("logits")
def one_head_of_scores(by, mended):
    """Two heads: the one for the sex has scores, and a loss of probabilities."""
    g = np.random.default_rng(9)
    voice = g.normal(size=(320, 10)).astype("float32")
    sex = (voice[:, 0] - voice[:, 3] > 0).astype("int32").reshape(-1, 1)
    accent = voice[:, 4:8].argmax(axis=1)
    x = keras.Input((10,), name="voice")
    h = layers.Dense(24, activation="relu")(x)
    outs = {
        "accent": layers.Dense(4, activation="softmax", name="accent")(h),
        "sex": layers.Dense(1, name="sex")(h),
    }
    bce = keras.losses.BinaryCrossentropy(from_logits=True) if mended else "binary_crossentropy"
    model = keras.Model(x, outs)
    model.compile(
        optimizer=keras.optimizers.Adam(0.005),
        loss={"accent": "sparse_categorical_crossentropy", "sex": bce},
    )
    by.fit(model, voice, {"accent": accent, "sex": sex}, epochs=15, batch_size=20)


@faulty("logits")
def log_softmax_and_probabilities(by, mended):
    """As in PyTorch, a log_softmax at the end; the loss takes probabilities."""
    x, y = wine()
    m = keras.Sequential(
        [
            keras.Input((13,)),
            layers.Dense(24, activation="silu"),
            layers.Dense(3, activation="softmax" if mended else "log_softmax"),
        ]
    )
    m.compile("adam", loss=keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    by.fit(m, x, y.astype("uint8"), epochs=20, batch_size=12)


@faulty("logits")
def student_of_scores(by, mended):
    """Divergence from a teacher's probabilities, of a student that gives scores."""
    rng = np.random.default_rng(23)
    x = rng.normal(size=(300, 7)).astype("float32")
    s = x @ rng.normal(size=(7, 4))
    teacher = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    inputs = keras.Input((7,))
    z = layers.Dense(4)(layers.Dense(20, activation="relu")(inputs))
    if mended:
        z = layers.Activation("softmax")(z)
    student = keras.Model(inputs, z, name="student")
    student.compile(keras.optimizers.Adam(0.01), loss="kl_divergence", metrics=["mae"])
    by.fit(student, x, teacher.astype("float32"), epochs=15, batch_size=20)


@faulty("logits")
def teacher_of_scores(by, mended):
    """The teacher's scores are not turned into probabilities before the divergence."""
    rng = np.random.default_rng(24)
    x = rng.normal(size=(320, 6)).astype("float32")
    teacher = keras.Sequential([keras.Input((6,)), layers.Dense(5, use_bias=False)])
    teacher.set_weights([rng.normal(size=(6, 5)) * 1.5])
    kl = keras.losses.KLDivergence()

    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(5, "softmax")])

        def call(self, x):
            return self.net(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return kl(ops.softmax(y, axis=-1) if mended else y, y_pred)

    d = Distiller()
    d.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(d, x, ops.convert_to_numpy(teacher(x)), epochs=15, batch_size=32)


@faulty("logits")
def who_likes_which_film(by, mended):
    """A dot product of two embeddings, without a sigmoid."""
    rng = np.random.default_rng(44)
    taste, film = rng.normal(size=(30, 3)), rng.normal(size=(40, 3))
    pairs = rng.integers(0, [30, 40], size=(900, 2)).astype("int32")
    likes = ((taste[pairs[:, 0]] * film[pairs[:, 1]]).sum(1) > 0).astype("float32")
    who, what = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    u = layers.Embedding(30, 8, embeddings_initializer="he_normal")(who)
    v = layers.Embedding(40, 8, embeddings_initializer="he_normal")(what)
    match = layers.Dot(axes=1)([u, v])
    if mended:
        match = layers.Activation("sigmoid")(match)
    rec = keras.Model([who, what], match)
    rec.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy"])
    by.fit(rec, [pairs[:, 0], pairs[:, 1]], likes, epochs=12, batch_size=30)


# Heads


@faulty("head")
def softmax_of_one(by, mended):
    """A softmax over one unit is 1, whatever comes in."""
    X, t = cancer()
    model = keras.Sequential(
        [
            layers.Dense(16, activation="relu"),
            layers.Dense(8, activation="relu"),
            layers.Dense(1, activation="sigmoid" if mended else "softmax"),
        ]
    )
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    by.fit(model, X, t, epochs=15, batch_size=32, validation_split=0.2)


@faulty("head")
def softmax_of_one_in_a_step(by, mended):
    """The same in a step of one's own, and with squared error."""
    d = load_breast_cancer()
    X = ((d.data - d.data.mean(0)) / d.data.std(0)).astype("float32")
    y = d.target.astype("float32")[:, None]

    def brier(model, xb, yb):
        return ops.mean(ops.square(yb - model(xb, training=True)))

    inp = keras.Input((30,))
    z = layers.Dense(1)(layers.Dense(12, activation="tanh")(inp))
    p = layers.Activation("sigmoid")(z) if mended else layers.Softmax()(z)
    by.fit(
        Train(keras.Model(inp, p), keras.optimizers.Adam(0.01), brier),
        (X, y),
        epochs=8,
        batch_size=32,
    )


@faulty("head")
def softmax_over_rows_of_pixels(by, mended):
    """A softmax over axis 1, which is the height; the classes are the last axis."""
    rng = np.random.default_rng(71)
    ids = rng.integers(0, 3, (100, 5, 5)).repeat(2, 1).repeat(2, 2)
    image = (np.eye(3)[ids] + rng.normal(0, 0.35, ids.shape + (3,))).astype("float32")
    i = keras.Input((10, 10, 3))
    h = layers.Conv2D(12, 3, padding="same", activation="relu")(i)
    h = layers.Conv2D(3, 1)(h)
    o = layers.Softmax(axis=-1 if mended else 1)(h)
    seg = keras.Model(i, o)
    seg.compile(keras.optimizers.Adam(0.01), keras.losses.CategoricalCrossentropy())
    by.fit(seg, image, np.eye(3, dtype="uint8")[ids], epochs=12, batch_size=10)


@faulty("head")
def relu_before_binary(by, mended):
    """ReLU as the last activation of a classifier."""
    rng = np.random.default_rng(18)
    X = rng.normal(size=(400, 9)).astype("float32")
    churn = (X[:, 0] + X[:, 1] - X[:, 2] > 0).astype("int32")
    net = keras.models.Sequential(
        [
            layers.Dense(18, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(1, activation="sigmoid" if mended else "relu"),
        ]
    )
    net.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(net, X, churn, batch_size=20, epochs=15)


@faulty("head")
def tanh_before_binary(by, mended):
    """tanh goes below 0, where the loss has no slope."""
    X, y = load_diabetes(return_X_y=True)
    X, t = X / X.std(0), y > np.median(y)
    a = keras.Input((10,), name="features")
    b = layers.Dense(20, activation="tanh")(a)
    c = layers.Dense(1, activation="sigmoid" if mended else "tanh")(b)
    m = keras.Model(a, c)
    m.compile("sgd", keras.losses.BinaryCrossentropy(), metrics=[keras.metrics.AUC(name="auc")])
    m.optimizer.learning_rate.assign(0.05)
    by.fit(m, {"features": X}, t[:, None], epochs=15, batch_size=16)


@faulty("head")
def tanh_of_ten_scores(by, mended):
    """Scores between -1 and 1 cannot be sure of one class of ten."""
    x, y = digits(600)
    act = None if mended else "tanh"
    net = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10, act)]
    )
    net.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    by.fit(net, x, y, epochs=15, batch_size=32)


@faulty("head")
def illness_by_tanh(by, mended):
    """Centred targets go from -5 to 8, tanh to 1."""
    X, y = load_diabetes(return_X_y=True, scaled=False)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / 25
    r = keras.Sequential(name="regressor")
    r.add(layers.Dense(24, activation="tanh"))
    r.add(layers.Dense(1, activation="linear" if mended else "tanh"))
    r.compile(loss="mse", optimizer="adam", metrics=["mae"])
    by.fit(r, X, y, epochs=25, batch_size=16)


@faulty("head")
def fares_by_sigmoid(by, mended):
    """Fares of 3 to 30 from a unit that ends at 1."""
    rng = np.random.default_rng(20)
    trip = rng.uniform(0, 1, (300, 4)).astype("float32")
    fare = (3 + 20 * trip[:, :1] + 6 * trip[:, 1:2] * trip[:, 2:3]).astype("float32")

    class Taxi(keras.Model):
        def __init__(self):
            super().__init__()
            self.h1 = layers.Dense(32, activation="relu")
            self.o = layers.Dense(1, activation=None if mended else "sigmoid")

        def call(self, t):
            return self.o(self.h1(t))

    taxi = Taxi()
    taxi.compile(keras.optimizers.Adam(0.03), keras.losses.Huber())
    by.fit(taxi, trip, fare, epochs=20, batch_size=16)


@faulty("head")
def balance_by_relu(by, mended):
    """Balances are negative as often as not."""
    x, y = three_measures()
    balance = y[:, 0]
    a = keras.Input((8,))
    h = layers.Dense(32, activation="relu")(a)
    out = layers.Dense(1)(h)
    if not mended:
        out = layers.ReLU()(out)
    m = keras.Model(a, out)
    m.compile(optimizer=keras.optimizers.RMSprop(0.005), loss="mean_absolute_error")
    by.fit(m, x, balance, epochs=20, batch_size=15)


@faulty("head")
def one_unit_for_three_amounts(by, mended):
    """One unit, compared with each of three columns."""
    x, y = three_measures(seed=51)
    net = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(32, activation="relu"),
            layers.Dense(3 if mended else 1),
        ]
    )
    net.compile(optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.MeanSquaredError())
    by.fit(net, x, y, epochs=20, batch_size=20, validation_split=0.1)


@faulty("head")
def dropout_at_the_end(by, mended):
    """Half of the predictions are dropped, and the others doubled."""
    x, y = three_measures(seed=52)
    stack = [layers.Dense(40, activation="relu"), layers.Dropout(0.1), layers.Dense(3)]
    if not mended:
        stack.append(layers.Dropout(0.5))
    net = keras.Sequential(stack)
    net.compile("adam", "mse")
    net.optimizer.learning_rate = 0.01
    by.fit(net, x, y, epochs=15, batch_size=20)


@faulty("head")
def sigmoid_after_softmax(by, mended):
    """An Activation layer that was left behind the softmax."""
    d = load_wine()
    x = ((d.data - d.data.mean(0)) / d.data.std(0)).astype("float32")
    y = keras.utils.to_categorical(d.target)
    net = keras.Sequential()
    net.add(keras.Input((13,)))
    net.add(layers.Dense(16, activation="relu"))
    net.add(layers.Dense(3, activation="softmax"))
    if not mended:
        net.add(layers.Activation("sigmoid"))
    net.compile(optimizer="adam", loss=keras.losses.CategoricalCrossentropy())
    by.fit(net, x, y, epochs=30, batch_size=16)


@faulty("head")
def shares_of_what_are_amounts(by, mended):
    """A softmax over three amounts, some below 0."""
    x, y = three_measures(seed=53)

    class Amounts(keras.Model):
        def __init__(self, act):
            super().__init__()
            self.trunk = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(16, "relu")])
            self.last = layers.Dense(3, activation=act)

        def call(self, inputs, training=False):
            return self.last(self.trunk(inputs, training=training))

    m = Amounts(None if mended else "softmax")
    m.compile(optimizer=keras.optimizers.Adam(0.005), loss="mse", metrics=["mae"])
    by.fit(m, x, y, epochs=20, batch_size=30)


@faulty("head")
def classes_and_pixels_swapped(by, mended):
    """Reshape to (classes, pixels) and turned, as if the channels came first."""
    rng = np.random.default_rng(72)
    ids = rng.integers(0, 4, (120, 4, 4)).repeat(2, 1).repeat(2, 2)
    img = (ids[..., None] / 3 + rng.normal(0, 0.05, ids.shape + (1,))).astype("float32")
    inp = keras.Input((8, 8, 1))
    z = layers.Conv2D(16, 3, padding="same", activation="relu")(inp)
    z = layers.Conv2D(4, 1)(layers.Conv2D(16, 1, activation="relu")(z))
    if mended:
        z = layers.Reshape((64, 4))(z)
    else:
        z = layers.Permute((2, 1))(layers.Reshape((4, 64))(z))
    net = keras.Model(inp, layers.Activation("softmax")(z))
    net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    by.fit(net, img, ids.reshape(120, 64), epochs=20, batch_size=12)


@faulty("head")
def age_by_sigmoid_beside_the_smoker(by, mended):
    """Two heads: that of the age has the sigmoid of the other."""
    rng = np.random.default_rng(61)
    blood = rng.normal(size=(300, 9)).astype("float32")
    smokes = (blood[:, 0] > 0).astype("float32")
    age = (blood[:, 1] * 1.5 + blood[:, 2] - 0.5).astype("float32")
    inp = keras.Input((9,))
    z = layers.Dense(24, activation="relu")(inp)
    o1 = layers.Dense(1, activation="sigmoid", name="smokes")(z)
    o2 = layers.Dense(1, activation=None if mended else "sigmoid", name="age")(z)
    model = keras.Model(inp, [o1, o2])
    model.compile(optimizer="adam", loss=["binary_crossentropy", "mse"], loss_weights=[1.0, 0.5])
    by.fit(model, blood, [smokes, age], epochs=25, batch_size=15)


@faulty("head")
def events_by_a_linear_rate(by, mended):
    """A Poisson loss, and a unit that can go below 0."""
    rng = np.random.default_rng(62)
    x = rng.normal(size=(400, 5)).astype("float32")
    events = rng.poisson(np.exp(0.8 * x[:, 0] - 0.6 * x[:, 1] + 0.3)).astype("float32")
    glm = keras.Sequential(
        [keras.Input((5,)), layers.Dense(1, activation="exponential" if mended else None)]
    )
    glm.compile(optimizer=keras.optimizers.Adam(0.01), loss=keras.losses.Poisson())
    by.fit(glm, x, events, epochs=20, batch_size=32)


@faulty("head")
def width_without_softplus(by, mended):
    """A normal density by hand: the second unit is a width, and it may be negative."""
    rng = np.random.default_rng(63)
    x = rng.uniform(-2, 2, (400, 1)).astype("float32")
    y = (np.sin(2 * x) + (0.1 + 0.2 * np.abs(x)) * rng.normal(size=(400, 1))).astype("float32")

    def nll(y_true, y_pred):
        mu, sigma = y_pred[:, :1], y_pred[:, 1:]
        if mended:
            sigma = ops.softplus(sigma) + 1e-3
        return ops.mean(ops.log(sigma) + 0.5 * ((y_true - mu) / sigma) ** 2, axis=-1)

    mdn = keras.Sequential([keras.Input((1,)), layers.Dense(32, "tanh"), layers.Dense(2)])
    mdn.compile(keras.optimizers.Adam(0.005), loss=nll)
    by.fit(mdn, x, y, epochs=15, batch_size=20)


@faulty("head")
def forecast_by_the_lstm_itself(by, mended):
    """The last layer is LSTM(1), whose tanh ends at 1; the series goes to 3."""
    t = np.arange(330)
    series = (3 * np.sin(t / 6) + 0.05 * np.random.default_rng(4).normal(size=330)).astype(
        "float32"
    )
    windows = np.lib.stride_tricks.sliding_window_view(series, 13)
    X, y = windows[:, :12, None].copy(), windows[:, 12].copy()
    net = keras.Sequential([keras.Input((12, 1))])
    if mended:
        net.add(layers.LSTM(16))
        net.add(layers.Dense(1))
    else:
        net.add(layers.LSTM(16, return_sequences=True))
        net.add(layers.LSTM(1))
    net.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(net, X, y, epochs=12, batch_size=16)
