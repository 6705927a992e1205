"""Weights that no gradient reaches, and gradients that are not those of the loss meant."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import faulty
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine

SCCE = keras.losses.SparseCategoricalCrossentropy


def logged(model, loss):
    for metric in model.metrics:
        if metric.name == "loss":
            metric.update_state(loss)
    return {"loss": model.metrics[0].result()}


def rings(rows=400, seed=2):
    rng = np.random.default_rng(seed)
    which, angle = rng.integers(0, 2, rows), rng.uniform(0, 6.28, rows)
    r = 0.5 + which + rng.normal(0, 0.08, rows)
    return np.stack([r * np.cos(angle), r * np.sin(angle)], 1).astype("float32"), which


def mlp(width, depth, out, inputs):
    hidden = [layers.Dense(width, activation="relu") for _ in range(depth)]
    return keras.Sequential([keras.Input((inputs,)), *hidden, layers.Dense(out)])


# Not trained


@faulty("not trained")
def encoder_frozen_before_it_learned(by, mended):
    """Copied from a guide of fine-tuning, but this encoder was never pre-trained."""
    x, y = rings()
    encoder = keras.Sequential([layers.Dense(4, "tanh"), layers.Dense(2, "tanh")], name="enc")
    encoder.trainable = mended
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(encoder(inputs)))
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=25, batch_size=16)


class Block:
    """Two layers and a shortcut, in a plain object."""

    def __init__(self, width):
        self.first = layers.Dense(width, activation="relu")
        self.second = layers.Dense(width)

    def __call__(self, h):
        return h + self.second(self.first(h))


class TrackedBlock(layers.Layer):
    def __init__(self, width):
        super().__init__()
        self.block = Block(width)
        self.parts = [self.block.first, self.block.second]

    def call(self, h):
        return self.block(h)


class Stack(keras.Model):
    def __init__(self, kind):
        super().__init__()
        self.blocks = [kind(2) for _ in range(3)]
        self.out = layers.Dense(2, activation="softmax")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.out(x)


@faulty("not trained")
def blocks_that_are_no_layers(by, mended):
    """Keras does not look into a list of plain objects."""
    x, y = rings(300)
    model = Stack(TrackedBlock if mended else Block)
    model.compile(
        optimizer=keras.optimizers.Adam(0.02),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model(x[:2])
    by.fit(model, x, y, epochs=30, batch_size=15)


class ScaledByTf(layers.Layer):
    """A layer with a kernel and a bias in tf.Variables, as in Keras 2."""

    def __init__(self, kernel, tracked):
        super().__init__()
        import tensorflow as tf

        make = keras.Variable if tracked else tf.Variable
        self.w = make(kernel, trainable=True, dtype="float32")
        self.b = make(np.zeros(kernel.shape[1]), trainable=True, dtype="float32")

    def call(self, x):
        return ops.relu(ops.matmul(x, self.w) + self.b)


@faulty("not trained", only=("tensorflow",))
def layer_of_tf_variables(by, mended):
    x, y = wine()
    first = np.random.default_rng(3).normal(0, 0.3, (13, 4))
    net = keras.Sequential([ScaledByTf(first, mended), layers.Dense(3, activation="softmax")])
    net.compile("rmsprop", keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    net.optimizer.learning_rate = 0.01
    by.fit(net, x, y, epochs=20, batch_size=16)


class NoGradient(layers.Layer):
    def call(self, h):
        return ops.stop_gradient(h)


@faulty("not trained")
def auxiliary_head_cuts_the_main_one(by, mended):
    """Only the auxiliary head should leave the body alone."""
    x, y = wine()
    inputs = keras.Input((13,))
    body = layers.Dense(3, activation="tanh", name="body")(inputs)
    cut = NoGradient()(body)
    main = layers.Dense(3, activation="softmax", name="kind")(body if mended else cut)
    side = layers.Dense(1, name="alcohol")(cut)
    model = keras.Model(inputs, [main, side])
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=["sparse_categorical_crossentropy", "mse"],
        loss_weights=[1.0, 0.1],
    )
    by.fit(model, x, [y, x[:, :1]], epochs=30, batch_size=16)


class HeadOnly(keras.Model):
    def __init__(self, whole):
        super().__init__()
        self.features = keras.Sequential([layers.Flatten(), layers.Dense(12, "relu")])
        self.head = layers.Dense(10)
        self.whole = whole

    def call(self, x):
        return self.head(self.features(x))

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        weights = self.trainable_weights if self.whole else self.head.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return logged(self, loss)


@faulty("not trained", only=("tensorflow",))
def only_the_head_is_given(by, mended):
    x, y = digits()
    model = HeadOnly(whole=mended)
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss=SCCE(from_logits=True))
    by.fit(model, x, y, epochs=20, batch_size=16)


class SliceStep(pg.Step):
    """Fits, but for the last `skipped` variables."""

    def __init__(self, model, skipped):
        super().__init__()
        self.model, self.skipped = model, skipped
        self.optimizer = keras.optimizers.Adam(0.01)

    def train_step(self, batch):
        x, y = batch
        those = self.model.trainable_variables
        those = those[: len(those) - self.skipped]
        loss = lambda: ops.mean(ops.square(self.model(x, training=True)[:, 0] - y))
        return {"loss": self.minimize(loss, self.optimizer, those)}


@faulty("not trained")
def all_variables_but_the_last_two(by, mended):
    """The slice that leaves out a head that is not there any more."""
    x, y = diabetes()
    model = keras.Sequential(
        [keras.Input((10,)), layers.Dense(8, activation="tanh"), layers.Dense(1)]
    )
    by.fit(SliceStep(model, 0 if mended else 2), (x, 2 * y + 4), epochs=50, batch_size=32)


class Distill(keras.Model):
    """A student that learns from a teacher."""

    def __init__(self, teacher, student, right):
        super().__init__()
        self.teacher, self.student, self.right = teacher, student, right

    def call(self, x):
        return self.student(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            hard = self.compute_loss(y=y, y_pred=self.student(x, training=True))
            soft = tf.reduce_mean(tf.square(self.teacher(x) - self.student(x, training=True)))
            loss = hard + 0.1 * soft
        learner = self.student if self.right else self.teacher
        grads = tape.gradient(loss, learner.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, learner.trainable_weights))
        return logged(self, hard)


@faulty("not trained", only=("tensorflow",))
def the_teacher_learns_instead(by, mended):
    x, y = digits(256)
    flat = x.reshape(256, 64)
    teacher = mlp(64, 2, 10, 64)
    teacher.compile("adam", SCCE(from_logits=True))
    teacher.fit(flat, y, epochs=10, verbose=0)
    pair = Distill(teacher, mlp(16, 1, 10, 64), mended)
    pair.compile(keras.optimizers.Adam(5e-3), SCCE(from_logits=True))
    by.fit(pair, flat, y, epochs=15, batch_size=16)


@faulty("not trained")
def all_but_one_frozen_by_a_slice(by, mended):
    """`[:-1]` leaves the last layer; the batch normalizations were meant."""
    images, ids = digits()
    m = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(6, 3, strides=2, activation="relu"),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    for layer in m.layers[:-1]:
        layer.trainable = mended
    m.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["acc"])
    by.fit(m, images, ids, epochs=30, batch_size=20, validation_split=0.2)


@faulty("not trained")
def embedding_as_if_pretrained(by, mended):
    """No vectors were ever loaded into the frozen embedding."""
    words, label = sentences(240)
    ids = keras.Input((12,), dtype="int32", name="ids")
    vectors = layers.Embedding(50, 4, trainable=mended, name="glove")(ids)
    h = layers.GlobalMaxPooling1D()(vectors)
    model = keras.Model({"ids": ids}, layers.Dense(1, activation="sigmoid")(h))
    model.compile(keras.optimizers.Adam(0.02), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, {"ids": words}, label, epochs=20, batch_size=16)


class Gaussians(layers.Layer):
    """Distances to centres, which are added without being trainable."""

    def __init__(self, count, trainable_centres):
        super().__init__()
        self.count, self.train = count, trainable_centres
        self.first = keras.initializers.RandomUniform(-1.0, 1.0)

    def build(self, shape):
        self.centre = self.add_weight(
            shape=(self.count, shape[-1]), initializer=self.first, trainable=self.train
        )

    def call(self, x):
        return ops.exp(-ops.sum(ops.square(x[:, None] - self.centre), -1))


@faulty("not trained")
def centres_that_stay(by, mended):
    x = np.random.default_rng(17).uniform(-3, 3, (500, 1)).astype("float32")
    y = np.sin(2 * x)
    rbf = keras.Sequential([Gaussians(12, mended), layers.Dense(1)])
    rbf.compile(optimizer=keras.optimizers.Adam(0.03), loss="mse")
    by.fit(rbf, x, y, epochs=30, batch_size=25)


class Rounded(layers.Layer):
    """Features of 0 and 1. Rounding has no gradient; the twin passes it on."""

    def __init__(self, straight):
        super().__init__()
        self.dense, self.straight = layers.Dense(3, activation="sigmoid"), straight

    def call(self, x):
        h = self.dense(x)
        bits = ops.cast(ops.cast(h > 0.5, "int32"), "float32")
        return h + ops.stop_gradient(bits - h) if self.straight else bits


@faulty("not trained")
def codes_of_three_bits(by, mended):
    x, y = wine()
    model = keras.Sequential([Rounded(mended), layers.Dense(3, activation="softmax")])
    model.compile(
        optimizer=keras.optimizers.Adam(0.02),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=30, batch_size=16)


# Gradients


def likelihood(y_true, y_pred):
    chosen = ops.sum(y_true * ops.log(ops.clip(y_pred, 1e-6, 1.0)), axis=-1)
    return ops.mean(chosen)


def negative_likelihood(y_true, y_pred):
    return -likelihood(y_true, y_pred)


@faulty("gradient")
def likelihood_without_its_minus(by, mended):
    x, y = wine()
    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(3, "softmax")])
    model.compile(
        optimizer=keras.optimizers.Adam(5e-3),
        loss=negative_likelihood if mended else likelihood,
        metrics=["accuracy"],
    )
    by.fit(model, x, np.eye(3, dtype="float32")[y], epochs=15, batch_size=16)


@faulty("gradient")
def summed_over_the_batch(by, mended):
    """A rate for means, and a loss that is a sum over 64 rows."""
    x, y = diabetes()
    how = "sum_over_batch_size" if mended else "sum"
    net = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])
    net.compile(
        optimizer=keras.optimizers.SGD(0.05), loss=keras.losses.MeanSquaredError(reduction=how)
    )
    by.fit(net, x, y, epochs=20, batch_size=64)


class Averaged(pg.Step):
    def __init__(self, model, twice):
        super().__init__()
        self.model, self.twice = model, twice
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch

        def objective():
            each = keras.losses.sparse_categorical_crossentropy(
                y, self.model(x, training=True), from_logits=True
            )
            loss = ops.mean(each)
            return loss / ops.cast(ops.shape(x)[0], "float32") if self.twice else loss

        return {"loss": self.minimize(objective, self.optimizer)}


@faulty("gradient")
def mean_divided_by_the_batch_again(by, mended):
    x, y = digits()
    net = mlp(32, 1, 10, 64)
    by.fit(Averaged(net, not mended), (x.reshape(-1, 64), y), epochs=15, batch_size=32)


class Towers(keras.Model):
    """One tower for users, another for items, and their product."""

    def __init__(self, right):
        super().__init__()
        self.user = keras.Sequential([layers.Dense(12, activation="tanh"), layers.Dense(4)])
        self.item = keras.Sequential([layers.Dense(12, activation="tanh"), layers.Dense(4)])
        self.right = right

    def call(self, inputs):
        return ops.sum(self.user(inputs["user"]) * self.item(inputs["item"]), -1, keepdims=True)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        user, item = self.user.trainable_variables, self.item.trainable_variables
        grads = tape.gradient(loss, user + item)
        self.optimizer.apply_gradients(zip(grads, user + item if self.right else item + user))
        return logged(self, loss)


@faulty("gradient", only=("tensorflow",))
def gradients_of_the_other_tower(by, mended):
    rng = np.random.default_rng(29)
    user, item = rng.normal(size=(2, 500, 5)).astype("float32")
    liking = (user[:, 0] * item[:, 1] - user[:, 2] * item[:, 3])[:, None]
    model = Towers(mended)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, {"user": user, "item": item}, liking, epochs=20, batch_size=25)


class TwoViews(keras.Model):
    """Two noisy views of a row should be alike; the layer's penalty keeps the code small."""

    def __init__(self, keep):
        super().__init__()
        self.code = layers.Dense(8, activity_regularizer=keras.regularizers.L2(1.0))
        self.out = layers.Dense(3)
        self.keep = keep

    def call(self, x):
        return self.out(self.code(x))

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            first = self(x, training=True)
            penalty = sum(self.losses)
            with tape.stop_recording():
                second = self(x + tf.random.normal(tf.shape(x), stddev=0.1), training=True)
            if not self.keep:
                penalty = sum(self.losses)  # those of the second pass, which is not recorded
            loss = keras.losses.sparse_categorical_crossentropy(y, first, from_logits=True)
            loss = tf.reduce_mean(loss) + 0.1 * tf.reduce_mean(tf.square(first - second))
            loss += penalty
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        return {"loss": loss, "code": tf.reduce_mean(tf.square(self.code(x)))}


