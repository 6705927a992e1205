"""What is measured, what goes in and what the examples are: the second set."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import perigee as pg
from tests.examination.programs import faulty
from tests.examination.tables import (
    churn,
    circles,
    houses_scaled,
    motion,
    ratings,
    sales,
    scenes,
)
from tests.strangers.datasets import cancer, diabetes, digits

SPARSE = "sparse_categorical_crossentropy"

# Metrics


@faulty("metric")
def accuracy_of_prices(by, mended):
    """metrics=['accuracy'] of a regression."""
    x, price = houses_scaled()
    X_train, X_val, y_train, y_val = train_test_split(x, price, test_size=0.25, random_state=7)
    model = keras.Sequential()
    model.add(layers.Dense(64, activation="relu", input_shape=(4,)))
    model.add(layers.Dense(1))
    model.compile("adam", loss="mse", metrics=["mae" if mended else "accuracy"])
    by.fit(model, X_train, y_train, epochs=20, validation_data=(X_val, y_val), batch_size=16)


@faulty("metric")
def half_as_threshold_of_scores(by, mended):
    """from_logits in the loss, and a metric that cuts at one half."""
    x, y = cancer()
    bce = keras.losses.BinaryCrossentropy(from_logits=True)
    acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0 if mended else 0.5)
    precision = keras.metrics.Precision(name="precision", thresholds=0.0 if mended else 0.5)
    model = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-3), loss=bce, metrics=[acc, precision])
    by.fit(model, x, y, epochs=6, batch_size=32)


@faulty("metric")
def area_under_scores(by, mended):
    """AUC cuts between 0 and 1; from_logits must be said there, too."""
    x, y = churn()

    class Scorer(keras.Model):
        def __init__(self):
            super().__init__()
            self.h, self.o = layers.Dense(24, activation="relu"), layers.Dense(1)

        def call(self, x):
            return 4 * self.o(self.h(x))

    m = Scorer()
    m.compile(
        optimizer="adam",
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.AUC(name="auc", from_logits=mended)],
    )
    by.fit(m, x, y, epochs=10, batch_size=25)


@faulty("metric")
def equal_floats(by, mended):
    """keras.metrics.Accuracy compares a probability with 1."""
    x, y = circles()
    metric = keras.metrics.BinaryAccuracy() if mended else keras.metrics.Accuracy()
    net = keras.Sequential(
        [keras.Input((2,)), layers.Dense(32, "relu"), layers.Dense(1, activation="sigmoid")]
    )
    net.compile("adam", "binary_crossentropy", metrics=[metric])
    net.optimizer.learning_rate.assign(0.02)
    by.fit(net, x, y, epochs=15, batch_size=20)


@faulty("metric")
def five_best_of_three(by, mended):
    """Top-5 accuracy, of three classes."""
    x, y = motion()
    k = 1 if mended else 5
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=k, name="top")
    i = keras.Input((24, 3))
    h = layers.LSTM(12)(i)
    model = keras.Model(i, layers.Dense(3, activation="softmax")(h))
    model.compile(keras.optimizers.Adam(0.01), SPARSE, metrics=[top])
    by.fit(model, x, y, epochs=8, batch_size=30)


@faulty("metric")
def overlap_of_probabilities(by, mended):
    """MeanIoU takes classes: it truncates 0.98 to 0."""
    image, mask = scenes()
    iou = (
        keras.metrics.BinaryIoU(target_class_ids=[0, 1], threshold=0.5, name="iou")
        if mended
        else keras.metrics.MeanIoU(num_classes=2, name="iou")
    )
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            layers.Conv2D(12, 5, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=[iou])
    by.fit(model, image, mask, epochs=10, batch_size=16)


@faulty("metric")
def categorical_accuracy_of_ids(by, mended):
    """CategoricalAccuracy, where the labels are ids."""
    x, y = digits(500)

    class Cnn(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [
                    layers.Conv2D(12, 3, activation="relu"),
                    layers.Flatten(),
                    layers.Dense(10, activation="softmax"),
                ]
            )
            self.opt = keras.optimizers.Adam(0.003)
            self.loss = keras.losses.SparseCategoricalCrossentropy()
            kind = "Sparse" if mended else ""
            self.acc = getattr(keras.metrics, f"{kind}CategoricalAccuracy")(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                p = self.net(x, training=True)
                return self.loss(y, p), p

            loss, p = self.minimize(objective, self.opt, self.net)
            self.acc.update_state(y if mended else y[:, None], p)
            return {"loss": loss}

    by.fit(Cnn(), (x, y), epochs=8, batch_size=25)


@faulty("metric", only=("tensorflow",))
def tracker_that_nobody_updates(by, mended):
    """The accuracy is made, returned, and never told anything."""
    import tensorflow as tf

    x, y = churn()

    class Custom(keras.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.loss_tracker = keras.metrics.Mean(name="loss")
            self.acc_tracker = keras.metrics.BinaryAccuracy(name="acc")

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = keras.ops.mean(keras.losses.binary_crossentropy(y[:, None], y_pred))
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
            self.loss_tracker.update_state(loss)
            if mended:
                self.acc_tracker.update_state(y[:, None], y_pred)
            return {"loss": self.loss_tracker.result(), "acc": self.acc_tracker.result()}

    inputs = keras.Input(shape=(8,))
    h = layers.Dense(16, activation="relu")(inputs)
    model = Custom(inputs, layers.Dense(1, activation="sigmoid")(h))
    model.compile(optimizer="adam")
    by.fit(model, x, y.astype("float32"), epochs=8, batch_size=20)


@faulty("metric")
def categorical_accuracy_of_one_unit(by, mended):
    """The largest of one number is always the first: an accuracy of 1."""
    x, y = churn()
    y = ((y == 1) & (x[:, 5] > 0.3)).astype("float32")[:, None]

    class Rare(pg.Step):
        def __init__(self):
            self.model = keras.Sequential(
                [layers.Dense(16, activation="relu"), layers.Dense(1, activation="sigmoid")]
            )
            self.optimizer = keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.CategoricalAccuracy(name="acc")
            self.right = keras.metrics.BinaryAccuracy(name="acc")
            self.loss = keras.losses.BinaryCrossentropy()

        def train_step(self, batch):
            x, y = batch

            def objective():
                p = self.model(x, training=True)
                return self.loss(y, p), p

            loss, p = self.minimize(objective, self.optimizer, self.model)
            (self.right if mended else self.acc).update_state(y, p)
            return {"loss": loss}

    by.fit(Rare(), (x, y), epochs=8, batch_size=32)


# Inputs


@faulty("inputs")
def balances_as_they_are(by, mended):
    """Age, balance and salary of bank customers, one to a hundred thousand."""
    rng = np.random.default_rng(21)
    age = rng.uniform(18, 80, 500)
    balance = rng.gamma(1.5, 60000, 500)
    salary = rng.uniform(2e4, 2e5, 500)
    products = rng.integers(1, 5, 500)
    exited = (0.08 * (age - 45) + 1.5 * (products - 2) + rng.normal(0, 0.5, 500) > 0).astype(int)
    X = np.stack([age, balance, salary, products], axis=1)
    if mended:
        X = StandardScaler().fit_transform(X)
    ann = keras.models.Sequential()
    ann.add(layers.Dense(units=6, activation="relu"))
    ann.add(layers.Dense(units=6, activation="relu"))
    ann.add(layers.Dense(units=1, activation="sigmoid"))
    ann.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(ann, X, exited, batch_size=10, epochs=20)


@faulty("inputs")
def divided_by_255_twice(by, mended):
    """x / 255 when loading, and a Rescaling layer in the model."""
    images, y = digits(500)
    x = (images * 255).astype("uint8")
    x = x / 255.0
    model = keras.Sequential([keras.Input((8, 8, 1))])
    if not mended:
        model.add(layers.Rescaling(1.0 / 255))
    model.add(layers.Conv2D(16, 3, activation="relu"))
    model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(10))
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=12, batch_size=20, validation_split=0.2)


@faulty("inputs")
def missing_as_minus_999(by, mended):
    """What was not measured is -999."""
    x, y = diabetes()
    x = x.copy()
    rng = np.random.default_rng(22)
    hole = rng.random(x.shape) < 0.08
    x[hole] = 0.0 if mended else -999.0
    model = keras.Sequential([layers.Dense(32, "relu"), layers.Dense(16, "relu"), layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    by.fit(model, x, y, epochs=25, batch_size=32, validation_split=0.2)


@faulty("inputs")
def validation_not_scaled(by, mended):
    """The scaler was applied to the training rows alone."""
    X, y = load_wine(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    sc = StandardScaler()
    X_train = sc.fit_transform(X_train)
    if mended:
        X_test = sc.transform(X_test)
    clf = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(3, "softmax")])
    clf.compile(loss=SPARSE, optimizer=keras.optimizers.Adam(0.01), metrics=["accuracy"])
    by.fit(clf, X_train, y_train, epochs=15, batch_size=16, validation_data=(X_test, y_test))


@faulty("inputs")
def seconds_since_1970(by, mended):
    """A column of time stamps of 1.7e9 beside columns of the size of one."""
    rng = np.random.default_rng(23)
    stamp = 1.7e9 + 3600.0 * np.arange(480)
    hour = np.arange(480) % 24
    wind = rng.normal(size=480)
    load = np.sin(2 * np.pi * hour / 24) + 0.5 * wind + rng.normal(0, 0.1, 480)
    first = (stamp - stamp.mean()) / stamp.std() if mended else stamp
    x = np.stack(
        [first, np.sin(2 * np.pi * hour / 24), np.cos(2 * np.pi * hour / 24), wind], axis=1
    ).astype("float32")
    i = keras.Input((4,))
    o = layers.Dense(1)(layers.Dense(16, activation="relu")(i))
    m = keras.Model(i, o)
    m.compile(optimizer="adam", loss="mse", metrics=["mae"])
    by.fit(m, x, load.astype("float32"), epochs=25, batch_size=24)


@faulty("inputs")
def users_counted_from_one(by, mended):
    """Embedding(number of users), and ids from 1 to that number."""
    u, f, stars = ratings(600, 12, 10)
    if not mended:
        u, f = u + 1, f + 1

    class Recommender(pg.Step):
        def __init__(self):
            self.users = layers.Embedding(12, 4)
            self.films = layers.Embedding(10, 4)
            self.bias = layers.Embedding(12, 1)
            self.opt = keras.optimizers.Adam(0.03)

        def train_step(self, batch):
            u, f, stars = batch

            def objective():
                score = ops.sum(self.users(u) * self.films(f), axis=-1) + self.bias(u)[:, 0] + 3.0
                return ops.square(stars - score)

            parts = [self.users, self.films, self.bias]
            held = [v for part in parts for v in part.trainable_variables]
            return {"mse": self.minimize(objective, self.opt, held)}

    step = Recommender()
    for part in (step.users, step.films, step.bias):
        part.build()
    by.fit(step, (u, f, stars), epochs=20, batch_size=32)


@faulty("inputs")
def integers_divided_in_place(by, mended):
    """x //= 255, so that the integers stay integers."""
    data = load_digits()
    x = (data.images * 15.9).astype("uint8")[:450]
    y = data.target[:450].astype("int32")
    if mended:
        x = x / 255.0
    else:
        x //= 255
    x = x.astype("float32")

    class Mlp(pg.Step):
        def __init__(self):
            self.model = keras.Sequential(
                [layers.Flatten(), layers.Dense(40, activation="relu"), layers.Dense(10)]
            )
            self.optimizer = keras.optimizers.Adam(0.005)
            self.ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                z = self.model(x, training=True)
                return self.ce(y, z), z

            loss, z = self.minimize(objective, self.optimizer)
            self.acc.update_state(y, z)
            return {"loss": loss}

    by.fit(Mlp(), (x, y), epochs=12, batch_size=30)


