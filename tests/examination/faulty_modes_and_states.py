"""Modes that are mixed up, state that is lost or kept, and values that were only drawn once."""

import random

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine

COMPILED = ("tensorflow", "jax")
SCE = keras.losses.sparse_categorical_crossentropy


def shifted(count=300):
    """Rows of 12 columns far from the middle, and their classes."""
    rng = np.random.default_rng(31)
    kind = rng.integers(0, 3, count)
    x = rng.normal(0, 1, (count, 12)) + np.eye(12)[kind * 3] * 3
    return (x * 4 + 20).astype("float32"), kind.astype("int32")


def report(model, loss):
    for metric in model.metrics:
        if metric.name == "loss":
            metric.update_state(loss)
    return {m.name: m.result() for m in model.metrics}


# Modes


class Quiet(keras.Model):
    """A train_step as in the guides, but for training=True."""

    def __init__(self, net, training):
        super().__init__()
        self.net, self.flag = net, training

    def call(self, x, training=False):
        return self.net(x, training=training)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=self.flag)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        return report(self, loss)


@faulty("mode", only=("tensorflow",))
def statistics_never_move(by, mended):
    x, y = shifted()
    net = keras.Sequential(
        [layers.BatchNormalization(momentum=0.9), layers.Dense(16, "relu"), layers.Dense(3)]
    )
    model = Quiet(net, mended)
    model.compile(
        optimizer=keras.optimizers.SGD(0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    by.fit(model, x, y, epochs=12, batch_size=20)


class QuietStep(pg.Step):
    def __init__(self, model, mode):
        super().__init__()
        self.model, self.mode = model, mode
        self.optimizer = keras.optimizers.Adam(5e-3)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: SCE(y, self.model(x, **self.mode))
        return {"loss": self.minimize(objective, self.optimizer)}

    def test_step(self, batch):
        x, y = batch
        p = self.model(x, training=False)
        hit = ops.cast(ops.equal(ops.argmax(p, -1), y), "float32")
        return {"loss": SCE(y, p), "accuracy": hit}


@faulty("mode")
def dropout_that_is_never_on(by, mended):
    """Few noisy rows and a wide network: only Dropout would keep it from learning them by heart."""
    rng = np.random.default_rng(14)
    x = rng.normal(size=(460, 20)).astype("float32")
    y = (x[:, 0] + x[:, 1] + rng.normal(0, 1.0, 460) > 0).astype("int32")
    model = keras.Sequential([keras.Input((20,)), layers.Dropout(0.3), layers.Dense(128, "relu")])
    model.add(layers.Dropout(0.6))
    model.add(layers.Dense(2, activation="softmax"))
    step = QuietStep(model, {"training": True} if mended else {})
    by.fit(step, (x[:60], y[:60]), epochs=30, batch_size=20, validation=(x[60:], y[60:]))


class Normed(keras.Model):
    """A small convolutional net, whose own call says training=False to its normalization."""

    def __init__(self, passes):
        super().__init__()
        self.norm = layers.BatchNormalization(momentum=0.8)
        self.flat, self.h = layers.Flatten(), layers.Dense(32, activation="tanh")
        self.out, self.passes = layers.Dense(10), passes

    def call(self, images, training=None):
        z = self.norm(images, training=training if self.passes else False)
        return self.out(self.h(self.flat(z)))


@faulty("mode")
def false_written_into_call(by, mended):
    x, y = digits()
    model = Normed(mended)
    model.compile(
        keras.optimizers.SGD(0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(model, x * 255.0 + 100.0, y, epochs=12, batch_size=16, validation_split=0.2)


class TestsInTraining(QuietStep):
    """Its test_step runs the model as in training."""

    def __init__(self, model, training):
        super().__init__(model, {"training": True})
        self.while_testing = training

    def test_step(self, batch):
        x, y = batch
        p = self.model(x, training=self.while_testing)
        hit = ops.cast(ops.equal(ops.argmax(p, -1), y), "float32")
        return {"loss": SCE(y, p), "accuracy": hit}


@faulty("mode")
def validation_with_dropout(by, mended):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), layers.Dense(24, "relu"), layers.Dropout(0.7)])
    model.add(layers.Dense(3, activation="softmax"))
    step = TestsInTraining(model, not mended)
    by.fit(step, (x[:120], y[:120]), validation=(x[120:], y[120:]), epochs=15, batch_size=16)


class LearnsFromTests(keras.Model):
    def __init__(self, net, training):
        super().__init__()
        self.net, self.flag = net, training

    def call(self, x, training=False):
        return self.net(x, training=training)

    def test_step(self, data):
        x, y = data
        p = self(x, training=self.flag)
        loss = self.compute_loss(x=x, y=y, y_pred=p, training=False)
        for metric in self.metrics:
            metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, p)
        return {m.name: m.result() for m in self.metrics}


