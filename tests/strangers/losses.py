"""Losses and metrics of every kind, and labels of every shape."""

import keras
import numpy as np
from keras import layers, losses, metrics, ops

from tests.strangers.corpus import by_fit
from tests.strangers.datasets import cancer, diabetes, digits, sentences, wine

# One loss after another, as somebody tries which is best.


def small_regressor(activation=None):
    return keras.Sequential(
        [
            layers.Input((10,)),
            layers.Dense(6, activation="tanh"),
            layers.Dense(1, activation=activation),
        ]
    )


@by_fit
def regression_losses_by_class(by):
    X, t = diabetes()
    X, t = X[:200], t[:200, None]
    for candidate in (losses.Huber(delta=0.3, reduction="sum"), losses.LogCosh(name="lc")):
        net = small_regressor()
        net.compile(optimizer=keras.optimizers.SGD(1e-3, momentum=0.9), loss=candidate)
        by.fit(net, X, t, batch_size=64, epochs=2)


@by_fit
def regression_losses_by_name(by):
    """A head for each name."""
    X, t = diabetes()
    X, t = X[:200], t[:200]
    names = ["mse", "mae", "MAPE", "mean_squared_error", "log_cosh", "huber", "cosine_similarity"]
    inp = keras.Input((10,))
    h = layers.Dense(6, activation="tanh")(inp)
    net = keras.Model(inp, [layers.Dense(1)(h) for _ in names])
    net.compile("rmsprop", loss=names, metrics=[["mae"]] * len(names))
    by.fit(net, X, [t] * len(names), batch_size=50)


@by_fit
def losses_of_positive_targets(by):
    X, t = diabetes()
    counts = np.round(np.exp(t[:240])).astype("float32")
    for loss in ("poisson", keras.losses.MeanSquaredLogarithmicError()):
        glm = small_regressor("softplus")
        glm.compile(keras.optimizers.Adam(0.01), loss)
        by.fit(glm, X[:240], counts, batch_size=40, epochs=2, validation_split=0.25)


@by_fit(differs={"tensorflow": ("*_loss",)})
def losses_by_function(by):
    """Functions of `keras.losses` handed over as they are, in a dict."""
    x, y = wine()
    onehot = np.eye(3, dtype="float32")[y]
    fns = [
        losses.categorical_crossentropy,
        losses.categorical_focal_crossentropy,
        losses.categorical_hinge,
        losses.kl_divergence,
        losses.binary_crossentropy,
        losses.binary_focal_crossentropy,
        losses.mean_squared_error,
        losses.poisson,
        losses.mean_squared_logarithmic_error,
        losses.huber,
    ]
    i = keras.Input((13,))
    m = keras.Model(i, {f.__name__: layers.Dense(3, "softmax")(i) for f in fns})
    m.compile("adam", {f.__name__: f for f in fns}, loss_weights={f.__name__: 0.5 for f in fns})
    by.fit(m, x, {f.__name__: onehot for f in fns}, batch_size=60, epochs=2)


@by_fit
def one_function_for_one_output(by):
    x, y = wine()
    m = keras.Sequential([layers.Input((13,)), layers.Dense(3, "softmax")])
    m.compile("adam", losses.categorical_focal_crossentropy, metrics=["acc"])
    by.fit(m, x, np.eye(3)[y], batch_size=60)
    by.evaluate(m, x, np.eye(3)[y], batch_size=60)


@by_fit(differs={"tensorflow": ("*_loss",)})
def classification_losses_by_class(by):
    x, y = wine()
    Y = keras.utils.to_categorical(y)
    criteria = [
        losses.CategoricalCrossentropy(label_smoothing=0.1),
        losses.CategoricalFocalCrossentropy(alpha=0.4, gamma=1.5),
        losses.CategoricalHinge(),
        losses.KLDivergence(reduction="sum_over_batch_size"),
        losses.BinaryFocalCrossentropy(apply_class_balancing=True),
        losses.Poisson(reduction="mean_with_sample_weight"),
    ]
    chem = keras.Input((13,))
    hidden = layers.Dense(5, "relu")(chem)
    clf = keras.Model(chem, [layers.Dense(3, "softmax")(hidden) for _ in criteria])
    clf.compile(loss=criteria, optimizer="nadam")
    by.fit(clf, x, [Y for _ in criteria], batch_size=48, epochs=2)


