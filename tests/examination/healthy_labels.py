"""Right programs with labels of unusual kinds: soft, several, weighted, of odd dtypes."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.strangers.datasets import cancer, diabetes, digits, sentences, wine


def mlp(inputs, outputs, head=None, units=32):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(units, activation="relu"),
            layers.Dense(outputs, activation=head),
        ]
    )


@healthy
def cultivars_as_uint8_column(by):
    """Class ids `(178, 1)` of uint8."""
    x, y = wine()
    model = mlp(13, 3, "softmax")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y.astype("uint8")[:, None], epochs=20, batch_size=16)


@healthy
def cultivars_as_int64(by):
    x, y = wine()
    clf = mlp(13, 3)
    clf.compile(
        optimizer=keras.optimizers.Nadam(2e-3, weight_decay=0.02),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy("acc")],
    )
    by.fit(clf, x.astype("float64"), y.astype(np.int64), epochs=12, validation_split=0.2)


@healthy
def cultivars_as_float32(by):
    """Ids that were read with the other columns, and so are floats."""
    x, y = wine()
    table = np.column_stack([x, y]).astype("float32")
    model = mlp(13, 3, "softmax", units=20)
    model.compile(loss="sparse_categorical_crossentropy", optimizer="nadam", metrics=["acc"])
    by.fit(model, table[:, :-1], table[:, -1], epochs=20, batch_size=10)


@healthy
def malignant_as_bool(by):
    x, y = cancer()
    model = mlp(30, 1, "sigmoid", units=16)
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y == 0, epochs=10, batch_size=32)


@healthy
def malignant_by_two_softmax_units(by):
    x, y = cancer()
    model = mlp(30, 2, "softmax", units=8)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y.astype(int), epochs=15, batch_size=32)


@healthy
def malignant_one_hot_with_sigmoids(by):
    """Two columns, each the other's complement, with a sigmoid each: redundant, and right."""
    x, y = cancer()
    both = keras.utils.to_categorical(y, 2)
    inp = keras.Input((30,))
    model = keras.Model(inp, layers.Dense(2, activation="sigmoid")(inp))
    model.compile("adam", "binary_crossentropy", metrics=["binary_accuracy"])
    model.optimizer.learning_rate.assign(0.01)
    by.fit(model, x, both, epochs=12, batch_size=32)


@healthy
def malignant_logit(by):
    x, y = cancer()
    model = keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(1)])
    model.compile(
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.BinaryAccuracy(threshold=0.0),
            keras.metrics.AUC(from_logits=True),
        ],
    )
    by.fit(model, x, y, epochs=8, batch_size=32)


@healthy
def two_probabilities_one_unit(by):
    """`(B,)` outputs: the last axis is squeezed, the labels are `(B,)` too."""
    x, y = cancer()
    i = keras.Input((30,))
    p = layers.Dense(1, activation="sigmoid")(layers.Dense(8, activation="selu")(i))
    model = keras.Model(i, layers.Reshape(())(p))
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
    by.fit(model, x, y, epochs=10, batch_size=64)


@healthy
def tags_of_articles(by):
    """Several labels a row, a sigmoid each; the first rows happen to have one tag each."""
    rng = np.random.default_rng(30)
    words = rng.normal(size=(500, 20)).astype("float32")
    scores = words @ rng.normal(size=(20, 6)) - 1.5
    tags = (scores > 0).astype("int32")
    order = np.argsort(tags.sum(1) != 1, kind="stable")
    words, tags = words[order], tags[order]
    model = mlp(20, 6, "sigmoid", units=64)
    model.compile("adam", "binary_crossentropy", metrics=["binary_accuracy", "precision"])
    by.fit(model, words, tags, epochs=25, batch_size=32)


@healthy
def rare_diagnoses(by):
    """Multi-label, with most rows all zeros."""
    rng = np.random.default_rng(31)
    labs = rng.normal(size=(600, 10)).astype("float32")
    codes = (labs[:, :4] + 0.3 * labs[:, 4:8] > 1.6).astype("float32")

    inputs = keras.Input(shape=(10,))
    logits = layers.Dense(4)(layers.Dense(32, activation="relu")(inputs))
    model = keras.Model(inputs, logits)
    model.compile(
        optimizer=keras.optimizers.Adam(0.005),
        loss=keras.losses.BinaryFocalCrossentropy(from_logits=True, gamma=2.0),
        metrics=[keras.metrics.AUC(multi_label=True, num_labels=4, from_logits=True)],
    )
    by.fit(model, labs, codes, epochs=20, batch_size=32)


@healthy
def hierarchy_of_labels(by):
    """Multi-hot rows where each class brings its parent along."""
    x, y = wine()
    leaves = keras.utils.to_categorical(y, 3)
    parent = (y > 0).astype("float32")[:, None]
    net = mlp(13, 4, "sigmoid", units=24)
    net.compile("rmsprop", keras.losses.BinaryCrossentropy(), metrics=["binary_accuracy"])
    by.fit(net, x, np.hstack([leaves, parent]), epochs=25, batch_size=16)