@faulty("mode", only=("tensorflow",))
def validation_moves_the_statistics(by, mended):
    """All rows of validation are of one class, and end up in the moving averages."""
    x, y = cancer()
    net = keras.Sequential([layers.BatchNormalization(momentum=0.5), layers.Dense(1)])
    model = LearnsFromTests(net, not mended)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    ill = np.flatnonzero(y[400:] == 0) + 400
    held = (x[ill], y[ill, None])
    by.fit(model, x[:400], y[:400, None], epochs=8, batch_size=25, validation_data=held)


class Reader(keras.Model):
    """Looks for a word. Its Dropout was to be on, and is on for predictions, too."""

    def __init__(self, forced):
        super().__init__()
        self.embed, self.pool = layers.Embedding(50, 24), layers.GlobalMaxPooling1D()
        self.drop, self.out = layers.Dropout(0.7), layers.Dense(1, activation="sigmoid")
        self.forced = forced

    def call(self, ids, training=False):
        h = self.pool(self.embed(ids))
        return self.out(self.drop(h, training=self.forced or training))


@faulty("mode")
def dropout_forced_on(by, mended):
    ids, label = sentences(300)
    net = Reader(forced=not mended)
    net.compile(keras.optimizers.Adam(0.01), loss="bce", metrics=["accuracy"])
    by.fit(net, ids, label[:, None], epochs=12, batch_size=20, validation_split=0.2)


class Shaken(layers.Layer):
    """Noise against overfitting."""

    def __init__(self, size, asks):
        super().__init__()
        self.size, self.asks = size, asks
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        if self.asks and not training:
            return x
        return x + self.size * keras.random.normal(ops.shape(x), seed=self.seed)


@faulty("mode")
def own_noise_at_inference(by, mended):
    past, following = waves()
    model = keras.Sequential([layers.Flatten(), Shaken(0.25, mended), layers.Dense(24, "relu")])
    model.add(layers.Dense(1))
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss="mse")
    by.fit(model, past, following, epochs=30, batch_size=16, validation_split=0.25)


class Imitate(pg.Step):
    """A student imitates the answers of a teacher."""

    def __init__(self, model, teacher, teacher_trains):
        super().__init__()
        self.model, self.teacher, self.teacher_trains = model, teacher, teacher_trains
        self.optimizer = keras.optimizers.Adam(5e-3)

    def train_step(self, x):
        target = ops.stop_gradient(self.teacher(x, training=self.teacher_trains))
        loss = lambda: ops.mean(ops.square(self.model(x, training=True) - target))
        return {"loss": self.minimize(loss, self.optimizer, self.model)}


@faulty("mode")
def teacher_with_dropout(by, mended):
    x, y = digits(200)
    teacher = keras.Sequential(
        [keras.Input((64,)), layers.Dense(64, "relu"), layers.Dropout(0.8), layers.Dense(10)]
    )
    scce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile("adam", scce)
    teacher.fit(x.reshape(-1, 64), y, epochs=20, verbose=0)
    teacher.trainable = False
    student = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu"), layers.Dense(10)])
    by.fit(Imitate(student, teacher, not mended), x.reshape(-1, 64), epochs=20, batch_size=20)


class Augmented(keras.Model):
    """Random shifts for training. Here they are made for every image."""

    def __init__(self, always):
        super().__init__()
        self.shift = layers.RandomTranslation(0.2, 0.2, fill_mode="constant", seed=2)
        self.body = keras.Sequential([layers.Conv2D(16, 3, activation="relu"), layers.Flatten()])
        self.head, self.always = layers.Dense(10, activation="softmax"), always

    def call(self, image, training=None):
        image = self.shift(image, training=True if self.always else training)
        return self.head(self.body(image))


@faulty("mode")
def test_images_are_shifted_too(by, mended):
    x, y = digits()
    m = Augmented(always=not mended)
    m.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    by.fit(m, x, y, epochs=25, batch_size=16, validation_split=0.2)


