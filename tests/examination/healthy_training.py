"""Right programs with unusual optimizers, schedules, callbacks, feeds and batches."""

import keras
import numpy as np
from keras import layers, ops

from tests.examination.programs import healthy
from tests.strangers.datasets import cancer, diabetes, digits, wine

SPARSE = "sparse_categorical_crossentropy"


def classifier(units=24, out=3, activation="relu"):
    return keras.Sequential(
        [layers.Dense(units, activation=activation), layers.Dense(out, activation="softmax")]
    )


@healthy
def one_row_at_a_time(by):
    x, y = wine()
    model = classifier(12, activation="tanh")
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, batch_size=1, epochs=6)


@healthy
def two_rows_at_a_time(by):
    x, y = diabetes()
    m = keras.Sequential([keras.Input((10,)), layers.Dense(8, "relu"), layers.Dense(1)])
    m.compile(loss="mse", optimizer=keras.optimizers.Adam(2e-3))
    by.fit(m, x, y, batch_size=2, epochs=6)


@healthy
def all_rows_at_once_for_long(by):
    """The whole data as one batch, and 60 epochs of it."""
    x, y = wine()
    model = classifier()
    model.compile(keras.optimizers.Adam(0.03), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, batch_size=len(x), epochs=60)


@healthy
def linear_regression_rate_of_a_half(by):
    """SGD with a rate of 0.5: the columns are small, and so is the curvature."""
    rng = np.random.default_rng(110)
    x = rng.uniform(-0.5, 0.5, (300, 4)).astype("float32")
    y = x @ np.array([[3.0], [-2.0], [0.5], [1.0]], "float32") + 0.7
    line = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    line.compile(optimizer=keras.optimizers.SGD(learning_rate=0.5), loss="mse")
    by.fit(line, x, y, epochs=20, batch_size=50)


@healthy
def softmax_regression_rate_one(by):
    x, y = digits()
    model = keras.Sequential([layers.Flatten(), layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.SGD(1.0), "categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, keras.utils.to_categorical(y, 10), epochs=20, batch_size=80)


@healthy
def adadelta_at_its_own_rate(by):
    """Adadelta as it was published has a rate of 1."""
    x, y = wine()
    model = classifier()
    model.compile(optimizer=keras.optimizers.Adadelta(1.0), loss=SPARSE)
    by.fit(model, x, y, epochs=20, batch_size=16)


@healthy
def slow_and_steady(by):
    """A rate of 1e-4, with enough steps for it."""
    x, y = cancer()
    model = keras.Sequential([layers.Dense(64, "relu"), layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=8)


class Warmup(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak, steps):
        self.peak, self.steps = peak, steps

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1.0
        return self.peak * ops.minimum(step / self.steps, ops.sqrt(self.steps / step))

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


@healthy
def warm_up_of_attention_is_all_you_need(by):
    x, y = digits()
    rows = x[..., 0]
    inp = keras.Input((8, 8))
    h = layers.Dense(16)(inp)
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 8)(h, h))
    h = layers.Dense(48, activation="relu")(layers.Flatten()(h))
    model = keras.Model(inp, layers.Dense(10, activation="softmax")(h))
    adam = keras.optimizers.Adam(Warmup(0.01, 30), beta_2=0.98, epsilon=1e-9)
    model.compile(adam, SPARSE, metrics=["accuracy"])
    by.fit(model, rows, y, epochs=12, batch_size=32)


@healthy
def cosine_with_built_in_warm_up(by):
    x, y = wine()
    steps = 25 * 12
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - 24, warmup_target=0.02, warmup_steps=24
    )
    model = classifier(16)
    model.compile(keras.optimizers.AdamW(rate, weight_decay=1e-3), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=16)


@healthy
def steps_down_by_pieces(by):
    x, y = diabetes()
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([100, 200], [0.02, 0.005, 0.001])
    net = keras.Sequential([layers.Dense(20, "relu"), layers.Dense(1)])
    net.compile(keras.optimizers.SGD(rate, momentum=0.8), "huber")
    by.fit(net, x, y, epochs=20, batch_size=32)


@healthy
def callbacks_of_all_kinds(by):
    x, y = cancer()

    class Note(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(logs["loss"])

    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    callbacks = [
        keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=3),
        keras.callbacks.TerminateOnNaN(),
        Note(),
    ]
    by.fit(model, x, y, epochs=25, batch_size=32, validation_split=0.2, callbacks=callbacks)


@healthy
def rate_by_epoch(by):
    x, y = wine()
    model = classifier()
    model.compile(optimizer=keras.optimizers.RMSprop(0.01), loss=SPARSE, metrics=["acc"])
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr if epoch < 8 else lr * 0.8)
    by.fit(model, x, y, epochs=15, batch_size=16, callbacks=[halve])