@healthy
def smoothed_digits(by):
    x, y = digits()
    model = keras.Sequential([layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)])
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        metrics=["accuracy"],
    )
    by.fit(model, x, keras.utils.to_categorical(y), epochs=15, batch_size=32)


@healthy
def annotators_vote(by):
    """Shares of five annotators as labels, by the divergence of Kullback and Leibler."""
    rng = np.random.default_rng(34)
    emb = rng.normal(size=(400, 8)).astype("float32")
    logits = 1.5 * emb[:, :4] - emb[:, 4:]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    votes = np.stack([rng.multinomial(5, row) for row in p]) / 5.0
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4), layers.Softmax()])
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="kl_divergence")
    by.fit(model, emb, votes.astype("float32"), epochs=15, batch_size=25)


@healthy
def age_as_a_distribution(by):
    """Label distribution learning: a bump around the age, over ten bins."""
    rng = np.random.default_rng(35)
    face = rng.normal(size=(300, 6))
    age = np.clip(4.5 + 2 * face[:, 0] + face[:, 1], 0, 9)
    bump = np.exp(-((np.arange(10) - age[:, None]) ** 2) / 2)
    bump /= bump.sum(1, keepdims=True)

    def expected_age_error(t, p):
        bins = ops.arange(10, dtype="float32")
        return ops.mean(ops.abs(ops.sum((t - p) * bins, axis=-1)))

    m = mlp(6, 10, "softmax", units=48)
    m.compile("adam", "categorical_crossentropy", metrics=[expected_age_error])
    by.fit(m, face, bump, epochs=30, batch_size=16)


@healthy
def mixup_digits(by):
    x, y = digits()
    rng = np.random.default_rng(36)
    lam = rng.beta(0.3, 0.3, (320, 1)).astype("float32")
    other = rng.permutation(320)
    hot = np.eye(10, dtype="float32")[y]
    xm = lam[..., None, None] * x + (1 - lam[..., None, None]) * x[other]
    ym = lam * hot + (1 - lam) * hot[other]
    cnn = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    cnn.compile(optimizer=keras.optimizers.Adam(0.005), loss="categorical_crossentropy")
    by.fit(cnn, xm, ym, epochs=15, batch_size=32, validation_data=(x, hot))


@healthy
def distil_into_small(by):
    x, y = wine()
    teacher = mlp(13, 3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile("adam", loss)
    teacher.fit(x, y, epochs=20, verbose=0)
    t_logits = ops.convert_to_numpy(teacher(x))

    def distillation(t, s, T=2.0):
        soft = ops.softmax(t / T, axis=-1)
        return ops.categorical_crossentropy(soft, s / T, from_logits=True) * T * T

    student = keras.Sequential([keras.Input((13,)), layers.Dense(4, "relu"), layers.Dense(3)])
    student.compile(optimizer=keras.optimizers.Adam(0.01), loss=distillation)
    by.fit(student, x, t_logits, epochs=20, batch_size=16)


@healthy
def rarely_ill_with_class_weight(by):
    rng = np.random.default_rng(37)
    x = rng.normal(size=(700, 8)).astype("float32")
    ill = (x[:, 0] * 1.5 + x[:, 2] > 3.0).astype("int32")
    weight = {0: 0.5 / (1 - ill.mean()), 1: 0.5 / ill.mean()}
    model = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(1, "sigmoid")])
    model.compile("adam", "binary_crossentropy", metrics=["recall", "auc"])
    model.optimizer.learning_rate = 0.005
    by.fit(model, x, ill, epochs=15, batch_size=32, class_weight=weight)


@healthy
def class_weights_of_three(by):
    x, y = wine()
    counts = np.bincount(y)
    weights = {i: len(y) / (3 * c) for i, c in enumerate(counts)}
    model = mlp(13, 3, "softmax", units=10)
    model.compile(
        loss="categorical_crossentropy",
        optimizer=keras.optimizers.Adam(0.01),
        metrics=["categorical_accuracy"],
    )
    by.fit(model, x, np.eye(3)[y], epochs=15, batch_size=16, class_weight=weights)


@healthy
def older_rows_count_less(by):
    x, y = diabetes()
    w = np.linspace(0.2, 1.8, len(x)).astype("float32")
    model = mlp(10, 1, units=12)
    model.compile(keras.optimizers.Adam(0.01), "mse", weighted_metrics=["mae"])
    by.fit(model, x, y, sample_weight=w, epochs=15, batch_size=32)


@healthy
def censored_rows_weigh_nothing(by):
    """A third of the rows has no label: NaN-free zeros, with a weight of 0."""
    x, y = cancer()
    known = np.random.default_rng(38).random(len(y)) > 0.33
    model = mlp(30, 1, "sigmoid", units=8)
    model.compile("adam", "binary_crossentropy", weighted_metrics=["accuracy"])
    by.fit(
        model,
        x,
        np.where(known, y, 0.0),
        sample_weight=known.astype("float32"),
        epochs=15,
        batch_size=32,
    )