@by_fit
def generalized_cross_entropy_of_noisy_labels(by):
    x, y = wine()
    noisy = np.where(np.arange(178) % 9 == 0, (y + 1) % 3, y)
    clf = keras.Sequential([layers.Dense(3, "softmax")])
    clf.compile("sgd", losses.CategoricalGeneralizedCrossEntropy(q=0.7), metrics=["accuracy"])
    by.fit(clf, x, noisy, batch_size=48, epochs=2, validation_split=0.2)


@by_fit
def hinges_with_labels_of_minus_one(by):
    features, target = cancer()
    signs = np.where(target > 0, 1, -1)
    for loss in ["hinge", losses.SquaredHinge()]:
        svm = keras.Sequential(
            [
                layers.Input((30,)),
                layers.Dense(
                    1, activation="linear", kernel_regularizer=keras.regularizers.L2(0.01)
                ),
            ]
        )
        svm.compile("sgd", loss, metrics=[metrics.Hinge(), metrics.SquaredHinge(name="sq")])
        by.fit(svm, features, signs, batch_size=100, epochs=1)


# Binary.


@by_fit
def binary_from_logits_with_threshold(by):
    x, y = cancer()
    y = y[..., None]
    net = keras.Sequential([keras.Input([30]), layers.Dense(8, "gelu"), layers.Dense(1)])
    net.compile(
        optimizer="adamw",
        loss=losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.05),
        metrics=[
            metrics.BinaryAccuracy(threshold=0.0),
            metrics.BinaryCrossentropy(from_logits=True, name="xent"),
            metrics.AUC(from_logits=True, num_thresholds=50),
        ],
    )
    by.fit(net, x, y, batch_size=128, epochs=2, validation_split=0.3)
    by.evaluate(net, x, y)


@by_fit
def metrics_of_a_clinic(by):
    """All the counts and the rates from them."""
    x, y = cancer()
    METRICS = [
        keras.metrics.TruePositives(name="tp"),
        keras.metrics.FalsePositives(name="fp"),
        keras.metrics.TrueNegatives(name="tn"),
        keras.metrics.FalseNegatives(name="fn", thresholds=[0.2, 0.5]),
        keras.metrics.BinaryAccuracy(name="accuracy"),
        keras.metrics.Precision(name="precision"),
        keras.metrics.Recall(name="recall", thresholds=0.3),
        keras.metrics.AUC(name="auc"),
        keras.metrics.AUC(name="prc", curve="PR"),
        keras.metrics.SensitivityAtSpecificity(0.8),
        keras.metrics.SpecificityAtSensitivity(0.8, num_thresholds=30),
        keras.metrics.PrecisionAtRecall(0.9),
        keras.metrics.RecallAtPrecision(0.7),
        keras.metrics.F1Score(threshold=0.5),
        keras.metrics.FBetaScore(beta=2.0, threshold=0.5, average="micro"),
    ]
    model = keras.Sequential([layers.Dense(4, "relu"), layers.Dense(1, "sigmoid")])
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=1e-2),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=METRICS,
    )
    neg, pos = np.bincount(y.astype(int))
    weights = {0: len(y) / (2.0 * neg), 1: len(y) / (2.0 * pos)}
    by.fit(model, x, y[:, np.newaxis], batch_size=150, epochs=2, class_weight=weights)
    by.evaluate(model, x[:99], y[:99, np.newaxis])


@by_fit(differs={"tensorflow": ("*_loss",)})
def labels_as_bool_and_int8_and_uint8(by):
    x, y = cancer()
    dtypes = ("bool", "int8", "uint8", "int64", "float64", "float16")
    i = keras.Input((30,))
    m = keras.Model(i, {d: layers.Dense(1, "sigmoid", name=f"as_{d}")(i) for d in dtypes})
    m.compile("sgd", {d: "binary_crossentropy" for d in dtypes}, metrics={"int8": ["AUC"]})
    by.fit(m, x[:300], {d: y[:300].astype(d) for d in dtypes}, batch_size=64)