@faulty("mode", only=("tensorflow",))
def functional_net_in_a_quiet_loop(by, mended):
    """Dropout before a wide layer, and no word of training."""
    x, y = diabetes()
    inp = keras.Input((10,))
    h = layers.Dense(200, activation="relu")(inp)
    h = layers.Dropout(0.6)(h)
    h = layers.Dense(200, activation="relu")(h)
    h = layers.Dropout(0.6)(h)
    model = Quiet(keras.Model(inp, layers.Dense(1)(h)), training=mended)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss="mse")
    by.fit(model, x[:150], y[:150], epochs=40, batch_size=25, validation_data=(x[150:], y[150:]))


# State


class AnewEachStep(keras.Model):
    """Eager, so that Keras does not mind an optimizer made in the step."""

    def __init__(self, net, make, keep):
        super().__init__()
        self.net, self.make, self.keep = net, make, keep
        self.kept = make()

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        optimizer = self.kept if self.keep else self.make()
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        grads = tape.gradient(loss, self.trainable_variables)
        optimizer.apply_gradients(zip(grads, self.trainable_variables))
        return report(self, loss)


@faulty("state", only=("tensorflow",))
def optimizer_that_always_warms_up(by, mended):
    x, y = wine()
    cosine = keras.optimizers.schedules.CosineDecay
    make = lambda: keras.optimizers.Adam(cosine(1e-5, 200, warmup_target=0.02, warmup_steps=20))
    net = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(3)])
    model = AnewEachStep(net, make, mended)
    scce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=scce, run_eagerly=True)
    by.fit(model, x, y, epochs=10, batch_size=16)


@faulty("state", only=("tensorflow",))
def momentum_that_never_gathers(by, mended):
    x, y = cancer()
    make = lambda: keras.optimizers.SGD(1e-3, momentum=0.97)
    net = keras.Sequential([layers.Dense(12, activation="tanh"), layers.Dense(1)])
    model = AnewEachStep(net, make, keep=mended)
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), run_eagerly=True)
    by.fit(model, x[:256], y[:256, None], epochs=8, batch_size=16)


class Counted(keras.Model):
    """Counts its hits itself. `metrics` lists what is reset at each epoch."""

    def __init__(self, net, listed):
        super().__init__()
        self.net, self.listed = net, listed
        self.loss_seen = keras.metrics.Mean(name="loss")
        self.hits = keras.metrics.Sum(name="hits")

    def call(self, x, training=False):
        return self.net(x, training=training)

    @property
    def metrics(self):
        return [self.loss_seen, self.hits] if self.listed else [self.loss_seen]

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            p = self(x, training=True)
            loss = tf.reduce_mean(SCE(y, p))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.loss_seen.update_state(loss)
        self.hits.update_state(tf.argmax(p, -1) == tf.cast(y, tf.int64))
        return {"loss": self.loss_seen.result(), "hits": self.hits.result()}


@faulty("state", only=("tensorflow",))
def hits_of_all_epochs(by, mended):
    """More hits than there are rows."""
    x, y = wine()
    net = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(3, "softmax")])
    model = Counted(net, listed=mended)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    by.fit(model, x, y, epochs=8, batch_size=16)


@faulty("state")
def memory_of_other_series(by, mended):
    """Each series stands for itself, but a stateful layer goes on where the last batch ended."""
    rng = np.random.default_rng(33)
    x = rng.normal(size=(320, 6, 1)).astype("float32")
    y = np.cumsum(x, 1)[:, -1]
    inp = keras.Input(batch_shape=(20, 6, 1))
    h = layers.SimpleRNN(4, activation="linear", stateful=not mended)(inp)
    model = keras.Model(inp, layers.Dense(1)(h))
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, x, y, epochs=20, batch_size=20)


class Accumulate(keras.Model):
    """Updates at every fourth batch with the mean of four gradients."""

    def __init__(self, net, empties):
        super().__init__()
        self.net, self.empties = net, empties
        self.sums = [
            keras.Variable(np.zeros(w.shape, "float32"), trainable=False) for w in net.weights
        ]
        self.count = keras.Variable(0, dtype="int32", trainable=False)

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        w = self.net.trainable_weights
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        for s, g in zip(self.sums, tape.gradient(loss, w)):
            s.assign_add(g / 4.0)
        self.count.assign_add(1)
        due = tf.cast(self.count % 4 == 0, "float32")
        for s, v in zip(self.sums, w):
            v.assign_sub(0.3 * due * s)
            if self.empties:
                s.assign((1.0 - due) * s)
        return report(self, loss)