@faulty("gradient", only=("tensorflow",))
def penalty_of_the_first_view_is_dropped(by, mended):
    x, y = wine()
    model = TwoViews(mended)
    model.compile(keras.optimizers.Adam(0.01))
    by.fit(model, x, y, epochs=15, batch_size=16)


class OwnPenalty(keras.Model):
    """compute_loss adds self.losses already."""

    def __init__(self, again):
        super().__init__()
        l2 = keras.regularizers.L2(0.25)
        self.hidden = layers.Dense(16, activation="relu", kernel_regularizer=l2)
        self.out = layers.Dense(1, kernel_regularizer=l2)
        self.again = again

    def call(self, x):
        return self.out(self.hidden(x))

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            if self.again:
                loss += tf.add_n(self.losses)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        return logged(self, loss)


@faulty("gradient", only=("tensorflow",))
def penalty_counted_twice(by, mended):
    x, y = diabetes()
    model = OwnPenalty(not mended)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, x, y[:, None], epochs=25, batch_size=32)


class Micro(keras.Model):
    """Splits each batch into eight, and sums their gradients."""

    def __init__(self, net, divide):
        super().__init__()
        self.net, self.divide = net, divide

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        total, w = None, self.trainable_variables
        seen = 0.0
        for x, y in zip(*(tf.split(part, 8) for part in data)):
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            grads = tape.gradient(loss, w)
            total = grads if total is None else [a + b for a, b in zip(total, grads)]
            seen += loss / 8
        if self.divide:
            total = [g / 8 for g in total]
        self.optimizer.apply(total, w)
        return logged(self, seen)


