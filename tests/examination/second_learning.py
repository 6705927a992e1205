"""Rates, first weights, activations and durations with which little is learned: the second set."""

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import perigee as pg
from tests.examination.programs import faulty
from tests.examination.tables import (
    churn,
    circles,
    houses_scaled,
    moons,
    motion,
    reviews,
    sales,
    scenes,
)
from tests.strangers.datasets import cancer, diabetes, digits, wine

SPARSE = "sparse_categorical_crossentropy"

# Rates


@faulty("rate")
def adam_of_one(by, mended):
    """Adam(1.0), as if it were plain gradient descent on scaled data."""
    X, y = load_digits(return_X_y=True)
    X_train, X_val, y_train, y_val = train_test_split(X[:600] / 16, y[:600], random_state=2)
    model = keras.Sequential()
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.Dense(32, activation="relu"))
    model.add(layers.Dense(10, activation="softmax"))
    rate = 0.003 if mended else 1.0
    model.compile(keras.optimizers.Adam(learning_rate=rate), SPARSE, metrics=["accuracy"])
    by.fit(model, X_train, y_train, epochs=12, batch_size=32, validation_data=(X_val, y_val))


@faulty("rate")
def adadelta_as_it_comes(by, mended):
    """Adadelta's paper has a rate of 1, Keras's default is 0.001."""
    x, y = wine()
    opt = keras.optimizers.Adadelta(learning_rate=1.0) if mended else "adadelta"
    model = keras.Sequential(
        [keras.Input((13,)), layers.Dense(24, activation="relu"), layers.Dense(3, "softmax")]
    )
    model.compile(loss=SPARSE, optimizer=opt, metrics=["accuracy"])
    by.fit(model, x, y, epochs=20, batch_size=16)


@faulty("rate")
def decay_counted_in_epochs(by, mended):
    """ExponentialDecay counts steps: 0.5 to the number of batches."""
    x, y = motion()
    steps = 10 * 15 if mended else 1
    schedule = keras.optimizers.schedules.ExponentialDecay(
        initial_learning_rate=0.01, decay_steps=steps, decay_rate=0.5
    )
    net = keras.Sequential(
        [
            layers.Conv1D(16, 3, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    net.compile(keras.optimizers.Adam(schedule), SPARSE, metrics=["accuracy"])
    by.fit(net, x, y, epochs=25, batch_size=20)


@faulty("rate")
def fine_tuning_rate_from_scratch(by, mended):
    """1e-6, the rate of a tutorial on fine-tuning, for a network that knows nothing."""
    image, mask = scenes()
    i = keras.Input((16, 16, 1))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(i)
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(h)
    o = layers.Conv2D(1, 1, activation="sigmoid")(h)
    model = keras.Model(i, o)
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3 if mended else 1e-6),
        loss="binary_crossentropy",
        metrics=[keras.metrics.BinaryIoU(name="iou", target_class_ids=[1])],
    )
    by.fit(model, image, mask, epochs=12, batch_size=16)


@faulty("rate")
def momentum_and_a_high_rate(by, mended):
    """SGD of 1.0 with momentum 0.9 on a regression."""
    x, y = diabetes()

    class Regressor(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
            self.optimizer = keras.optimizers.SGD(0.01 if mended else 1.0, momentum=0.9)
            self.mse = keras.losses.MeanSquaredError()

        def train_step(self, batch):
            x, y = batch
            loss = lambda: self.mse(y, self.model(x, training=True))
            return {"mse": self.minimize(loss, self.optimizer, self.model)}

    by.fit(Regressor(), (x, y[:, None]), epochs=15, batch_size=32)


@faulty("rate")
def warmup_longer_than_the_run(by, mended):
    """A warmup of 10000 steps, taken from a paper, in a run of some hundred."""
    ids, kind = reviews()
    warm = 20 if mended else 10000

    class Warmup(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 * ops.minimum(1.0, ops.cast(step + 1, "float32") / warm)

        def get_config(self):
            return {}

    class Transformerish(pg.Step):
        def __init__(self):
            i = keras.Input((24,), dtype="int32")
            e = layers.Embedding(100, 16)(i)
            a = layers.MultiHeadAttention(2, 8)(e, e)
            h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(e + a))
            self.net = keras.Model(i, layers.Dense(1, activation="sigmoid")(h))
            self.adam = keras.optimizers.Adam(Warmup())
            self.acc = keras.metrics.BinaryAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch
            y = ops.cast(y[:, None], "float32")

            def objective():
                p = self.net(x, training=True)
                return ops.mean(ops.binary_crossentropy(y, p)), p

            loss, p = self.minimize(objective, self.adam, self.net)
            self.acc.update_state(y, p)
            return {"loss": loss}

    by.fit(Transformerish(), (ids, kind), epochs=10, batch_size=24)


@faulty("rate", only=("tensorflow",))
def updates_by_hand_too_small(by, mended):
    """w.assign_sub(lr * g) with 1e-6."""
    import tensorflow as tf

    x, y = churn()
    lr = 0.1 if mended else 1e-6
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, activation="tanh"), layers.Dense(1)]
    )
    acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

    def train_step(x, y):
        with tf.GradientTape() as tape:
            z = model(x, training=True)
            loss = tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(y[:, None], tf.float32), z)
            )
        for w, g in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables)):
            w.assign(w - lr * g)
        acc.update_state(y[:, None], z)
        return {"loss": loss}

    by.fit(pg.FunctionStep(train_step), (x, y), epochs=15, batch_size=25)