@healthy
def averaged_weights(by):
    x, y = wine()
    model = classifier()
    adam = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer=adam, loss=SPARSE, metrics=["accuracy"])
    by.fit(
        model,
        x[:140],
        y[:140],
        epochs=15,
        batch_size=10,
        validation_data=(x[140:], y[140:]),
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)],
    )


@healthy
def gradients_gathered_by_the_optimizer(by):
    x, y = wine()
    model = classifier()
    adam = keras.optimizers.Adam(0.01, gradient_accumulation_steps=4)
    model.compile(adam, loss=keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=4)


@healthy
def clipped_by_value(by):
    """Squared error of heavy-tailed targets, where clipping is what it is for."""
    rng = np.random.default_rng(111)
    x = rng.normal(size=(400, 5)).astype("float32")
    y = (x[:, 0] - x[:, 1] + 0.1 * rng.standard_t(2, 400)).astype("float32")
    net = keras.Sequential([keras.Input((5,)), layers.Dense(16, "elu"), layers.Dense(1)])
    net.compile(keras.optimizers.Adam(0.01, clipvalue=0.5), loss="mse", metrics=["mae"])
    by.fit(net, x, y, epochs=15, batch_size=20)


@healthy
def sign_of_the_gradient(by):
    """Lion wants a rate that is a tenth of Adam's."""
    x, y = digits()
    model = keras.Sequential([layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Lion(1e-3, weight_decay=0.01), loss, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32)


@healthy
def lasso(by):
    """Most of the 40 columns say nothing, and an L1 penalty finds them."""
    rng = np.random.default_rng(112)
    x = rng.normal(size=(300, 40)).astype("float32")
    y = 2 * x[:, 3] - x[:, 17] + rng.normal(0, 0.1, 300)
    model = keras.Sequential()
    model.add(keras.Input((40,)))
    model.add(layers.Dense(1, kernel_regularizer="l1", use_bias=False))
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mean_squared_error")
    by.fit(model, x, y, epochs=25, batch_size=30)


@healthy
def sparse_codes_by_activity(by):
    x, _ = digits()
    flat = x.reshape(-1, 64)
    inp = keras.Input((64,))
    code = layers.Dense(48, "relu", activity_regularizer=keras.regularizers.L1(1e-3))(inp)
    out = layers.Dense(64, "sigmoid")(code)
    model = keras.Model(inp, out)
    model.compile("adam", "binary_crossentropy")
    model.optimizer.learning_rate = 0.005
    by.fit(model, flat, flat, epochs=20, batch_size=20)


@healthy
def orthogonal_and_max_norm(by):
    x, y = digits()
    model = keras.Sequential(
        [
            layers.Flatten(),
            layers.Dense(
                48,
                activation="relu",
                kernel_initializer="orthogonal",
                kernel_constraint=keras.constraints.MaxNorm(3),
                kernel_regularizer=keras.regularizers.OrthogonalRegularizer(1e-3),
            ),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.005), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32)


@healthy
def self_normalizing(by):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,))])
    for _ in range(6):
        model.add(layers.Dense(24, activation="selu", kernel_initializer="lecun_normal"))
        model.add(layers.AlphaDropout(0.02))
    model.add(layers.Dense(3, activation="softmax"))
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=16)


@healthy
def twenty_layers_with_skips(by):
    x, y = cancer()
    inp = keras.Input((30,))
    h = layers.Dense(16)(inp)
    for _ in range(10):
        r = layers.LayerNormalization()(h)
        r = layers.Dense(16, activation="relu")(r)
        h = layers.Add()([h, layers.Dense(16, kernel_initializer="zeros")(r)])
    out = layers.Dense(1, activation="sigmoid")(layers.LayerNormalization()(h))
    deep = keras.Model(inp, out)
    deep.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    by.fit(deep, x, y, epochs=8, batch_size=32)


@healthy
def mixed_precision(by):
    """Half precision in the body, and a head of float32, as the guide says."""
    x, y = digits()
    half = "mixed_bfloat16"
    inputs = keras.Input((8, 8, 1))
    h = layers.Conv2D(16, 3, activation="relu", dtype=half)(inputs)
    h = layers.Flatten(dtype=half)(h)
    h = layers.Dense(32, activation="relu", dtype=half)(h)
    logits = layers.Dense(10, dtype=half)(h)
    model = keras.Model(inputs, layers.Activation("softmax", dtype="float32")(logits))
    model.compile(keras.optimizers.Adam(0.005), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=10, batch_size=32)


@healthy(only=("tensorflow",))
def dataset_that_repeats(by):
    import tensorflow as tf

    x, y = cancer()
    ds = tf.data.Dataset.from_tensor_slices((x, y[:, None]))
    ds = ds.shuffle(600, seed=1).repeat().batch(32, drop_remainder=True).prefetch(2)
    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(1, "sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(model, ds, epochs=10, steps_per_epoch=18)


@healthy(only=("tensorflow",))
def dataset_mapped_to_one_hot(by):
    import tensorflow as tf

    x, y = digits()

    def prepare(image, label):
        return tf.image.per_image_standardization(image), tf.one_hot(label, 10)

    ds = tf.data.Dataset.from_tensor_slices((x, y)).map(prepare).cache()
    ds = ds.shuffle(320).batch(20)
    model = keras.Sequential([layers.Flatten(), layers.Dense(48, "relu"), layers.Dense(10)])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.004), loss, metrics=["categorical_accuracy"])
    by.fit(model, ds, epochs=12)