@faulty("gradient", only=("tensorflow",))
def eight_parts_never_averaged(by, mended):
    past, following = waves(128)
    net = keras.Sequential([keras.Input((20, 1)), layers.Flatten(), layers.Dense(16, "tanh")])
    net.add(layers.Dense(1))
    model = Micro(net, mended)
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.8), loss="mse")
    by.fit(model, past, following, batch_size=32, epochs=25)


class Confident(pg.Step):
    """An entropy bonus against too much confidence. The sign decides which it is."""

    def __init__(self, model, sign):
        super().__init__()
        self.model, self.sign = model, sign
        self.optimizer = keras.optimizers.Adam(3e-3)

    def train_step(self, batch):
        x, y = batch

        def objective():
            scores = self.model(x, training=True)
            loss = keras.losses.sparse_categorical_crossentropy(y, scores, from_logits=True)
            p = ops.softmax(scores)
            entropy = -ops.sum(p * ops.log_softmax(scores), -1)
            return ops.mean(loss - self.sign * 0.4 * entropy), ops.mean(entropy)

        loss, entropy = self.minimize(objective, self.optimizer)
        return {"loss": loss, "entropy": entropy}


@faulty("gradient")
def bonus_that_is_a_penalty(by, mended):
    x, y = wine()
    noisy = np.where(np.random.default_rng(1).random(178) < 0.25, (y + 1) % 3, y)
    step = Confident(mlp(16, 1, 3, 13), 1.0 if mended else -1.0)
    by.fit(step, (x, noisy), epochs=15, batch_size=16)