@by_fit
def boolean_target(by):
    x, y = cancer()
    m = keras.Sequential([keras.layers.Input((30,)), keras.layers.Dense(1, "sigmoid")])
    m.compile("sgd", "mse", metrics=["accuracy"])
    by.fit(m, x, y > 0, batch_size=190)
    by.evaluate(m, x, y.astype("int8"), batch_size=190)


@by_fit(differs={"tensorflow": ("*_loss",)})
def sparse_labels_of_every_shape(by):
    x, y = wine()
    labels = [y, y[:, None], y.astype("float32"), y.astype("uint8"), y.astype("int64")[:, None]]
    i = keras.layers.Input((13,))
    m = keras.Model(i, [keras.layers.Dense(3)(i) for _ in labels])
    m.compile(
        "adagrad",
        [keras.losses.SparseCategoricalCrossentropy(from_logits=True) for _ in labels],
        metrics=[["accuracy", "sparse_categorical_crossentropy"] for _ in labels],
    )
    by.fit(m, x, labels, batch_size=32, validation_data=(x[:40], [k[:40] for k in labels]))


@by_fit
def column_of_float_labels(by):
    x, y = wine()
    m = keras.Sequential([keras.layers.Dense(3, "softmax")])
    m.compile("adadelta", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(m, x, y.astype("float64")[:, None], batch_size=32, validation_split=0.3)


@by_fit(differs={"tensorflow": ("*_loss",)})
def accuracy_means_what_the_shape_says(by):
    """ "accuracy" beside one-hot, binary, and sparse outputs in one model."""
    x, y = wine()
    inp = keras.Input((13,), name="chem")
    h = layers.Dense(7, "swish")(inp)
    outs = [
        layers.Dense(3, "softmax", name="which")(h),
        layers.Dense(1, "sigmoid", name="is_first")(h),
        layers.Dense(3, "softmax", name="hot")(h),
    ]
    model = keras.Model(inp, outs)
    model.compile(
        "adam",
        loss=["sparse_categorical_crossentropy", "binary_crossentropy", "categorical_crossentropy"],
        metrics=[["accuracy"]] * 3,
        loss_weights=[1.0, 0.25, 0.5],
    )
    targets = [y, (y == 0).astype("float32"), np.eye(3)[y]]
    by.fit(model, x, targets, epochs=2, batch_size=45, validation_split=0.1)
    by.predict(model, x[:5])


# Several outputs.


def two_headed(names=("price", "kind")):
    inputs = keras.Input(shape=(13,))
    body = layers.Dense(9, activation="relu")(inputs)
    price = layers.Dense(1, name=names[0])(body)
    kind = layers.Dense(3, activation="softmax", name=names[1])(body)
    return keras.Model(inputs, {names[0]: price, names[1]: kind})


@by_fit(differs={"tensorflow": ("*_loss",)})
def dict_of_losses_and_weights(by):
    x, y = wine()
    model = two_headed()
    model.compile(
        optimizer="adam",
        loss={"price": keras.losses.Huber(), "kind": "sparse_categorical_crossentropy"},
        loss_weights={"price": 0.3, "kind": 2},
        metrics={"price": ["mae", keras.metrics.RootMeanSquaredError()], "kind": "acc"},
    )
    by.fit(model, x, {"price": x[:, 0], "kind": y}, epochs=2, batch_size=30)
    by.evaluate(model, x, {"price": x[:, 0], "kind": y}, batch_size=100)
    by.predict(model, x[:3])


@by_fit(differs={"tensorflow": ("*_loss",)})
def one_loss_for_two_outputs(by):
    x, _ = diabetes()
    inp = layers.Input((10,))
    mid = layers.Dense(4, activation="elu")(inp)
    model = keras.Model(inp, [layers.Dense(10)(mid), layers.Dense(2)(mid)])
    model.compile("adam", ["mse", "mse"], metrics=[["mae"], ["mse"]])
    by.fit(model, x[:200], [x[:200], x[:200, :2]], batch_size=64, epochs=2)


@by_fit
def only_one_head_is_trained(by):
    """The second output has no loss."""
    x, y = digits(160)
    image = keras.Input((8, 8, 1))
    code = layers.Dense(5, name="code")(layers.Flatten()(image))
    logits = layers.Dense(10, name="logits")(code)
    model = keras.Model(image, [logits, code])
    model.compile("adam", loss=[keras.losses.SparseCategoricalCrossentropy(from_logits=True), None])
    by.fit(model, x, [y, np.zeros((160, 5))], batch_size=32)


@by_fit(differs={"tensorflow": ("*_loss",)})
def sample_weights_of_each_output(by):
    x, y = wine()
    model = two_headed(("alcohol", "cultivar"))
    model.compile(
        keras.optimizers.RMSprop(0.01),
        loss={"alcohol": "mae", "cultivar": losses.SparseCategoricalCrossentropy()},
        metrics={"cultivar": ["accuracy"]},
        weighted_metrics={"alcohol": ["mse"], "cultivar": ["accuracy"]},
    )
    rng = np.random.default_rng(5)
    sw = {"alcohol": rng.uniform(0, 2, 178), "cultivar": (rng.random(178) > 0.3).astype("float32")}
    by.fit(model, x, {"alcohol": x[:, 0], "cultivar": y}, sample_weight=sw, batch_size=64, epochs=2)


@by_fit
def every_reduction_with_sample_weight(by):
    x, t = diabetes()
    w = np.linspace(0, 3, 180).astype("float32")
    for reduction in ("sum", "mean_with_sample_weight"):
        m = small_regressor()
        m.compile(
            keras.optimizers.SGD(1e-4),
            keras.losses.MeanSquaredError(reduction=reduction),
            weighted_metrics=["mae", "mse"],
            metrics=["mse"],
        )
        by.fit(m, x[:180], t[:180], sample_weight=w, batch_size=50, epochs=2, validation_split=0.2)
        by.evaluate(m, x[:180], t[:180], sample_weight=w, batch_size=70)


@by_fit
def class_weight_as_sklearn_says(by):
    from sklearn.utils.class_weight import compute_class_weight

    X, y = digits()
    cw = compute_class_weight("balanced", classes=np.unique(y), y=y)
    net = keras.models.Sequential()
    net.add(keras.layers.Flatten(input_shape=(8, 8, 1)))
    net.add(keras.layers.Dense(10, activation="softmax"))
    net.compile(
        loss="sparse_categorical_crossentropy",
        optimizer="adam",
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(k=3, name="top3")],
        weighted_metrics=["accuracy"],
    )
    by.fit(net, X, y, class_weight=dict(enumerate(cw)), epochs=2, validation_split=0.15)