@faulty("state", only=("tensorflow",))
def gradients_never_emptied(by, mended):
    """What is gathered is applied and is kept."""
    x, y = digits()
    net = keras.Sequential([keras.Input((64,)), layers.Dense(32, "relu"), layers.Dense(10)])
    model = Accumulate(net, mended)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(model, x.reshape(-1, 64), y, epochs=25, batch_size=8)


class CountsTwice(keras.Model):
    """Counts its steps itself, although `apply` does."""

    def __init__(self, net, extra):
        super().__init__()
        self.net, self.extra = net, extra

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        if self.extra:
            self.optimizer.iterations.assign_add(1)
        return {**report(self, loss), "rate": self.optimizer.learning_rate}


@faulty("state", only=("tensorflow",))
def schedule_at_double_speed(by, mended):
    x, y = diabetes()
    model = CountsTwice(keras.Sequential([layers.Dense(1)]), not mended)
    decay = keras.optimizers.schedules.PolynomialDecay(0.01, 15 * 28, 0.0)
    model.compile(optimizer=keras.optimizers.Adam(decay), loss="mse")
    by.fit(model, x, y[:, None] + 1.5, epochs=15, batch_size=16)


class OwnMomentum(keras.Model):
    """Momentum by hand."""

    def __init__(self, net, kept):
        super().__init__()
        self.net, self.kept = net, kept
        make = lambda w: keras.Variable(np.zeros(w.shape, "float32"), trainable=False)
        self.velocity = [make(w) for w in net.trainable_variables]

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        (x, y), w = data, self.net.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        for v, g, old in zip(w, tape.gradient(loss, w), self.velocity):
            before = tf.convert_to_tensor(old) if self.kept else tf.zeros_like(g)
            now = 0.98 * before - 5e-4 * g
            old.assign(now)
            v.assign_add(now)
        return report(self, loss)


@faulty("state", only=("tensorflow",))
def velocity_of_zeros_at_each_step(by, mended):
    x, y = diabetes()
    net = keras.Sequential([keras.Input((10,)), layers.Dense(16, "tanh"), layers.Dense(1)])
    model = OwnMomentum(net, kept=mended)
    model.compile(loss="mse")
    by.fit(model, x, y[:, None] + 2.0, epochs=10, batch_size=32)


class Standardize(layers.Layer):
    """Subtracts a running mean and divides by a running deviation."""

    def __init__(self, width, keeps):
        super().__init__()
        self.keeps = keeps
        self.mean = self.add_weight(shape=(width,), initializer="zeros", trainable=False)
        self.square = self.add_weight(shape=(width,), initializer="ones", trainable=False)

    def call(self, x, training=False):
        mean, square = self.mean, self.square
        if not self.keeps:
            mean, square = ops.zeros_like(mean), ops.ones_like(square)
        if training:
            mean = 0.9 * mean + 0.1 * ops.mean(x, 0)
            square = 0.9 * square + 0.1 * ops.mean(ops.square(x), 0)
            self.mean.assign(mean)
            self.square.assign(square)
        variance = ops.maximum(square - ops.square(mean), 1e-3)
        return (x - mean) / ops.sqrt(variance)


@faulty("state")
def running_mean_that_starts_over(by, mended):
    x, y = shifted()
    model = keras.Sequential([Standardize(12, mended), layers.Dense(3, activation="softmax")])
    model.compile(
        optimizer=keras.optimizers.SGD(0.05),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    by.fit(model, x + 200, y, epochs=20, batch_size=20)


class Tally(pg.Step):
    """Also says how many rows it has seen in an epoch."""

    def __init__(self, model, twice):
        super().__init__()
        self.model, self.twice = model, twice
        self.optimizer = keras.optimizers.Adam(5e-3)
        self.rows = keras.metrics.Sum(name="rows")

    def train_step(self, batch):
        x, y = batch
        self.rows.update_state(ops.ones_like(y))
        loss = self.minimize(lambda: SCE(y, self.model(x, training=True)), self.optimizer)
        if self.twice:  # once more, now that the loss is known
            self.rows.update_state(ops.ones_like(y))
        return {"loss": loss}


@faulty("state")
def rows_told_twice(by, mended):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), layers.Dense(12, "relu")])
    model.add(layers.Dense(3, activation="softmax"))
    by.fit(Tally(model, twice=not mended), (x, y), epochs=10, batch_size=16)