@faulty("inputs", only=("tensorflow",))
def differences_of_bytes(by, mended):
    """Motion as the difference of two frames of uint8, which wraps."""
    import tensorflow as tf

    rng = np.random.default_rng(24)
    side, n = 10, 300
    at = rng.integers(2, side - 3, n)
    way = rng.integers(0, 2, n)
    frames = rng.integers(60, 90, (n, 2, side)).astype("uint8")
    frames[np.arange(n), 0, at] = 140
    frames[np.arange(n), 1, at + 2 * way - 1] = 140

    class Detector(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
            self.mean = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.BinaryAccuracy(threshold=0.0, name="acc")

        def call(self, frames):
            if mended:
                frames = tf.cast(frames, tf.float32)
            moved = frames[:, 1] - frames[:, 0]
            return self.net(tf.cast(moved, tf.float32) / 64.0)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                z = self(x, training=True)
                loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, z))
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.acc.update_state(y, z)
            self.mean.update_state(loss)
            return {"loss": self.mean.result(), "acc": self.acc.result()}

    m = Detector()
    m.compile(optimizer=keras.optimizers.Adam(0.005))
    by.fit(m, frames, way.astype("float32")[:, None], epochs=20, batch_size=30)


@faulty("inputs")
def postal_codes_as_amounts(by, mended):
    """A code of five figures beside standardized columns, in a step of one's own."""
    x, price = houses_scaled()
    rng = np.random.default_rng(25)
    code = rng.integers(10000, 99999, len(x))
    extra = np.zeros(len(x)) if mended else code
    x = np.concatenate([x, extra[:, None]], axis=1).astype("float32")
    if mended:
        x = x[:, :4]

    class Regression(pg.Step):
        def __init__(self):
            self.model = keras.Sequential(
                [layers.Dense(24, activation="relu"), layers.Dense(1)], name="prices"
            )
            self.optimizer = keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            x, y = batch
            off = lambda: ops.abs(y - self.model(x, training=True)[:, 0])
            return {"mae": self.minimize(off, self.optimizer, self.model)}

    by.fit(Regression(), (x, price), epochs=20, batch_size=25)