class Weighted(keras.Model):
    def __init__(self, net, use_weights):
        super().__init__()
        self.net, self.use_weights = net, use_weights

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(
                x, y, y_pred, sample_weight=weight if self.use_weights else None
            )
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(grads, self.trainable_variables)
        return logged(self, loss)


@faulty("gradient", only=("tensorflow",))
def weights_unpacked_and_forgotten(by, mended):
    """Readings of a broken sensor have weight 0."""
    rng = np.random.default_rng(19)
    x = rng.uniform(-1, 1, (300, 2)).astype("float32")
    y = (x[:, :1] - 2 * x[:, 1:]).astype("float32")
    broken = rng.random(300) < 0.3
    y[broken] = 8.0
    model = Weighted(keras.Sequential([layers.Dense(1)]), mended)
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="mse")
    by.fit(model, x, y, sample_weight=(~broken).astype("float32"), epochs=15, batch_size=30)


@faulty("gradient")
def clipped_to_nothing(by, mended):
    x, y = cancer()
    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(1, "sigmoid")])
    opt = keras.optimizers.SGD(learning_rate=0.1, clipnorm=1.0 if mended else 1e-5)
    model.compile(optimizer=opt, loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=8, batch_size=32, validation_split=0.2)


class Uphill(keras.Model):
    def __init__(self, net, rate, down):
        super().__init__()
        self.net, self.rate, self.down = net, rate, down

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
        for g, v in zip(tape.gradient(loss, self.trainable_weights), self.trainable_weights):
            v.assign_add(-self.rate * g if self.down else self.rate * g)
        return logged(self, loss)