@by_fit
def class_weight_of_one_hot_labels(by):
    X, y = wine()
    net = keras.Sequential([keras.Input((13,)), layers.Dense(3, activation="softmax")])
    net.compile("sgd", "categorical_crossentropy", weighted_metrics=["categorical_accuracy"])
    by.fit(
        net,
        X,
        keras.utils.to_categorical(y, 3),
        class_weight={0: 1.0, 1: 2.0, 2: 5.0},
        batch_size=60,
        epochs=2,
    )


# Segmentation.


def shapes_on_a_field(n=48):
    images, _ = digits(n)
    masks = (images[..., 0] > 0.3).astype("uint8") + (images[..., 0] > 0.8).astype("uint8")
    masks[:, 0, :] = 255
    return images, masks


def tiny_unet(classes, activation=None):
    i = keras.Input((8, 8, 1))
    a = layers.Conv2D(4, 3, padding="same", activation="relu")(i)
    b = layers.MaxPooling2D()(a)
    b = layers.Conv2D(6, 3, padding="same", activation="relu")(b)
    b = layers.UpSampling2D(interpolation="bilinear")(b)
    c = layers.Concatenate()([a, b])
    return keras.Model(i, layers.Conv2D(classes, 1, activation=activation)(c))


@by_fit
def segmentation_with_void_pixels(by):
    images, masks = shapes_on_a_field()
    model = tiny_unet(3)
    model.compile(
        optimizer="adam",
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
        metrics=[
            keras.metrics.MeanIoU(num_classes=3, ignore_class=255, sparse_y_pred=False),
            keras.metrics.IoU(3, target_class_ids=[1, 2], ignore_class=255, sparse_y_pred=False),
        ],
    )
    by.fit(model, images, masks, batch_size=10, epochs=2)
    by.evaluate(model, images, masks, batch_size=16)