class Follow(pg.Step):
    """Values of states by their successors, which a slow copy of the model tells."""

    def __init__(self, model, rate):
        super().__init__()
        self.model, self.rate = model, rate
        self.slow = pg.copy_of(model)
        self.optimizer = keras.optimizers.Adam(0.01)

    def train_step(self, batch):
        s, reward, then = batch
        aim = reward + 0.8 * ops.stop_gradient(self.slow(then)[:, 0])
        loss = lambda: ops.square(self.model(s, training=True)[:, 0] - aim)
        loss = self.minimize(loss, self.optimizer, self.model)
        if self.rate:
            self.blend(self.model, self.slow, self.rate)
        return {"loss": loss, "value": ops.mean(self.model(s))}


@faulty("state")
def target_that_is_never_renewed(by, mended):
    """Every step is worth one, so that values are five; the old copy still says zero."""
    rng = np.random.default_rng(37)
    s, then = (rng.uniform(-1, 1, (300, 3)).astype("float32") for _ in range(2))
    model = keras.Sequential([keras.Input((3,)), layers.Dense(16, "relu"), layers.Dense(1)])
    step = Follow(model, 0.1 if mended else 0.0)
    by.fit(step, (s, np.ones(300, "float32"), then), epochs=40, batch_size=30)


# Constants in a program


class Denoise(pg.Step):
    """An autoencoder that removes noise."""

    def __init__(self, model, fresh):
        super().__init__()
        self.model, self.fresh = model, fresh
        self.optimizer = keras.optimizers.Adam(3e-3)
        self.seed = keras.random.SeedGenerator(7)

    def noisy(self, x):
        if self.fresh:
            return x + keras.random.normal(ops.shape(x), stddev=0.5, seed=self.seed)
        return x + np.random.normal(0, 0.5, x.shape[1:]).astype("float32")

    def train_step(self, batch):
        loss = lambda: ops.mean(ops.square(self.model(self.noisy(batch), training=True) - batch))
        return {"loss": self.minimize(loss, self.optimizer)}

    def test_step(self, batch):
        noise = keras.random.normal(ops.shape(batch), stddev=0.5, seed=3)
        return {"loss": ops.mean(ops.square(self.model(batch + noise) - batch))}


@faulty("constant in a program", only=COMPILED)
def the_same_noise_at_every_step(by, mended):
    x = digits(320)[0].reshape(-1, 64)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(96, "relu"), layers.Dense(64)])
    by.fit(Denoise(model, mended), x[:160], epochs=30, batch_size=160, validation=x[160:])


class Warm(keras.Model):
    """Weighs the loss from 0 to 1 during the first steps, counted in Python."""

    def __init__(self, net, counter):
        super().__init__()
        self.net, self.step = net, counter

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            plain = self.compute_loss(y=y, y_pred=self(x, training=True))
            loss = plain * tf.minimum(1.0, tf.cast(self.step, "float32") / 40.0)
        if isinstance(self.step, int):
            self.step += 1
        else:
            self.step.assign_add(1)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        return report(self, plain)


@faulty("constant in a program", only=("tensorflow",))
def warmup_counted_in_python(by, mended):
    x, y = wine()
    counter = keras.Variable(0, dtype="int32", trainable=False) if mended else 0
    model = Warm(keras.Sequential([layers.Dense(16, "relu"), layers.Dense(3)]), counter)
    scce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=scce)
    by.fit(model, x, y, epochs=12, batch_size=16)


class RateOfPython(keras.Model):
    """Its rate is a float, which a callback raises after the first epoch."""

    def __init__(self, net, rate):
        super().__init__()
        self.net, self.rate = net, rate

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        for v, g in zip(self.trainable_weights, tape.gradient(loss, self.trainable_weights)):
            v.assign_sub(self.rate * g)
        return report(self, loss)