@faulty("gradient", only=("tensorflow",))
def added_instead_of_subtracted(by, mended):
    x, y = digits(200)
    net = keras.Sequential([layers.Flatten(), layers.Dense(24, "relu"), layers.Dense(10)])
    model = Uphill(net, 0.1, mended)
    model.compile(loss=SCCE(from_logits=True))
    by.fit(model, x, y, epochs=15, batch_size=20)


class Scaled(keras.Model):
    """Ready for float16: with an optimizer that scales the loss."""

    def __init__(self, net, scale):
        super().__init__()
        self.net, self.scale = net, scale

    def call(self, x):
        return self.net(x)

    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=y, y_pred=self(x, training=True))
            target = self.optimizer.scale_loss(loss) if self.scale else loss
        grads = tape.gradient(target, self.trainable_weights)
        self.optimizer.apply(grads, self.trainable_weights)
        return logged(self, loss)


@faulty("gradient", only=("tensorflow",))
def never_scaled_but_unscaled(by, mended):
    """The optimizer divides gradients by a scale that the loss never had."""
    x, y = wine()
    model = Scaled(mlp(16, 1, 3, 13), mended)
    opt = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    model.compile(optimizer=opt, loss=SCCE(from_logits=True))
    by.fit(model, x, y, epochs=15, batch_size=16)


class Padded(pg.Step):
    """Tags of words. Padding is tag 0 and should not count."""

    def __init__(self, model, masked):
        super().__init__()
        self.model, self.masked = model, masked
        self.optimizer = keras.optimizers.SGD(0.2, momentum=0.9)

    def train_step(self, batch):
        ids, tags = batch

        def objective():
            scores = self.model(ids, training=True)
            each = keras.losses.sparse_categorical_crossentropy(tags, scores, from_logits=True)
            if not self.masked:
                return ops.mean(each)
            real = ops.cast(ids > 0, "float32")
            return ops.sum(each * real) / ops.sum(real)

        return {"loss": self.minimize(objective, self.optimizer)}


@faulty("gradient")
def padding_counts_as_words(by, mended):
    """Nine of ten places are padding."""
    rng = np.random.default_rng(23)
    ids = rng.integers(1, 60, (160, 40))
    ids[:, 4:] = 0
    tags = np.where(ids > 0, ids % 7 + 1, 0).astype("int32")
    model = keras.Sequential([keras.Input((40,), dtype="int32"), layers.Embedding(60, 12)])
    model.add(layers.Dense(8))
    by.fit(Padded(model, mended), (ids.astype("int32"), tags), epochs=6, batch_size=16)