@by_fit(only=("tensorflow", "jax"))  # torch: Keras raises "grad_input must be contiguous"
def segmentation_with_negative_void_and_pixel_weights(by):
    images, masks = shapes_on_a_field()
    masks = masks.astype("int32")[..., None]
    masks[masks == 255] = -1
    pixel_weights = np.where(masks[..., 0] == 2, 3.0, 1.0).astype("float32")
    model = tiny_unet(3, "softmax")
    model.compile(
        "rmsprop",
        losses.SparseCategoricalCrossentropy(ignore_class=-1, reduction="sum_over_batch_size"),
        weighted_metrics=["accuracy"],
    )
    by.fit(model, images, masks, sample_weight=pixel_weights, batch_size=12, epochs=2)


@by_fit
def overlap_losses(by):
    images, masks = shapes_on_a_field(40)
    foreground = ((masks > 0) & (masks < 255)).astype("float32")[..., None]
    for loss in (losses.Dice(axis=(1, 2, 3)), losses.Tversky(alpha=0.3, beta=0.7)):
        unet = tiny_unet(1, "sigmoid")
        unet.compile("adam", loss, metrics=[keras.metrics.BinaryIoU(target_class_ids=[0, 1])])
        by.fit(unet, images, foreground, batch_size=16)


@by_fit(differs={"tensorflow": ("*_loss",)})
def overlap_losses_of_several_masks(by):
    """The last batch is smaller, and a loss over all of the batch is a number."""
    images, masks = shapes_on_a_field(40)
    foreground = ((masks > 0) & (masks < 255))[..., None]
    chosen = ["dice", losses.tversky, losses.Tversky(axis=(1, 2, 3), reduction="sum")]
    i = keras.Input((8, 8, 1))
    outs = [layers.Conv2D(1, 3, padding="same", activation="sigmoid")(i) for _ in chosen]
    net = keras.Model(i, outs)
    net.compile("sgd", chosen, metrics=[None, ["mae"], None])
    by.fit(net, images, [foreground.astype("float32")] * 3, batch_size=16, validation_split=0.1)


@by_fit
def one_hot_segmentation(by):
    images, masks = shapes_on_a_field(40)
    hot = keras.utils.to_categorical(np.minimum(masks, 2), 3)
    unet = tiny_unet(3, "softmax")

    @keras.saving.register_keras_serializable()
    def dice_plus_ce(y_true, y_pred):
        return keras.losses.dice(y_true, y_pred) + ops.mean(
            keras.losses.categorical_crossentropy(y_true, y_pred)
        )

    unet.compile(
        keras.optimizers.Adam(3e-3),
        dice_plus_ce,
        metrics=[
            keras.metrics.OneHotMeanIoU(3),
            keras.metrics.OneHotIoU(num_classes=3, target_class_ids=[2], name="spots"),
            "accuracy",
        ],
    )
    by.fit(unet, images, hot, batch_size=9, epochs=2, validation_split=0.2)


# Rarer losses.


@by_fit
def ctc_of_short_words(by):
    rng = np.random.default_rng(8)
    sound = rng.normal(size=(40, 12, 5)).astype("float32")
    letters = rng.integers(1, 6, (40, 4))
    letters[::3, 3] = 0
    model = keras.Sequential(
        [keras.Input((12, 5)), layers.Conv1D(7, 3, padding="same"), layers.Dense(6)]
    )
    model.compile("adam", keras.losses.CTC())
    by.fit(model, sound, letters, batch_size=8, epochs=1)
    by.predict(model, sound[:2])


@by_fit
def circle_loss_on_embeddings(by):
    images, labels = digits(192)
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(6, activation=None),
            layers.UnitNormalization(),
        ]
    )
    encoder.compile(
        optimizer=keras.optimizers.Adam(1e-3), loss=keras.losses.Circle(gamma=32.0, margin=0.25)
    )
    by.fit(encoder, images, labels, batch_size=48, epochs=2)
    by.predict(encoder, images[:4])