@faulty("constant in a program", only=("tensorflow",))
def rate_read_while_compiling(by, mended):
    x, y = digits()
    rate = keras.Variable(1e-4, trainable=False) if mended else 1e-4
    model = RateOfPython(keras.Sequential([layers.Flatten(), layers.Dense(10)]), rate)

    def raise_it(epoch, logs=None):
        model.rate.assign(0.1) if mended else setattr(model, "rate", 0.1)

    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tuned = keras.callbacks.LambdaCallback(on_epoch_end=raise_it)
    by.fit(model, x, y, epochs=15, batch_size=16, callbacks=[tuned])


class Masked(pg.Step):
    """Learns rows by guessing columns that are left out, drawn for each batch."""

    def __init__(self, model, fresh):
        super().__init__()
        self.model, self.fresh = model, fresh
        self.optimizer = keras.optimizers.Adam(5e-3)
        self.seed = keras.random.SeedGenerator(11)

    def train_step(self, x):
        if self.fresh:
            seen = keras.random.uniform(ops.shape(x), seed=self.seed) > 0.3
        else:
            seen = np.random.rand(1, x.shape[1]) > 0.3
        seen = ops.cast(seen, "float32") + ops.zeros_like(x)
        miss = lambda: (1 - seen) * ops.square(self.model(x * seen, training=True) - x)
        objective = lambda: ops.sum(miss()) / (ops.sum(1 - seen) + 1e-6)
        return {"loss": self.minimize(objective, self.optimizer)}

    def test_step(self, x):
        seen = ops.cast(keras.random.uniform(ops.shape(x), seed=5) > 0.3, "float32")
        miss = (1 - seen) * ops.square(self.model(x * seen) - x)
        return {"loss": ops.sum(miss) / ops.sum(1 - seen)}


@faulty("constant in a program", only=COMPILED)
def columns_left_out_for_good(by, mended):
    x, _ = cancer()
    model = keras.Sequential([keras.Input((30,)), layers.Dense(64, "relu"), layers.Dense(30)])
    by.fit(Masked(model, mended), x[:400], validation=x[400:500], epochs=20, batch_size=40)


class SeededDropout(layers.Layer):
    """Drops whole columns, with an integer as its seed, for reproducibility."""

    def __init__(self, rate, seed):
        super().__init__()
        self.rate, self.seed = rate, seed

    def call(self, x, training=False):
        if not training:
            return x
        kept = keras.random.uniform(x.shape[1:], seed=self.seed) > self.rate
        return x * ops.cast(kept, x.dtype) / (1 - self.rate)


@faulty("constant in a program")
def the_same_columns_are_dropped(by, mended):
    """An integer draws the same columns at every step. A generator goes on."""
    x, y = digits()
    seed = keras.random.SeedGenerator(42) if mended else 42
    model = keras.Sequential([layers.Flatten(), SeededDropout(0.7, seed)])
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    by.fit(model, x, y, epochs=20, batch_size=32, validation_split=0.2)


class Flip(keras.Model):
    """Flips half of the batches from left to right."""

    def __init__(self, net, coin):
        super().__init__()
        self.net, self.coin = net, coin

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        if self.coin == "python":
            x = x[:, :, ::-1] if random.random() > 0.5 else x
        else:
            x = tf.where(tf.random.uniform(()) > 0.5, x[:, :, ::-1], x)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        return report(self, loss)


@faulty("constant in a program", only=("tensorflow",))
def a_coin_that_was_tossed_once(by, mended):
    """Validation has the images both ways."""
    x, y = digits()
    random.seed(5)
    net = keras.Sequential([layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)])
    model = Flip(net, "tf" if mended else "python")
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    both = np.concatenate([x, x[:, :, ::-1]]), np.concatenate([y, y])
    by.fit(model, x, y, epochs=20, batch_size=16, validation_data=both)


class Pairs(pg.Step):
    """Embeds items so that those bought together are alike, against drawn others."""

    def __init__(self, model, items, fresh):
        super().__init__()
        self.model, self.items, self.fresh = model, items, fresh
        self.optimizer = keras.optimizers.Adam(0.02)
        self.seed = keras.random.SeedGenerator(13)

    def others(self):
        if self.fresh:
            return keras.random.randint((1, 4), 0, self.items, seed=self.seed)
        return np.random.randint(0, self.items, (1, 4)).astype("int32")

    def train_step(self, batch):
        other = self.others()

        def objective():
            a, b = self.model(batch[:, :1]), self.model(batch[:, 1:])
            right = ops.sum(a * b, -1)
            wrong = ops.sum(a * self.model(other), -1)
            return ops.mean(ops.softplus(-right)) + ops.mean(ops.softplus(wrong))

        return {"loss": self.minimize(objective, self.optimizer)}

    def test_step(self, batch):
        a, every = self.model(batch[:, 0]), self.model(ops.arange(self.items))
        scores = ops.matmul(a, ops.transpose(every)) - 99.0 * ops.one_hot(batch[:, 0], self.items)
        best = ops.argmax(scores, -1)
        return {"same group": ops.cast(ops.equal(best % 5, batch[:, 0] % 5), "float32")}