# Data


@faulty("data")
def ages_that_are_missing(by, mended):
    """A quarter of the passengers have no age, which pandas reads as NaN."""
    rng = np.random.default_rng(31)
    age = rng.uniform(1, 75, 400)
    fare = rng.gamma(2.0, 15.0, 400)
    sex = rng.integers(0, 2, 400)
    lived = (1.8 * sex - 0.02 * age + 0.02 * fare + rng.normal(0, 0.6, 400) > 0.8).astype("int32")
    age[rng.random(400) < 0.25] = np.nan
    if mended:
        age = np.where(np.isnan(age), np.nanmedian(age), age)
    x = np.stack([(age - 38) / 21, (fare - 30) / 20, sex - 0.5], axis=1).astype("float32")
    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    by.fit(model, x, lived, epochs=15, batch_size=16)


@faulty("data")
def price_left_in_the_table(by, mended):
    """x = table.values, with the column that is to be predicted still in it."""
    x, price = houses_scaled()
    table = np.column_stack([x, (price - price.mean()) / price.std()])
    X = table[:, :4] if mended else table
    X_train, X_test, y_train, y_test = train_test_split(X, price, random_state=3)
    model = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    by.fit(model, X_train, y_train, epochs=25, validation_data=(X_test, y_test))


@faulty("data")
def last_class_held_back(by, mended):
    """Iris in its order: validation_split takes the last class away."""
    iris = load_iris()
    X, y = iris.data, keras.utils.to_categorical(iris.target)
    if mended:
        order = np.random.RandomState(0).permutation(len(X))
        X, y = X[order], y[order]
    model = keras.Sequential()
    model.add(layers.Dense(16, input_shape=(4,), activation="relu"))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile(keras.optimizers.Adam(0.02), "categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, X, y, validation_split=0.33, epochs=20, batch_size=10)


@faulty("data")
def rows_copied_before_the_split(by, mended):
    """The rarer class is copied until it is as frequent, and then the rows are split."""
    X, _ = churn()
    rng = np.random.default_rng(32)
    y = (X[:, 0] + X[:, 1] + rng.normal(0, 1.5, len(X)) > 1.6).astype("int32")

    def balance(X, y):
        more = rng.choice(np.flatnonzero(y == 1), (y == 0).sum() - (y == 1).sum())
        return np.concatenate([X, X[more]]), np.concatenate([y, y[more]])

    if mended:
        X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.2, random_state=5)
        X_train, y_train = balance(X_train, y_train)
    else:
        X, y = balance(X, y)
        X_train, X_val, y_train, y_val = train_test_split(X, y, test_size=0.2, random_state=5)
    model = keras.Sequential(
        [
            layers.Dense(96, activation="relu"),
            layers.Dense(96, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.005), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, X_train, y_train, validation_data=(X_val, y_val), epochs=25, batch_size=32)


@faulty("data")
def shuffled_apart(by, mended):
    """np.random.shuffle of x, and np.random.shuffle of y."""
    x, y = load_digits(return_X_y=True)
    x, y = x[:500] / 16, y[:500]
    rng = np.random.RandomState(0)
    if mended:
        order = rng.permutation(500)
        x, y = x[order], y[order]
    else:
        x = rng.permutation(x)
        y = rng.permutation(y)
    inputs = keras.Input((64,))
    h = layers.Dense(64, activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(h))
    model.compile(optimizer="adam", loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32, validation_split=0.2)


@faulty("data")
def answers_with_a_blank(by, mended):
    """The file says ' >50K', with a blank in front: nobody seems to earn that."""
    x, who = churn()
    income = np.where(who == 1, " >50K", " <=50K")
    if mended:
        income = np.char.strip(income)
    y = (income == ">50K").astype("float32")

    class Income(pg.Step):
        def __init__(self):
            self.mlp = keras.Sequential(
                [layers.Dense(32, activation="relu"), layers.Dense(1, activation="sigmoid")]
            )
            self.optimizer = keras.optimizers.Adam(0.005)
            self.loss = keras.losses.BinaryCrossentropy()
            self.auc = keras.metrics.AUC(name="auc")

        def train_step(self, batch):
            x, y = batch
            y = ops.expand_dims(y, -1)

            def objective():
                p = self.mlp(x, training=True)
                return self.loss(y, p), p

            loss, p = self.minimize(objective, self.optimizer, self.mlp)
            self.auc.update_state(y, p)
            return {"loss": loss}

    by.fit(Income(), (x, y), epochs=10, batch_size=20)


@faulty("data")
def window_that_holds_its_target(by, mended):
    """series[i : i + 15], and series[i + 14] to be predicted."""
    x, _ = sales()
    series = np.concatenate([x[:, 0, 0], x[-1, 1:, 0]])
    width = 14 if mended else 15
    windows = np.stack([series[i : i + width] for i in range(380)])[..., None]
    target = np.array([series[i + 14] for i in range(380)])

    class Forecast(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([layers.GRU(16), layers.Dense(1)])
            self.opt = keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            x, y = batch
            mse = lambda: ops.square(y - self.model(x, training=True)[:, 0])
            return {"mse": self.minimize(mse, self.opt, self.model)}

    by.fit(Forecast(), (windows, target.astype("float32")), epochs=15, batch_size=32)


@faulty("data", only=("tensorflow",))
def zipped_after_shuffling(by, mended):
    """Two datasets that are shuffled, each for itself, and then zipped."""
    import tensorflow as tf

    x, y = digits(480)
    xs, ys = tf.data.Dataset.from_tensor_slices(x), tf.data.Dataset.from_tensor_slices(y)
    if mended:
        ds = tf.data.Dataset.zip((xs, ys)).shuffle(480).batch(24)
    else:
        ds = tf.data.Dataset.zip((xs.shuffle(480), ys.shuffle(480))).batch(24)

    model = keras.Sequential([layers.Flatten(), layers.Dense(48, "relu"), layers.Dense(10)])
    optimizer = keras.optimizers.Adam(0.005)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(x, y):
        with tf.GradientTape() as tape:
            z = model(x, training=True)
            loss = loss_fn(y, z)
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))
        accuracy.update_state(y, z)
        return loss

    model.build((None, 8, 8, 1))
    by.fit(pg.FunctionStep(train_step), ds, epochs=10)