@by_fit
def vectors_by_cosine(by):
    x, _ = diabetes()
    model = keras.Sequential([layers.Dense(12, "relu"), layers.Dense(10)])
    model.compile(
        loss=keras.losses.CosineSimilarity(axis=1, reduction="mean"),
        optimizer="adamax",
        metrics=[keras.metrics.CosineSimilarity(axis=1), "cosine_similarity"],
    )
    by.fit(model, x[:150], np.roll(x[:150], 1, axis=1), batch_size=40, epochs=2)


# Own.


class PinballLoss(keras.losses.Loss):
    def __init__(self, tau=0.5, name="pinball", **kw):
        super().__init__(name=name, **kw)
        self.tau = tau

    def call(self, y_true, y_pred):
        e = ops.cast(y_true, y_pred.dtype) - y_pred
        return ops.mean(ops.maximum(self.tau * e, (self.tau - 1) * e), axis=-1)


def quantile_heads(quantiles):
    i = keras.Input((10,))
    trunk = layers.Dense(5, "selu", kernel_initializer="lecun_normal")(i)
    heads = [layers.Dense(1, name=f"q{int(q * 100)}")(trunk) for q in quantiles]
    net = keras.Model(i, heads)
    net.compile(
        "adam",
        loss=[PinballLoss(q, name=f"pin{k}", reduction="sum") for k, q in enumerate(quantiles)],
        loss_weights=[1, 2, 1],
    )
    return net


@by_fit(differs={"tensorflow": ("*_loss",)})
def quantiles_in_a_list_of_own_losses(by):
    x, t = diabetes()
    net = quantile_heads([0.1, 0.5, 0.9])
    by.fit(net, x[:210], [t[:210, None]] * 3, batch_size=64, epochs=2)


@by_fit(raises=("PG211",))
def quantiles_of_labels_that_lack_the_column(by):
    """An own `Loss` gets `(n,)` beside `(n, 1)`, and broadcasts them."""
    x, t = diabetes()
    by.fit(quantile_heads([0.1, 0.5, 0.9]), x[:210], [t[:210]] * 3, batch_size=64)


@by_fit
def loss_is_a_lambda(by):
    x, t = diabetes()
    m = small_regressor()
    m.compile("sgd", loss=lambda a, b: ops.abs(a - b) ** 1.5, metrics=[lambda a, b: ops.max(b)])
    by.fit(m, x[:96], t[:96, None], batch_size=32)


def weighted_bce(pos_weight):
    def loss(y_true, y_pred):
        y_true = ops.cast(y_true, "float32")
        bce = ops.binary_crossentropy(y_true, y_pred)
        return ops.mean(bce * (1 + (pos_weight - 1) * y_true), axis=-1)

    return loss


@by_fit
def closure_called_loss(by):
    """The function's name is "loss", and the metric's is "accuracy"."""

    def accuracy(y_true, y_pred):
        return ops.mean(ops.cast(ops.equal(y_true, ops.round(y_pred)), "float32"), axis=-1)

    x, y = cancer()
    m = keras.Sequential([layers.Dense(1, "sigmoid")])
    m.compile(optimizer="adam", loss=weighted_bce(3.0), metrics=[accuracy])
    by.fit(m, x, y[:, None], batch_size=200, epochs=2, validation_split=0.2)


class Matthews(keras.metrics.Metric):
    def __init__(self, name="mcc", **kwargs):
        super().__init__(name=name, **kwargs)
        self.table = self.add_weight(name="table", shape=(2, 2), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        t = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), 2)
        p = ops.one_hot(ops.cast(ops.reshape(y_pred, (-1,)) > 0.5, "int32"), 2)
        if sample_weight is not None:
            t = t * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        self.table.assign_add(ops.matmul(ops.transpose(t), p))

    def result(self):
        (tn, fp), (fn, tp) = [[self.table[a, b] for b in (0, 1)] for a in (0, 1)]
        bottom = ops.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return ops.divide_no_nan(tp * tn - fp * fn, bottom)

    def reset_state(self):
        self.table.assign(ops.zeros((2, 2)))