class Windows(keras.utils.PyDataset):
    """Windows of one long signal, in an order that is drawn anew each epoch."""

    def __init__(self, signal, length=16, batch=25):
        super().__init__()
        self.signal, self.length, self.batch = signal, length, batch
        self.rng = np.random.default_rng(0)
        self.on_epoch_end()

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.signal) - self.length)

    def __len__(self):
        return len(self.order) // self.batch

    def __getitem__(self, i):
        start = self.order[i * self.batch : (i + 1) * self.batch, None]
        x = self.signal[start + np.arange(self.length)]
        return x[..., None], self.signal[start + self.length]


@healthy
def windows_from_a_pydataset(by):
    rng = np.random.default_rng(113)
    t = np.arange(500)
    signal = (np.sin(t / 5) + 0.3 * np.sin(t / 2) + rng.normal(0, 0.03, 500)).astype("float32")
    model = keras.Sequential([keras.Input((16, 1)), layers.LSTM(16), layers.Dense(1)])
    model.compile("adam", "mse")
    model.optimizer.learning_rate = 0.01
    by.fit(model, Windows(signal), epochs=12)


class Pairs(keras.utils.PyDataset):
    def __init__(self, x, y, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 24)

    def __getitem__(self, i):
        part = slice(24 * i, 24 * (i + 1))
        weight = np.where(self.y[part] == 2, 1.5, 1.0)
        return {"left": self.x[part, :6], "right": self.x[part, 6:]}, self.y[part], weight


@healthy
def dicts_from_a_pydataset(by):
    x, y = wine()
    left, right = keras.Input((6,), name="left"), keras.Input((7,), name="right")
    h = layers.Concatenate()([layers.Dense(10, "relu")(left), layers.Dense(10, "relu")(right)])
    model = keras.Model({"left": left, "right": right}, layers.Dense(3, "softmax")(h))
    model.compile(keras.optimizers.Adam(0.01), SPARSE, weighted_metrics=["accuracy"])
    by.fit(model, Pairs(x, y), epochs=15)


@healthy
def fresh_noise_from_a_generator(by):
    """Data that is made while it is used, and never seen twice."""

    def stream():
        rng = np.random.default_rng(114)
        while True:
            x = rng.uniform(-1, 1, (64, 2)).astype("float32")
            yield x, (x[:, :1] * x[:, 1:]).astype("float32")

    model = keras.Sequential([keras.Input((2,)), layers.Dense(32, "relu"), layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, stream(), epochs=12, steps_per_epoch=25)


@healthy
def metrics_of_ones_own(by):
    x, y = cancer()

    class Balanced(keras.metrics.Metric):
        def __init__(self, name="balanced", **kwargs):
            super().__init__(name=name, **kwargs)
            self.hit = self.add_weight(shape=(2,), initializer="zeros", name="hit")
            self.all = self.add_weight(shape=(2,), initializer="zeros", name="all")

        def update_state(self, y_true, y_pred, sample_weight=None):
            t = ops.cast(ops.reshape(y_true, (-1,)), "float32")
            right = ops.cast(ops.equal(t > 0.5, y_pred[:, 0] > 0.5), "float32")
            self.hit.assign_add(ops.stack([ops.sum((1 - t) * right), ops.sum(t * right)]))
            self.all.assign_add(ops.stack([ops.sum(1 - t), ops.sum(t)]))

        def result(self):
            return ops.mean(self.hit / ops.maximum(self.all, 1.0))

    model = keras.Sequential([layers.Dense(12, "relu"), layers.Dense(1, "sigmoid")])
    model.compile(
        "adam",
        "binary_crossentropy",
        metrics=[Balanced(), keras.metrics.F1Score("micro", threshold=0.5)],
    )
    by.fit(model, x, y[:, None], epochs=12, batch_size=32)


@healthy
def ten_rows_for_a_curve(by):
    """Small data by design: a polynomial through ten points."""
    t = np.linspace(-1, 1, 10)
    x = np.stack([t, t**2, t**3], 1).astype("float32")
    y = (0.5 + t - 2 * t**3).astype("float32")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
    by.fit(model, x, y, epochs=80, batch_size=5)


@healthy
def exclusive_or(by):
    """Four rows, all of them the data there is."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
    y = np.array([[0], [1], [1], [0]], "float32")
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(16, "tanh"), layers.Dense(1, "sigmoid")]
    )
    model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=80, batch_size=4)