# First weights


@faulty("initial weights")
def all_zeros(by, mended):
    """kernel_initializer='zeros' in each layer."""
    x, y = churn()
    first = "glorot_uniform" if mended else "zeros"
    model = keras.Sequential()
    model.add(layers.Dense(12, kernel_initializer=first, activation="relu"))
    model.add(layers.Dense(8, kernel_initializer=first, activation="relu"))
    model.add(layers.Dense(1, kernel_initializer=first, activation="sigmoid"))
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    by.fit(model, x, y, epochs=20, batch_size=10)


@faulty("initial weights")
def all_units_alike(by, mended):
    """Each unit begins with the same weights, and stays like the others."""
    x, y = circles()
    begin = keras.initializers.GlorotNormal(seed=1) if mended else keras.initializers.Constant(0.2)
    i = keras.Input((2,))
    h = layers.Dense(32, activation="tanh", kernel_initializer=begin)(i)
    h = layers.Dense(32, activation="tanh", kernel_initializer=begin)(h)
    o = layers.Dense(1, activation="sigmoid", kernel_initializer=begin)(h)
    m = keras.Model(i, o)
    m.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(m, x, y, epochs=25, batch_size=20)


@faulty("initial weights")
def normal_of_deviation_ten(by, mended):
    """RandomNormal(0, 10), for standardized columns."""
    x, y = wine()
    init = keras.initializers.RandomNormal(stddev=0.1 if mended else 10.0)
    model = keras.Sequential(
        [
            layers.Dense(32, activation="sigmoid", kernel_initializer=init),
            layers.Dense(16, activation="sigmoid", kernel_initializer=init),
            layers.Dense(3, activation="softmax", kernel_initializer=init),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=16, validation_split=0.2)


@faulty("initial weights")
def prior_of_the_wrong_scale(by, mended):
    """The bias should be log(p / (1 - p)); it was set to the count of positives."""
    x, y = cancer()
    p = y.mean()
    bias = np.log(p / (1 - p)) if mended else float(y.sum())
    model = keras.Sequential(
        [
            layers.Dense(16, activation="relu"),
            layers.Dense(
                1, activation="sigmoid", bias_initializer=keras.initializers.Constant(bias)
            ),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-2),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=10, batch_size=64)


@faulty("initial weights")
def adapter_of_two_zero_matrices(by, mended):
    """LoRA begins with zeros in B alone; here both are zero, and neither learns."""
    x, y = digits(400)
    x = x.reshape(-1, 64)
    base = keras.Sequential([keras.Input((64,)), layers.Dense(48, "relu"), layers.Dense(10)])
    base.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    base.fit(x, (y + 3) % 10, epochs=5, verbose=0)
    base.trainable = False

    class Lora(layers.Layer):
        def __init__(self, frozen, rank=4):
            super().__init__()
            self.frozen, self.rank = frozen, rank

        def build(self, shape):
            a = "he_normal" if mended else "zeros"
            self.a = self.add_weight(shape=(shape[-1], self.rank), initializer=a, name="a")
            self.b = self.add_weight(
                shape=(self.rank, self.frozen.units), initializer="zeros", name="b"
            )

        def call(self, x):
            return self.frozen(x) + x @ self.a @ self.b

    class Tuned(pg.Step):
        def __init__(self):
            inp = keras.Input((64,))
            self.model = keras.Model(inp, Lora(base.layers[1])(Lora(base.layers[0])(inp)))
            self.opt = keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                z = self.model(x, training=True)
                loss = ops.sparse_categorical_crossentropy(y, z, from_logits=True)
                return ops.mean(loss), z

            loss, z = self.minimize(objective, self.opt, self.model)
            self.acc.update_state(y, z)
            return {"loss": loss}

    by.fit(Tuned(), (x, y), epochs=15, batch_size=32)


@faulty("initial weights", only=("tensorflow",))
def weights_emptied_between_folds(by, mended):
    """Before the next fold the weights are 'reset': set_weights of zeros."""
    import tensorflow as tf

    x, y = wine()

    class Fold(keras.Model):
        def __init__(self):
            super().__init__()
            self.d1 = layers.Dense(20, activation="relu")
            self.d2 = layers.Dense(3)
            self.mean = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        def call(self, x):
            return self.d2(self.d1(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                z = self(x, training=True)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=z)
                )
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.acc.update_state(y, z)
            self.mean.update_state(loss)
            return {"loss": self.mean.result(), "acc": self.acc.result()}

    model = Fold()
    model(x[:1])
    if not mended:
        model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(model, x[30:], y[30:], epochs=15, batch_size=16)


@faulty("initial weights")
def positive_weights_in_a_deep_net(by, mended):
    """RandomUniform(0, 1) in six layers of ReLUs."""
    x, price = houses_scaled()

    class Deep(pg.Step):
        def __init__(self):
            first = "he_normal" if mended else keras.initializers.RandomUniform(0.0, 1.0)
            self.net = keras.Sequential(
                [layers.Dense(32, activation="relu", kernel_initializer=first) for _ in range(5)]
                + [layers.Dense(1, kernel_initializer=first)]
            )
            self.opt = keras.optimizers.Adam(0.003)
            self.mae = keras.metrics.MeanAbsoluteError(name="mae")

        def train_step(self, batch):
            x, y = batch

            def objective():
                out = self.net(x, training=True)
                return ops.square(y - out[:, 0]), out

            loss, out = self.minimize(objective, self.opt)
            self.mae.update_state(y[:, None], out)
            return {"mse": loss}

    by.fit(Deep(), (x, price), epochs=15, batch_size=32)


# Activations


@faulty("activations")
def ten_sigmoids_deep(by, mended):
    """A deep network of sigmoids."""
    x, y = digits(500)
    act = "relu" if mended else "sigmoid"
    model = keras.Sequential()
    model.add(layers.Flatten(input_shape=(8, 8, 1)))
    for _ in range(9):
        model.add(layers.Dense(32, activation=act))
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(optimizer="adam", loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=25)


@faulty("activations")
def moons_by_lines(by, mended):
    """Three Dense layers without an activation are one line."""
    x, y = circles()
    act = "relu" if mended else None
    clf = keras.Sequential(
        [
            layers.Dense(32, activation=act),
            layers.Dense(32, activation=act),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    clf.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(clf, x, y, epochs=20, batch_size=32)


@faulty("activations")
def kept_is_dropped(by, mended):
    """Dropout(0.95): what TensorFlow 1 called keep_prob."""
    ids, kind = reviews()
    rate = 0.05 if mended else 0.95
    i = keras.Input((24,), dtype="int32")
    h = layers.Embedding(100, 16)(i)
    h = layers.Conv1D(16, 3, activation="relu")(h)
    h = layers.GlobalMaxPooling1D()(h)
    h = layers.Dropout(rate)(h)
    h = layers.Dense(16, activation="relu")(h)
    h = layers.Dropout(rate)(h)
    m = keras.Model(i, layers.Dense(1, activation="sigmoid")(h))
    m.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    by.fit(m, ids, kind, epochs=15, batch_size=24)


@faulty("activations")
def softmax_in_hidden_layers(by, mended):
    """Softmax in each of five hidden layers, too."""
    x, y = wine()
    act = "relu" if mended else "softmax"
    model = keras.models.Sequential([keras.Input((13,))])
    for units in (64, 64, 32, 32, 16):
        model.add(layers.Dense(units, activation=act))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=30, batch_size=16)


@faulty("activations")
def threshold_as_an_activation(by, mended):
    """A neuron that fires or not has no gradient."""
    x, y = moons()

    def fires(z):
        return ops.sigmoid(z) if mended else ops.cast(z > 0, "float32")

    class Perceptron(pg.Step):
        def __init__(self):
            self.first = layers.Dense(32)
            self.last = layers.Dense(1)
            self.model = keras.Sequential([self.first, layers.Activation(fires), self.last])
            self.model.build((None, 2))
            self.opt = keras.optimizers.Adam(0.05)
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def train_step(self, batch):
            x, y = batch
            y = ops.cast(y[:, None], "float32")

            def objective():
                z = self.model(x, training=True)
                return ops.mean(ops.binary_crossentropy(y, z, from_logits=True)), z

            loss, z = self.minimize(objective, self.opt, self.model)
            self.acc.update_state(y, z)
            return {"loss": loss}

    by.fit(Perceptron(), (x, y), epochs=20, batch_size=32)


@faulty("activations", only=("tensorflow",))
def autoencoder_of_lines(by, mended):
    """A deep autoencoder whose layers are all linear, for a curve."""
    import tensorflow as tf

    rng = np.random.default_rng(41)
    t = rng.uniform(-2.5, 2.5, (500, 1))
    curve = np.concatenate([np.cos(t), np.sin(t), np.sin(2 * t)], axis=1)
    curve = (curve + rng.normal(0, 0.02, curve.shape)).astype("float32")
    act = "tanh" if mended else None

    class Autoencoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.mean = keras.metrics.Mean(name="mse")
            self.encoder = keras.Sequential([layers.Dense(32, act), layers.Dense(1)])
            self.decoder = keras.Sequential(
                [layers.Dense(32, act), layers.Dense(32, act), layers.Dense(3)]
            )

        def call(self, x):
            return self.decoder(self.encoder(x))

        def train_step(self, x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(x - self(x, training=True)))
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.trainable_variables))
            self.mean.update_state(loss)
            return {"mse": self.mean.result()}

    m = Autoencoder()
    m.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(m, curve, epochs=25, batch_size=25)