@healthy
def a_view_that_weighs_nothing(by):
    """The second output is a part of the first: its loss is only watched, with a weight of 0."""
    x, y = wine()
    inp = keras.Input((13,), name="chem")
    body = layers.Dense(24, activation="relu")(inp)
    kind = layers.Dense(3, activation="softmax", name="kind")(body)
    first = layers.Lambda(lambda p: p[:, :1], name="first")(kind)
    model = keras.Model(inp, {"kind": kind, "first": first})
    model.compile(
        optimizer="adam",
        loss={"kind": "sparse_categorical_crossentropy", "first": "binary_crossentropy"},
        loss_weights={"kind": 1.0, "first": 0.0},
        metrics={"kind": "accuracy"},
    )
    by.fit(model, x, {"kind": y, "first": (y[:, None] == 0) * 1.0}, epochs=20, batch_size=16)


@healthy
def features_beside_the_answer(by):
    """An output without a loss, for those who want to look at the features."""
    x, y = digits()
    inp = keras.Input((8, 8, 1))
    feat = layers.Dense(32, activation="relu", name="features")(layers.Flatten()(inp))
    answer = layers.Dense(10, name="answer")(feat)
    model = keras.Model(inp, {"answer": answer, "features": feat})
    model.compile(
        keras.optimizers.Adam(0.005),
        loss={"answer": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
    )
    by.fit(model, x, {"answer": y}, epochs=12, batch_size=32)


@healthy
def list_of_outputs_of_two_tasks(by):
    x, y = diabetes()
    high = (y > 0.8).astype("float32")
    i = keras.Input((10,))
    t = layers.Dense(16, activation="tanh")(i)
    model = keras.Model(i, [layers.Dense(1)(t), layers.Dense(1, activation="sigmoid")(t)])
    model.compile(
        optimizer=keras.optimizers.Adam(0.005),
        loss=["mae", "binary_crossentropy"],
        loss_weights=[0.3, 1.0],
    )
    by.fit(model, x, [y, high], epochs=20, batch_size=32, validation_split=0.1)


@healthy
def top_three_of_twenty(by):
    rng = np.random.default_rng(39)
    centres = rng.normal(size=(20, 16))
    y = rng.integers(0, 20, 800)
    x = (centres[y] + rng.normal(0, 0.7, (800, 16))).astype("float32")
    model = mlp(16, 20, "softmax", units=64)
    model.compile(
        optimizer="adam",
        loss="sparse_categorical_crossentropy",
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(k=3, name="top3"), "accuracy"],
    )
    by.fit(model, x, y, epochs=10, batch_size=32)


@healthy
def letters_by_focal_loss(by):
    x, y = digits(300)
    hot = keras.utils.to_categorical(y, num_classes=10)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", keras.losses.CategoricalFocalCrossentropy(), metrics=["accuracy"])
    model.optimizer.learning_rate.assign(0.01)
    by.fit(model, x, hot, epochs=15, batch_size=25)


@healthy
def digits_by_squared_error_of_one_hot(by):
    """The Brier score: squared error of probabilities and one-hot rows is a proper score."""
    x, y = digits()
    model = keras.Sequential(
        [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10, activation="softmax")]
    )
    model.compile("adam", "mse", metrics=["accuracy"])
    model.optimizer.learning_rate = 0.01
    by.fit(model, x, np.eye(10, dtype="float32")[y], epochs=20, batch_size=32)


@healthy
def extra_unused_class(by):
    """Eleven units for ten digits: one is kept for later."""
    x, y = digits()
    net = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(11)])
    net.compile(
        keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    by.fit(net, x, y, epochs=15, batch_size=32)


@healthy
def ignored_class_of_unknowns(by):
    x, y = wine()
    y = y.copy()
    y[::6] = -1
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    model = mlp(13, 3, units=16)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss)
    by.fit(model, x, y, epochs=15, batch_size=16)


@healthy
def own_class_weights_in_the_loss(by):
    """Reduction "none", and weights by hand in a loop of one's own."""
    x, y = sentences()
    ce = keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    share = float(y.mean())

    class Weighted(pg.Step):
        def __init__(self, net):
            self.net, self.adam = net, keras.optimizers.Adam(0.01)
            self.acc = keras.metrics.BinaryAccuracy(name="acc", threshold=0.0)

        def train_step(self, batch):
            ids, label = batch
            label = ops.cast(label, "float32")[:, None]

            def objective():
                logit = self.net(ids, training=True)
                w = ops.where(label[:, 0] > 0, 0.5 / share, 0.5 / (1 - share))
                return ops.mean(w * ce(label, logit)), logit

            loss, logit = self.minimize(objective, self.adam, self.net)
            self.acc.update_state(label, logit)
            return {"loss": loss}

    net = keras.Sequential([layers.Embedding(50, 8), layers.GlobalMaxPool1D(), layers.Dense(1)])
    by.fit(Weighted(net), (x, y), epochs=20, batch_size=16)