@by_fit
def own_table_as_metric(by):
    x, y = cancer()
    m = keras.Sequential([layers.Dense(6, "relu"), layers.Dense(1, "sigmoid")])
    m.compile(
        "adam", "bce", metrics=[Matthews(), "precision"], weighted_metrics=[Matthews(name="w_mcc")]
    )
    by.fit(m, x, y, sample_weight=1 + y, batch_size=111, epochs=2, validation_split=0.25)
    by.evaluate(m, x[:50], y[:50])


class ShareOfClasses(keras.metrics.Metric):
    """Its result is a dict."""

    def __init__(self, n=3, **kwargs):
        super().__init__(**kwargs)
        self.n = n
        self.seen = self.add_weight(shape=(n,), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.seen.assign(self.seen + ops.sum(y_pred, axis=0))

    def result(self):
        share = self.seen / ops.maximum(ops.sum(self.seen), 1.0)
        return {f"share_{k}": share[k] for k in range(self.n)}


@by_fit
def metric_that_returns_a_dict(by):
    x, y = wine()
    m = keras.Sequential([layers.Dense(3, "softmax")])
    m.compile("sgd", "sparse_categorical_crossentropy", metrics=[ShareOfClasses()])
    by.fit(m, x, y, batch_size=89, epochs=2)


@by_fit
def regression_metrics_with_state(by):
    x, t = diabetes()
    m = small_regressor()
    m.compile(
        "adam",
        "mse",
        metrics=[
            keras.metrics.R2Score(),
            keras.metrics.RootMeanSquaredError(name="rmse"),
            keras.metrics.PearsonCorrelation(axis=0),
            keras.metrics.ConcordanceCorrelation(axis=0, name="ccc"),
            keras.metrics.LogCoshError(),
            keras.metrics.MeanAbsolutePercentageError(),
            keras.metrics.MeanMetricWrapper(keras.losses.huber, name="huberish"),
            "mean_squared_logarithmic_error",
        ],
    )
    by.fit(m, x, t[:, None], batch_size=100, epochs=2, validation_split=0.2)
    by.evaluate(m, x, t[:, None], batch_size=77)


@by_fit
def scores_of_many_classes(by):
    x, y = digits()
    m = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10, "softmax")])
    m.compile(
        optimizer="adam",
        loss="categorical_crossentropy",
        metrics=[
            keras.metrics.F1Score(average="macro"),
            keras.metrics.F1Score(name="f1_each"),
            keras.metrics.AUC(multi_label=True, num_labels=10, num_thresholds=20),
            keras.metrics.TopKCategoricalAccuracy(k=2),
            keras.metrics.Precision(top_k=1),
            keras.metrics.Recall(class_id=3),
            "top_k_categorical_accuracy",
            "kl_divergence",
            "categorical_hinge",
            "poisson",
        ],
    )
    by.fit(m, x, keras.utils.to_categorical(y), batch_size=80, epochs=2)


@by_fit
def next_token_with_mask(by):
    """The padding is masked in loss and metrics, one label for each position."""
    ids, _ = sentences(96)
    net = keras.Sequential(
        [
            layers.Embedding(50, 8, mask_zero=True),
            layers.LSTM(8, return_sequences=True),
            layers.Dense(50),
        ]
    )
    net.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(0.01, clipnorm=1.0),
        metrics=["accuracy"],
        weighted_metrics=[
            keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="nll")
        ],
    )
    by.fit(net, ids[:, :-1], ids[:, 1:], batch_size=24, epochs=2, validation_split=0.25)
    by.evaluate(net, ids[:, :-1], ids[:, 1:], batch_size=31)


@by_fit
def masked_crossentropy_written_out(by):
    def masked_loss(label, pred):
        mask = label != 0
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")(
            label, pred
        )
        mask = ops.cast(mask, loss.dtype)
        return ops.sum(loss * mask) / ops.sum(mask)

    def masked_accuracy(label, pred):
        hit = ops.cast(ops.equal(ops.cast(label, "int64"), ops.argmax(pred, axis=2)), "float32")
        mask = ops.cast(label != 0, "float32")
        return ops.sum(hit * mask) / ops.sum(mask)

    ids, _ = sentences(80)
    tokens = keras.Input((None,), dtype="int32")
    h = layers.Embedding(50, 6)(tokens)
    h = layers.Conv1D(10, 3, padding="causal", activation="relu")(h)
    model = keras.Model(tokens, layers.Dense(50)(h))
    model.compile("adam", masked_loss, metrics=[masked_accuracy])
    by.fit(model, ids[:, :-1], ids[:, 1:], batch_size=16, epochs=2)