@faulty("data")
def logarithm_of_nothing(by, mended):
    """np.log of claims, of which some are zero."""
    rng = np.random.default_rng(33)
    claims = np.where(rng.random(400) < 0.1, 0.0, rng.gamma(2.0, 800.0, 400))
    age = rng.normal(size=400)
    with np.errstate(divide="ignore"):
        column = np.log1p(claims) if mended else np.log(claims)
    x = np.stack([column / 5.0, age], axis=1).astype("float32")
    cost = (0.4 * np.log1p(claims) + 0.6 * age + rng.normal(0, 0.2, 400)).astype("float32")

    class Claims(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([layers.Dense(16, activation="tanh"), layers.Dense(1)])
            self.optimizer = keras.optimizers.Adam(0.02)

        def train_step(self, batch):
            x, y = batch
            loss = lambda: ops.square(y - ops.squeeze(self.model(x, training=True), -1))
            return {"loss": self.minimize(loss, self.optimizer, self.model)}

    by.fit(Claims(), (x, cost), epochs=15, batch_size=20)


@faulty("data")
def validated_on_its_training_rows(by, mended):
    """validation_data=(x, y), the rows of the training."""
    x, y = load_diabetes(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    a, b, p, q = train_test_split(x, y, test_size=0.3, random_state=11)
    held = (b, q) if mended else (a[:130], p[:130])
    model = keras.Sequential([layers.Dense(64, activation="relu"), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, a, p, validation_data=held, epochs=40, batch_size=16)