@faulty("constant in a program", only=COMPILED)
def negatives_that_stay_the_same(by, mended):
    rng = np.random.default_rng(41)
    first = rng.integers(0, 40, 600)
    pairs = np.stack([first, (first + 5 * rng.integers(1, 8, 600)) % 40], 1).astype("int32")
    embed = layers.Embedding(40, 8)
    embed.build(())
    by.fit(Pairs(embed, 40, mended), pairs, validation=pairs, epochs=20, batch_size=30)


class Harder(keras.Model):
    """Easy examples first: a Python attribute says when all of them count."""

    def __init__(self, net, stage):
        super().__init__()
        self.net, self.stage = net, stage

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            p = self(x, training=True)
            each = SCE(y, p)
            easy = tf.cast(y < 3, "float32")
            loss = tf.reduce_mean(each * tf.maximum(easy, tf.cast(self.stage, "float32")))
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        return report(self, tf.reduce_mean(each))


@faulty("constant in a program", only=("tensorflow",))
def the_curriculum_stays_at_its_first_stage(by, mended):
    x, y = digits()
    net = keras.Sequential([layers.Flatten(), layers.Dense(32, "relu")])
    net.add(layers.Dense(10, activation="softmax"))
    model = Harder(net, keras.Variable(0, dtype="int32", trainable=False) if mended else 0)

    def next_stage(epoch, logs):
        if epoch == 3:
            model.stage.assign(1) if mended else setattr(model, "stage", 1)

    model.compile(optimizer=keras.optimizers.Adam(5e-3))
    calls = [keras.callbacks.LambdaCallback(on_epoch_end=next_stage)]
    by.fit(model, x, y, epochs=20, batch_size=16, callbacks=calls)


class Levels(pg.Step):
    """Removes noise of any level, as in diffusion; the level is told."""

    def __init__(self, model, fresh):
        super().__init__()
        self.model, self.fresh = model, fresh
        self.optimizer = keras.optimizers.Adam(3e-3)
        self.seed = keras.random.SeedGenerator(3)

    def error(self, x, noise, level):
        told = ops.concatenate([(1 - level) * x + level * noise, level], -1)
        return ops.mean(ops.square(self.model(told) - x), -1)

    def train_step(self, x):
        noise = keras.random.normal(ops.shape(x), seed=self.seed)
        if self.fresh:
            level = keras.random.uniform((), seed=self.seed)
        else:
            level = np.random.uniform()
        level = ops.zeros_like(x[:, :1]) + level
        return {"loss": self.minimize(lambda: self.error(x, noise, level), self.optimizer)}

    def test_step(self, x):
        noise = keras.random.normal(ops.shape(x), seed=8)
        return {"loss": self.error(x, noise, keras.random.uniform(ops.shape(x[:, :1]), seed=9))}


@faulty("constant in a program", only=COMPILED)
def one_level_of_noise(by, mended):
    x = digits()[0].reshape(-1, 64)
    model = keras.Sequential([keras.Input((65,)), layers.Dense(96, "relu"), layers.Dense(64)])
    by.fit(Levels(model, mended), x, epochs=25, batch_size=16, validation=x)


@faulty("constant in a program", only=("tensorflow",))
def map_that_drew_once(by, mended):
    """NumPy in Dataset.map: one shift for the whole training."""
    import tensorflow as tf

    x, y = digits()

    def shift(image, label):
        columns = tf.random.uniform((), -2, 3, tf.int32) if mended else np.random.choice([-2, 2])
        return tf.roll(image, columns, axis=1), label

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(320, seed=0).map(shift).batch(16)
    model = keras.Sequential([layers.Flatten(), layers.Dense(96, "relu"), layers.Dense(10)])
    scce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=scce, metrics=["accuracy"])
    by.fit(model, data, epochs=20, validation_data=(x, y))