@by_fit
def add_loss_and_add_metric_of_a_vae(by):
    """No target at all: everything is added by a layer."""

    class Sampling(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seed_generator = keras.random.SeedGenerator(1337)

        def call(self, inputs):
            mu, log_var = inputs
            kl = -0.5 * ops.mean(1 + log_var - ops.square(mu) - ops.exp(log_var))
            self.add_loss(0.1 * kl)
            eps = keras.random.normal(ops.shape(mu), seed=self.seed_generator)
            return mu + ops.exp(0.5 * log_var) * eps

    x, _ = digits(128)
    image = keras.Input((8, 8, 1))
    h = layers.Dense(16, "relu")(layers.Flatten()(image))
    z = Sampling()([layers.Dense(2, name="mu")(h), layers.Dense(2, name="log_var")(h)])
    out = layers.Reshape((8, 8, 1))(layers.Dense(64, "sigmoid")(z))
    vae = keras.Model(image, out, name="vae")
    vae.compile(optimizer="adam", loss="binary_crossentropy")
    by.fit(vae, x, x, batch_size=32, epochs=2)


@by_fit
def endpoint_layer_without_targets(by):
    class LogisticEndpoint(layers.Layer):
        def __init__(self, name=None):
            super().__init__(name=name)
            self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)

        def call(self, logits, targets):
            self.add_loss(self.loss_fn(targets, logits))
            return ops.sigmoid(logits)

    x, y = cancer()
    inputs = keras.Input((30,), name="inputs")
    targets = keras.Input((1,), name="targets")
    predictions = LogisticEndpoint(name="predictions")(layers.Dense(1)(inputs), targets)
    model = keras.Model({"inputs": inputs, "targets": targets}, predictions)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    by.fit(model, {"inputs": x, "targets": y[:, None]}, batch_size=128, epochs=2)


@by_fit
def objects_named_by_their_config(by):
    """`get`, `serialize` and `deserialize` in between."""
    x, y = wine()
    spec = losses.serialize(losses.SparseCategoricalCrossentropy(name="ce"))
    m = keras.Sequential([layers.Input((13,)), layers.Dense(3, "softmax")])
    m.compile(
        optimizer=keras.optimizers.get({"class_name": "adam", "config": {"learning_rate": 0.01}}),
        loss=losses.deserialize(spec),
        metrics=[
            metrics.get("sparse_categorical_accuracy"),
            metrics.get("SparseCategoricalCrossentropy"),
        ],
    )
    by.fit(m, x, y, batch_size=59, epochs=2)


@by_fit(differs={"tensorflow": ("*_loss",)})
def tuple_output_and_loss_for_nested_names(by):
    x, y = wine()
    i = keras.Input((13,))
    out = {
        "cls": layers.Dense(3, activation="softmax", name="a_layer")(i),
        "reg": (layers.Dense(1, name="b_layer")(i), layers.Dense(2, name="c_layer")(i)),
    }
    m = keras.Model(i, out)
    m.compile(
        "adam",
        loss={"cls": "sparse_categorical_crossentropy", "reg": ("mse", "mae")},
    )
    by.fit(m, x, {"cls": y, "reg": (x[:, :1], x[:, 1:3])}, batch_size=60, epochs=2)
    by.predict(m, x[:4])


@by_fit
def float16_loss_scale_and_mixed_dtypes(by):
    """`mixed_float16`: the loss is scaled, the head is float32."""
    x, y = wine()
    policy = keras.mixed_precision.DTypePolicy("mixed_float16")
    m = keras.Sequential(
        [
            keras.Input((13,)),
            layers.Dense(8, "relu", dtype=policy),
            layers.Dense(3, "softmax", dtype="float32"),
        ]
    )
    m.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), dynamic_growth_steps=3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    by.fit(m, x, y, batch_size=40, epochs=2)