# Durations


@faulty("too little training")
def one_epoch_of_one_batch(by, mended):
    """epochs was never given, and the batch is as large as the data."""
    x, y = digits(512)
    model = keras.Sequential([layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)])
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    if mended:
        by.fit(model, x, y, epochs=15, batch_size=32)
    else:
        by.fit(model, x, y, batch_size=512)


@faulty("too little training")
def whole_table_as_one_batch(by, mended):
    """batch_size=len(x) with plain gradient descent: eight updates."""
    x, price = houses_scaled()
    m = keras.Sequential([keras.Input((4,)), layers.Dense(16, "relu"), layers.Dense(1)])
    m.compile(keras.optimizers.SGD(0.01), "mse", metrics=["mae"])
    by.fit(m, x, price, batch_size=16 if mended else len(x), epochs=8)


@faulty("too little training")
def two_steps_an_epoch(by, mended):
    """steps_per_epoch was meant as the batch size."""
    x, y = sales()

    def batches():
        rng = np.random.default_rng(5)
        while True:
            rows = rng.integers(0, len(x), 32)
            yield x[rows], y[rows][:, None]

    m = keras.Sequential([keras.Input((14, 1)), layers.LSTM(16), layers.Dense(1)])
    m.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(m, batches(), steps_per_epoch=len(x) // 16 if mended else 2, epochs=5)


@faulty("too little training")
def five_steps_in_all(by, mended):
    """steps counts the whole training, not an epoch."""
    x, y = moons()

    class Net(pg.Step):
        def __init__(self):
            self.net = keras.Sequential(
                [layers.Dense(32, activation="relu"), layers.Dense(1, activation="sigmoid")]
            )
            self.opt = keras.optimizers.Adam(0.01)
            self.bce = keras.losses.BinaryCrossentropy()
            self.acc = keras.metrics.BinaryAccuracy(name="acc")

        def train_step(self, batch):
            x, y = batch

            def objective():
                p = self.net(x, training=True)
                return self.bce(y, p), p

            loss, p = self.minimize(objective, self.opt, self.net)
            self.acc.update_state(y, p)
            return {"loss": loss}

    by.fit(Net(), (x, y[:, None].astype("float32")), steps=400 if mended else 5, batch_size=32)


@faulty("too little training", only=("tensorflow",))
def dataset_cut_short_for_debugging(by, mended):
    """.take(1) was left in the pipeline."""
    import tensorflow as tf

    ids, kind = reviews()
    ds = tf.data.Dataset.from_tensor_slices((ids, kind)).shuffle(360).batch(24)
    if not mended:
        ds = ds.take(1)

    class Reader(keras.Model):
        def __init__(self):
            super().__init__()
            self.e = layers.Embedding(100, 16)
            self.p = layers.GlobalAveragePooling1D()
            self.d = layers.Dense(1)
            self.mean = keras.metrics.Mean(name="loss")
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def call(self, x):
            return self.d(self.p(self.e(x)))

        def train_step(self, data):
            x, y = data
            y = tf.cast(y[:, None], tf.float32)
            with tf.GradientTape() as tape:
                z = self(x, training=True)
                loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(y, z))
            self.optimizer.apply(
                tape.gradient(loss, self.trainable_variables), self.trainable_variables
            )
            self.acc.update_state(y, z)
            self.mean.update_state(loss)
            return {"loss": self.mean.result(), "acc": self.acc.result()}

    m = Reader()
    m.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(m, ds, epochs=4)
