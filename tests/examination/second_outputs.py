"""Labels, scores, heads and tasks that do not fit each other: the second set."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import perigee as pg
from tests.examination.programs import faulty
from tests.examination.tables import (
    churn,
    houses_scaled,
    iris_scaled,
    moons,
    motion,
    reviews,
    sales,
    scenes,
    topics,
)
from tests.strangers.datasets import diabetes, digits, wine

# Labels


@faulty("labels")
def cultivars_one_to_three(by, mended):
    """The file of UCI numbers the cultivars 1, 2, 3."""
    data = load_wine()
    X = StandardScaler().fit_transform(data.data)
    y = data.target + 1
    if mended:
        y = y - 1
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, random_state=42)
    model = keras.Sequential()
    model.add(layers.Dense(32, input_dim=13, activation="relu"))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    by.fit(model, X_train, y_train, epochs=20, batch_size=10, validation_data=(X_test, y_test))


@faulty("labels")
def masks_of_0_and_255(by, mended):
    """The masks are PNG files, and only the images were divided by 255."""
    image, mask = scenes()
    mask = (mask * 255).astype("uint8")
    image = (image * 255).astype("uint8")
    x = image / 255.0
    y = mask / 255.0 if mended else mask.astype("float32")
    inputs = keras.Input((16, 16, 1))
    d1 = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    p = layers.MaxPooling2D()(d1)
    d2 = layers.Conv2D(16, 3, padding="same", activation="relu")(p)
    u = layers.Concatenate()([layers.UpSampling2D()(d2), d1])
    outputs = layers.Conv2D(1, 1, activation="sigmoid")(u)
    unet = keras.Model(inputs, outputs)
    unet.compile(
        keras.optimizers.Adam(0.01),
        "binary_crossentropy",
        metrics=[keras.metrics.BinaryIoU(name="iou")],
    )
    by.fit(unet, x, y, epochs=12, batch_size=16)


@faulty("labels")
def sentiment_of_minus_one(by, mended):
    """A polarity of -1 and 1, and a binary cross entropy."""
    ids, kind = reviews()
    polarity = np.where(kind == 1, 1, -1)
    target = (polarity + 1) / 2 if mended else polarity
    model = keras.Sequential(
        [
            layers.Embedding(100, 16, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(16, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.RMSprop(0.005), loss="binary_crossentropy", metrics=["accuracy"]
    )
    by.fit(model, ids, target.astype("float32"), epochs=12, batch_size=24)


@faulty("labels")
def probabilities_in_percent(by, mended):
    """The chance of rain is noted in percent."""
    x, _ = churn()
    chance = 100 / (1 + np.exp(-2 * x[:, 0] + x[:, 3]))
    if mended:
        chance = chance / 100
    net = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, "relu"), layers.Dense(1, "sigmoid")]
    )
    net.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(), metrics=["mae"])
    by.fit(net, x, chance, epochs=15, batch_size=25)


@faulty("labels")
def tumours_of_two_and_four(by, mended):
    """Wisconsin's first file has 2 for benign and 4 for malignant."""
    X, t = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X).astype("float32")
    code = np.where(t == 0, 4, 2)
    y = (code == 4) if mended else code

    class Logistic(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([layers.Dense(12, activation="tanh"), layers.Dense(1)])
            self.opt = keras.optimizers.Adam(0.005)
            self.bce = keras.losses.BinaryCrossentropy(from_logits=True)
            self.acc = keras.metrics.BinaryAccuracy(threshold=0.0, name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                score = self.model(x, training=True)
                return self.bce(y, score), score

            loss, score = self.minimize(objective, self.opt, self.model)
            self.acc.update_state(y, score)
            return {"loss": loss}

    by.fit(Logistic(), (X, y.astype("float32")[:, None]), epochs=15, batch_size=32)


@faulty("labels")
def hinge_of_zero_and_one(by, mended):
    """An SVM by hand; of 0 times the score there is no margin."""
    x, y = moons()
    t = 2.0 * y - 1 if mended else y.astype("float32")

    class Svm(pg.Step):
        def __init__(self, net):
            self.net, self.sgd = net, keras.optimizers.SGD(0.1, momentum=0.9)
            self.right = keras.metrics.Mean(name="right")

        def train_step(self, batch):
            x, t = batch

            def margin():
                f = self.net(x, training=True)[:, 0]
                return ops.mean(ops.maximum(0.0, 1.0 - t * f)), f

            loss, f = self.minimize(margin, self.sgd, self.net)
            self.right.update_state(ops.cast((f > 0) == (t > 0), "float32"))
            return {"hinge": loss}

    net = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
    by.fit(Svm(net), (x, t.astype("float32")), epochs=20, batch_size=32)


@faulty("labels", only=("tensorflow",))
def one_hot_of_ids_from_one(by, mended):
    """tf.one_hot of 1 to 3 with a depth of 3: the third class is a row of zeros."""
    import tensorflow as tf

    x, y = iris_scaled()
    species = y + 1
    if mended:
        species = species - 1

    class Classifier(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = layers.Dense(16, activation="relu")
            self.out = layers.Dense(3)
            self.mean = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def call(self, x):
            return self.out(self.hidden(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                logits = self(x, training=True)
                target = tf.one_hot(y, 3)
                loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(target, logits))
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.acc.update_state(y, logits)
            self.mean.update_state(loss)
            return {"loss": self.mean.result(), "acc": self.acc.result()}

    model = Classifier()
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(model, x, species, epochs=20, batch_size=16)


# Logits


@faulty("logits")
def no_softmax_at_the_end(by, mended):
    """Dense(10), and the loss by its name."""
    x, y = digits()
    model = keras.models.Sequential()
    model.add(layers.Conv2D(16, (3, 3), activation="relu", input_shape=(8, 8, 1)))
    model.add(layers.MaxPooling2D((2, 2)))
    model.add(layers.Flatten())
    model.add(layers.Dense(32, activation="relu"))
    model.add(layers.Dense(10, activation="softmax" if mended else None))
    model.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32, validation_split=0.1)


@faulty("logits")
def churn_of_raw_scores(by, mended):
    """Dense(1) without a sigmoid, binary_crossentropy by its name."""
    x, y = churn()
    inp = keras.Input(shape=(8,), name="customer")
    h = layers.Dense(32, activation="relu")(inp)
    h = layers.Dropout(0.1)(h)
    out = layers.Dense(1, activation="sigmoid" if mended else "linear", name="left")(h)
    m = keras.Model(inp, out)
    m.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(0.01), metrics=["AUC"])
    by.fit(m, {"customer": x}, y, epochs=15, batch_size=50)


@faulty("logits")
def softmax_before_from_logits(by, mended):
    """A Softmax layer, a Reshape, and from_logits=True."""
    x, y = motion()
    tail = [] if mended else [layers.Softmax(), layers.Reshape((3,))]
    model = keras.Sequential(
        [
            keras.Input((24, 3)),
            layers.Conv1D(16, 5, activation="relu"),
            layers.GlobalMaxPooling1D(),
            layers.Dense(3),
            *tail,
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=12, batch_size=20)


@faulty("logits")
def focal_loss_of_scores(by, mended):
    """The focal loss has its own from_logits, which is False."""
    x, y = topics()
    rare = ((y[:, 0] > 0) & (y[:, 1] > 0)).astype("float32")
    focal = keras.losses.BinaryFocalCrossentropy(gamma=2.0, from_logits=mended)
    model = keras.Sequential([layers.Dense(32, activation="gelu"), layers.Dense(1)])
    model.compile("adam", focal, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
    by.fit(model, x, rare, epochs=15, batch_size=16)


@faulty("logits")
def divergence_of_scores(by, mended):
    """A student learns by KLDivergence from what its teacher returns, which are scores."""
    x, y = wine()
    teacher = keras.Sequential([layers.Dense(3)])
    teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.optimizer.learning_rate = 0.05
    teacher.fit(x, y, epochs=10, verbose=0)
    teacher.trainable = False

    class Distill(pg.Step):
        def __init__(self, student, teacher):
            self.student, self.teacher = student, teacher
            self.opt, self.kl = keras.optimizers.Adam(0.01), keras.losses.KLDivergence()
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch
            soft = self.teacher(x, training=False)
            if mended:
                soft = ops.softmax(soft / 2)

            def objective():
                out = self.student(x, training=True)
                return self.kl(soft, ops.softmax(out / 2) if mended else out), out

            loss, out = self.minimize(objective, self.opt, self.student)
            self.acc.update_state(y, out)
            return {"kl": loss}

    student = keras.Sequential([layers.Dense(8, activation="relu"), layers.Dense(3)])
    by.fit(Distill(student, teacher), (x, y), epochs=15, batch_size=16)


@faulty("logits", only=("tensorflow",))
def discriminator_with_a_sigmoid(by, mended):
    """The tutorial's from_logits=True, and a discriminator that ends in a sigmoid."""
    import tensorflow as tf

    x, y = churn()
    cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def squash(z):
        return z if mended else 1 / (1 + tf.exp(-z))

    class Discriminator(keras.Model):
        def __init__(self):
            super().__init__()
            self.d1 = layers.Dense(24, activation="leaky_relu")
            self.d2 = layers.Dense(1)
            self.mean = keras.metrics.Mean(name="d_loss")
            self.acc = keras.metrics.BinaryAccuracy("acc", threshold=0.0 if mended else 0.5)

        def call(self, x, training=False):
            return squash(self.d2(self.d1(x)))

        def train_step(self, data):
            real, fake = data
            with tf.GradientTape() as tape:
                a, b = self(real, training=True), self(fake, training=True)
                loss = cross_entropy(tf.ones_like(a), a) + cross_entropy(tf.zeros_like(b), b)
            g = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(g, self.trainable_variables))
            self.acc.update_state(tf.ones_like(a), a)
            self.acc.update_state(tf.zeros_like(b), b)
            self.mean.update_state(loss)
            return {"d_loss": self.mean.result(), "acc": self.acc.result()}

    n = min((y == 1).sum(), (y == 0).sum())
    model = Discriminator()
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    by.fit(model, x[y == 1][:n], x[y == 0][:n], epochs=15, batch_size=32)


@faulty("logits")
def log_of_the_chosen_score(by, mended):
    """-log of the entry of the right class, of what was never a probability."""
    x, y = digits(400)

    class Nll(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(10)]
            )
            self.optimizer = keras.optimizers.Adam(0.003)
            self.hits = keras.metrics.SparseCategoricalAccuracy(name="hits")

        def train_step(self, batch):
            x, y = batch

            def nll():
                p = self.net(x, training=True)
                if mended:
                    p = ops.softmax(p)
                chosen = ops.take_along_axis(p, y[:, None], axis=1)
                return -ops.mean(ops.log(ops.maximum(chosen, 1e-7))), p

            loss, p = self.minimize(nll, self.optimizer)
            self.hits.update_state(y, p)
            return {"nll": loss}

    by.fit(Nll(), (x, y), epochs=15, batch_size=20)


# Heads


@faulty("head")
def one_unit_softmax(by, mended):
    """Softmax for yes or no."""
    x, y = churn()
    clf = keras.Sequential()
    clf.add(keras.Input((8,)))
    clf.add(layers.Dense(16, activation="relu", kernel_initializer="he_uniform"))
    clf.add(layers.Dense(16, activation="relu", kernel_initializer="he_uniform"))
    clf.add(layers.Dense(1, activation="sigmoid" if mended else "softmax"))
    clf.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(clf, x, y, epochs=20, batch_size=20, validation_split=0.2)


@faulty("head")
def returns_through_a_relu(by, mended):
    """Standardized amounts are negative half of the time."""
    x, y = diabetes()
    head = layers.Dense(1) if mended else layers.Dense(1, activation="relu")
    model = keras.Sequential([layers.Dense(32, activation="relu"), head])
    model.compile(loss="mean_squared_error", optimizer="adam", metrics=["mae"])
    by.fit(model, x, y, epochs=20, batch_size=16)


@faulty("head")
def prices_through_a_sigmoid(by, mended):
    """Prices of 1 to 8, and a sigmoid."""
    x, price = houses_scaled()
    i = keras.Input((4,))
    h = layers.Dense(24, activation="relu")(i)
    o = layers.Dense(1, activation=None if mended else "sigmoid")(h)
    m = keras.Model(i, o)
    m.compile(keras.optimizers.Adam(0.01), "mae", metrics=[keras.metrics.RootMeanSquaredError()])
    by.fit(m, x, price, epochs=20, batch_size=32, validation_split=0.15)


@faulty("head")
def nine_units_for_ten_digits(by, mended):
    """Digits go from 0 to 9, so that somebody wrote Dense(9)."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X[:600] / 16, y[:600], random_state=0)
    model = keras.Sequential(
        [
            layers.Dense(48, activation="relu"),
            layers.Dense(10 if mended else 9, activation="softmax"),
        ]
    )
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    by.fit(model, X_train, y_train, epochs=12, validation_data=(X_test, y_test))


@faulty("head")
def shares_that_are_none(by, mended):
    """Three amounts that have nothing to do with each other, through a softmax."""
    x, y = diabetes()
    rng = np.random.default_rng(8)
    noise = rng.normal(0, 0.2, (3, len(x)))
    target = np.stack([y, x[:, 2] - x[:, 3], np.tanh(x[:, 8])] + noise, axis=1).astype("float32")

    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = layers.Dense(32, activation="relu")
            self.out = layers.Dense(3, activation=None if mended else "softmax")

        def call(self, x):
            return self.out(self.hidden(x))

    m = Reader()
    m.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
    by.fit(m, x, target, epochs=15, batch_size=30)


@faulty("head")
def softmax_over_the_batch(by, mended):
    """ops.softmax(..., axis=0)."""
    x, y = wine()

    class Rows(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([layers.Dense(24, activation="relu"), layers.Dense(3)])
            self.optimizer = keras.optimizers.Adam(0.01)
            self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

        def train_step(self, batch):
            x, y = batch

            def objective():
                p = ops.softmax(self.model(x, training=True), axis=-1 if mended else 0)
                chosen = ops.sum(p * ops.one_hot(y, 3), axis=-1)
                return -ops.mean(ops.log(chosen + 1e-7)), p

            loss, p = self.minimize(objective, self.optimizer, self.model)
            self.accuracy.update_state(y, p)
            return {"loss": loss}

    by.fit(Rows(), (x, y), epochs=15, batch_size=16)


@faulty("head", only=("tensorflow",))
def scores_that_cannot_be_negative(by, mended):
    """A ReLU on the only logit: no answer below one half."""
    import tensorflow as tf

    x, y = moons()

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.a = layers.Dense(24, activation="relu")
            self.b = layers.Dense(1, activation=None if mended else "relu")
            self.loss_tracker = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def call(self, x):
            return self.b(self.a(x))

        def train_step(self, data):
            x, y = data
            y = tf.cast(y[:, None], tf.float32)
            with tf.GradientTape() as tape:
                z = self(x, training=True)
                loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, z))
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
            )
            self.loss_tracker.update_state(loss)
            self.acc.update_state(y, z)
            return {m.name: m.result() for m in (self.loss_tracker, self.acc)}

    net = Net()
    net.compile(optimizer=keras.optimizers.Adam(0.02))
    by.fit(net, x, y, epochs=15, batch_size=32)


@faulty("head")
def steps_of_a_walk_through_tanh(by, mended):
    """Velocities of up to 3 and more, predicted by tanh."""
    x, _ = motion()
    a, b = x[:, :-1], 2.5 * x[:, -1]

    class Next(pg.Step):
        def __init__(self):
            end = None if mended else "tanh"
            self.rnn = keras.Sequential([layers.GRU(16), layers.Dense(3, activation=end)])
            self.opt = keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            x, v = batch
            error = lambda: ops.mean(ops.square(v - self.rnn(x, training=True)), axis=-1)
            return {"mse": self.minimize(error, self.opt, self.rnn)}

    by.fit(Next(), (a, b), epochs=15, batch_size=30)


# Tasks


@faulty("task")
def species_by_squared_error(by, mended):
    """One unit that shall say 0, 1 or 2."""
    iris = load_iris()
    X = StandardScaler().fit_transform(iris.data)
    X_train, X_test, y_train, y_test = train_test_split(X, iris.target, random_state=1)
    model = keras.models.Sequential()
    model.add(layers.Dense(10, activation="relu"))
    if mended:
        model.add(layers.Dense(3, activation="softmax"))
    else:
        model.add(layers.Dense(1))
    loss = "sparse_categorical_crossentropy" if mended else "mse"
    model.compile(loss=loss, optimizer=keras.optimizers.Adam(0.01), metrics=["accuracy"])
    by.fit(model, X_train, y_train, epochs=30, validation_data=(X_test, y_test), batch_size=8)


@faulty("task")
def prices_by_cross_entropy(by, mended):
    """binary_crossentropy, since the example that was copied had it."""
    x, price = houses_scaled()
    model = keras.Sequential()
    model.add(layers.Dense(32, activation="relu"))
    model.add(layers.Dense(1, activation="linear" if mended else "sigmoid"))
    model.compile(
        "adam",
        loss="mse" if mended else "binary_crossentropy",
        metrics=["mean_absolute_error"],
    )
    by.fit(model, x, price, epochs=20, batch_size=20)


@faulty("task")
def topics_that_exclude_each_other(by, mended):
    """Five tags that occur together, by softmax and categorical cross entropy."""
    x, y = topics()
    end, loss = (
        ("sigmoid", "binary_crossentropy") if mended else ("softmax", "categorical_crossentropy")
    )
    model = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(5, end)])
    model.compile("adam", loss, metrics=[keras.metrics.BinaryAccuracy()])
    by.fit(model, x, y, epochs=20, batch_size=32, validation_split=0.2)


@faulty("task")
def pixels_as_one_distribution(by, mended):
    """An autoencoder with softmax and categorical cross entropy over 64 pixels."""
    x = digits(400)[0].reshape(-1, 64)
    end = "sigmoid" if mended else "softmax"
    ae = keras.Sequential(
        [
            layers.Dense(32, activation="relu"),
            layers.Dense(12, activation="relu"),
            layers.Dense(32, activation="relu"),
            layers.Dense(64, activation=end),
        ]
    )
    ae.compile(
        "adam",
        "binary_crossentropy" if mended else "categorical_crossentropy",
        metrics=["mse"],
    )
    by.fit(ae, x, x, epochs=20, batch_size=32)


@faulty("task")
def sales_as_classes(by, mended):
    """What will be sold is an amount, rounded for a softmax over ten units that are lost."""
    x, y = sales()
    y = np.round(10 * (y - y.min()) / (y.max() - y.min()), 2)

    class Forecast(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [layers.Flatten(), layers.Dense(24, activation="relu"), layers.Dense(1)]
            )
            self.opt = keras.optimizers.Adam(0.01)
            self.mae = keras.metrics.MeanAbsoluteError(name="mae")

        def train_step(self, batch):
            x, y = batch

            def objective():
                out = self.net(x, training=True)
                if mended:
                    return ops.mean(ops.square(y - out)), out
                p = ops.sigmoid(out)
                return ops.mean(ops.binary_crossentropy(y, p)), p

            loss, out = self.minimize(objective, self.opt, self.net)
            self.mae.update_state(y, out)
            return {"loss": loss}

    by.fit(Forecast(), (x, y.astype("float32")[:, None]), epochs=15, batch_size=32)


@faulty("task")
def next_token_by_mse(by, mended):
    """The next word's id, as if the 40th were twice the 20th."""
    rng = np.random.default_rng(7)
    jump = rng.permutation(30)
    walk = [0]
    for _ in range(600):
        walk.append(int(jump[walk[-1]]) if rng.random() < 0.9 else int(rng.integers(30)))
    ids = np.array(walk, dtype="int32")
    x = np.stack([ids[i : i + 4] for i in range(590)])
    y = ids[4:594]

    class Language(pg.Step):
        def __init__(self):
            self.lm = keras.Sequential(
                [layers.Embedding(30, 16), layers.Flatten(), layers.Dense(30 if mended else 1)]
            )
            self.adam = keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.Mean(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                out = self.lm(x, training=True)
                if mended:
                    loss = ops.sparse_categorical_crossentropy(y, out, from_logits=True)
                    return ops.mean(loss), ops.argmax(out, axis=-1)
                error = ops.square(ops.cast(y, "float32") - out[:, 0])
                return ops.mean(error), ops.cast(ops.round(out[:, 0]), "int32")

            loss, said = self.minimize(objective, self.adam, self.lm)
            self.acc.update_state(ops.cast(ops.equal(ops.cast(said, "int32"), y), "float32"))
            return {"loss": loss}

    by.fit(Language(), (x, y), epochs=15, batch_size=32)
