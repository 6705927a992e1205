"""Programs with losses, metrics, optimizers, callbacks and other parts of their own."""

import functools
import math
import time

import keras
import numpy as np
from keras import layers, ops

from tests.strangers.corpus import by_fit
from tests.strangers.datasets import cancer, diabetes, digits, wine


def small_regressor(width=6, **kwargs):
    return keras.Sequential(
        [keras.Input((10,)), layers.Dense(width, "tanh"), layers.Dense(1)], **kwargs
    )


# Losses.


def my_weird_loss(t, p):
    return ops.mean(ops.abs(t - p) ** 1.5, axis=-1)


@by_fit
def loss_function_with_short_argument_names(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile("adam", my_weird_loss, metrics=[my_weird_loss])
    by.fit(model, x, y[:, None], epochs=2, batch_size=64, validation_split=0.2)
    by.evaluate(model, x, y[:, None])


def pinball(y_true, y_pred, q):
    e = y_true - y_pred
    return ops.mean(ops.maximum(q * e, (q - 1) * e), axis=-1)


@by_fit
def losses_by_functools_partial(by):
    x, y = diabetes()
    inp = keras.Input((10,))
    h = layers.Dense(5, "relu")(inp)
    quantiles = (0.1, 0.5, 0.9)
    outs = {f"q{int(q * 100)}": layers.Dense(1)(h) for q in quantiles}
    model = keras.Model(inp, outs)
    model.compile(
        "rmsprop", loss={f"q{int(q * 100)}": functools.partial(pinball, q=q) for q in quantiles}
    )
    by.fit(model, x[:384], {k: y[:384] for k in outs}, epochs=2, batch_size=64)
    by.predict(model, x[:4])


def focal(gamma=2.0, alpha=0.25):
    def _focal_fixed(y_true, y_pred):
        y_pred = ops.clip(y_pred, 1e-7, 1 - 1e-7)
        pt = ops.where(ops.equal(y_true, 1), y_pred, 1 - y_pred)
        return -ops.sum(alpha * ops.power(1.0 - pt, gamma) * ops.log(pt))

    return _focal_fixed


@by_fit
def closure_that_returns_a_scalar(by):
    x, y = cancer()
    model = keras.Sequential([keras.Input((30,)), layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.Adam(0.01), loss=focal(gamma=1.5), metrics=["accuracy"])
    by.fit(model, x, y[:, None], epochs=2, batch_size=100, class_weight={0: 1.0, 1: 2.0})
    by.evaluate(model, x, y[:, None], batch_size=200)


@by_fit
def lambda_as_loss_and_as_metric(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(
        "sgd",
        loss=lambda a, b: ops.square(a - b),
        metrics=[lambda a, b: ops.mean(ops.cast(ops.abs(a - b) < 0.5, "float32"), axis=-1)],
    )
    by.fit(model, x, y, epochs=2, batch_size=64)


def timed(fn):
    calls = []

    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        began = time.perf_counter()
        try:
            return fn(*args, **kwargs)
        finally:
            calls.append(time.perf_counter() - began)

    wrapper.calls = calls
    return wrapper


@timed
def tversky_ish(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred)) + 0.1 * ops.mean(ops.abs(y_pred))


@by_fit
def decorated_loss(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile("adam", loss=tversky_ish, metrics=["mse", tversky_ish])
    by.fit(model, x, y[:, None], epochs=2, batch_size=64, sample_weight=np.linspace(0.1, 1, len(x)))


class Objective:
    """Holds the settings of a project, and a loss among its methods."""

    def __init__(self, temperature, penalty):
        self.temperature = temperature
        self.penalty = penalty

    def loss(self, y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred / self.temperature, from_logits=True
        ) + self.penalty * ops.mean(ops.square(y_pred), axis=-1)

    def confidence(self, y_true, y_pred):
        return ops.max(ops.softmax(y_pred / self.temperature), axis=-1)

    def __call__(self, y_true, y_pred):
        return self.loss(y_true, y_pred) * 2


@by_fit
def bound_methods_as_loss_and_metric(by):
    x, y = wine()
    goal = Objective(temperature=1.7, penalty=1e-3)
    model = keras.Sequential([keras.Input((13,)), layers.Dense(3)])
    model.compile("adam", loss=goal.loss, metrics=[goal.confidence, "accuracy"])
    by.fit(model, x, y, epochs=2, batch_size=32, validation_split=0.1)
    by.evaluate(model, x, y)


@by_fit
def object_with_a_call_as_loss(by):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), layers.Dense(3)])
    model.compile("adam", loss=Objective(1.0, 0.01))
    by.fit(model, x, y, epochs=2, batch_size=32)


class CenteredHuber(keras.losses.Loss):
    def __init__(self, threshold=1.0, name="centered-huber>v2", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold

    def call(self, y_true, y_pred):
        err = y_true - y_pred - ops.mean(y_true - y_pred, axis=0, keepdims=True)
        small = ops.abs(err) <= self.threshold
        return ops.where(small, err**2 / 2, self.threshold * (ops.abs(err) - self.threshold / 2))


@by_fit
def loss_class_that_sums(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(keras.optimizers.SGD(1e-3), loss=CenteredHuber(0.7, reduction="sum"))
    by.fit(model, x, y[:, None], epochs=2, batch_size=64)
    by.evaluate(model, x, y[:, None], batch_size=64)


# Metrics.


class CategoricalTruePositives(keras.metrics.Metric):
    def __init__(self, name="categorical_true_positives", **kwargs):
        super().__init__(name=name, **kwargs)
        self.true_positives = self.add_variable(shape=(), name="ctp", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        hit = ops.cast(ops.equal(ops.cast(y_true, "int32"), ops.argmax(y_pred, 1)), "float32")
        if sample_weight is not None:
            hit = ops.multiply(hit, ops.cast(sample_weight, "float32"))
        self.true_positives.assign_add(ops.sum(hit))

    def result(self):
        return self.true_positives.value

    def reset_state(self):
        self.true_positives.assign(0)


@by_fit
def metric_with_state(by):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), layers.Dense(3, "softmax")])
    model.compile(
        "rmsprop",
        "sparse_categorical_crossentropy",
        metrics=[CategoricalTruePositives()],
        weighted_metrics=[CategoricalTruePositives(name="weighted tp")],
    )
    w = np.where(y == 2, 0.5, 1).astype("float32")
    by.fit(model, x, y, sample_weight=w, epochs=2, batch_size=32)
    by.evaluate(model, x, y, sample_weight=w)


class Extremes(keras.metrics.Metric):
    """Keeps the largest and smallest prediction of an epoch, with a result of two numbers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hi = self.add_weight(name="hi", initializer=keras.initializers.Constant(-1e9))
        self.lo = self.add_weight(name="lo", initializer=keras.initializers.Constant(1e9))

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.hi.assign(ops.maximum(self.hi, ops.max(y_pred)))
        self.lo.assign(ops.minimum(self.lo, ops.min(y_pred)))

    def result(self):
        return {"largest": self.hi + 0.0, "smallest": self.lo + 0.0}

    def reset_state(self):
        self.hi.assign(-1e9)
        self.lo.assign(1e9)


@by_fit
def metric_whose_result_is_a_dict(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile("adam", "mse", metrics=[Extremes(name="extremes"), "mae"])
    by.fit(model, x, y[:, None], epochs=2, batch_size=64, validation_split=0.2)
    by.evaluate(model, x, y[:, None])


class GradeBook(keras.Model):
    """Has metrics as attributes and updates them where it computes its loss."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs=inputs, outputs=outputs)
        self.spread = keras.metrics.Mean(name="spread")
        self.seen = keras.metrics.Sum(name="seen")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        self.spread.update_state(ops.std(y_pred))
        self.seen.update_state(ops.ones_like(y_pred))
        return loss + 0.01 * ops.mean(ops.square(y_pred))


@by_fit(differs={"torch": ("seen",)})
def metrics_as_attributes(by):
    x, y = diabetes()
    inp = keras.Input((10,))
    model = GradeBook(inp, layers.Dense(1, kernel_regularizer=keras.regularizers.L1(1e-3))(inp))
    model.compile("adam", "mse", metrics=["mae"])
    by.fit(model, x, y[:, None], epochs=2, batch_size=64, validation_split=0.2)
    by.evaluate(model, x, y[:, None])


class RatioOfMetrics(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        results["mae_over_mse"] = results["mae"] / (results["mse"] + 1e-6)
        return results


@by_fit
def compute_metrics_that_adds_a_ratio(by):
    x, y = diabetes()
    inp = keras.Input((10,))
    model = RatioOfMetrics(inp, layers.Dense(1)(inp))
    model.compile("adam", "mse", metrics=["mae", "mse"])
    by.fit(model, x, y[:, None], epochs=2, batch_size=64)
    by.evaluate(model, x, y[:, None])


class NoCallVAE(keras.Model):
    """Has no call; its loss is all it knows."""

    def __init__(self, enc, dec, **kwargs):
        super().__init__(**kwargs)
        self.enc, self.dec = enc, dec
        self.total_loss_tracker = keras.metrics.Mean(name="total_loss")
        self.kl_loss_tracker = keras.metrics.Mean(name="kl_loss")
        self.rng = keras.random.SeedGenerator(7)
        self.built = True

    @property
    def metrics(self):
        return [self.total_loss_tracker, self.kl_loss_tracker]

    def terms(self, x):
        mean, log_var = self.enc(x)
        z = mean + ops.exp(log_var / 2) * keras.random.normal(ops.shape(mean), seed=self.rng)
        rec = ops.mean(ops.sum(ops.square(x - self.dec(z)), axis=1))
        kl = ops.mean(ops.sum(-0.5 * (1 + log_var - mean**2 - ops.exp(log_var)), axis=1))
        return rec + kl, kl

    def report(self, total, kl):
        self.total_loss_tracker.update_state(total)
        self.kl_loss_tracker.update_state(kl)
        return {"loss": self.total_loss_tracker.result(), "kl_loss": self.kl_loss_tracker.result()}


class NoCallVAETape(NoCallVAE):
    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total, kl = self.terms(data[0] if isinstance(data, tuple) else data)
        grads = tape.gradient(total, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
        return self.report(total, kl)


class NoCallVAEBackward(NoCallVAE):
    def train_step(self, data):
        import torch

        self.zero_grad()
        total, kl = self.terms(data[0] if isinstance(data, tuple | list) else data)
        total.backward()
        with torch.no_grad():
            self.optimizer.apply([w.value.grad for w in self.trainable_weights])
        return self.report(total, kl)


@by_fit(only=("tensorflow", "torch"))
def train_step_without_call(by):
    x = digits(192)[0].reshape(-1, 64)
    inp = keras.Input((64,))
    h = layers.Dense(8, activation="relu")(inp)
    enc = keras.Model(inp, [layers.Dense(2, name="mean")(h), layers.Dense(2, name="lv")(h)])
    dec = keras.Sequential(
        [keras.Input((2,)), layers.Dense(8, "relu"), layers.Dense(64, "sigmoid")]
    )
    tape = keras.backend.backend() == "tensorflow"
    vae = (NoCallVAETape if tape else NoCallVAEBackward)(enc, dec)
    vae.compile(optimizer=keras.optimizers.Adam())
    by.fit(vae, x, epochs=2, batch_size=32)
    by.predict(dec, np.zeros((2, 2), "float32"))


class PredictsClasses(keras.Model):
    def predict_step(self, data):
        return ops.argmax(super().predict_step(data), axis=-1)


@by_fit(only=("tensorflow", "torch"))
def predict_step_that_returns_classes(by):
    x, y = wine()
    inp = keras.Input((13,))
    model = PredictsClasses(inp, layers.Dense(3, "softmax")(inp))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["acc"])
    by.fit(model, x, y, epochs=1, batch_size=32)
    by.predict(model, x, batch_size=50)


# Optimizers and schedules.


class SignDescent(keras.optimizers.Optimizer):
    def __init__(self, learning_rate=1e-3, decay=0.9, name="SignDescent", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.decay = decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.trails = [self.add_variable_from_reference(v, name="trail") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        trail = self.trails[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign(trail, self.decay * trail + (1 - self.decay) * gradient)
        self.assign_sub(variable, rate * ops.sign(trail))

    def get_config(self):
        return {**super().get_config(), "decay": self.decay}


@by_fit
def own_optimizer(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(
        SignDescent(0.01, weight_decay=1e-3, use_ema=True, ema_overwrite_frequency=5), "mse"
    )
    by.fit(model, x, y, epochs=2, batch_size=64)
    return {"steps": int(model.optimizer.iterations)}


class NoisyLookingRate(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak, period):
        self.peak = peak
        self.period = period

    def __call__(self, step):
        step = ops.cast(step, "float32")
        return self.peak * (0.55 + 0.45 * ops.cos(2 * math.pi * step / self.period))

    def get_config(self):
        return {"peak": self.peak, "period": self.period}


class TunedAdam(keras.optimizers.Adam):
    """Halves every gradient before Adam sees it."""

    def apply(self, grads, trainable_variables=None):
        grads = [g * 0.5 if g is not None else None for g in grads]
        return super().apply(grads, trainable_variables)


@by_fit
def own_schedule_in_a_changed_adam(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(TunedAdam(NoisyLookingRate(0.02, 9), epsilon=1e-3, amsgrad=True), loss="mse")
    by.fit(model, x, y, epochs=2, batch_size=64)
    by.fit(model, x, y, epochs=1, batch_size=64)


@by_fit
def accumulated_gradients_and_clipping(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(
        keras.optimizers.Lion(1e-3, gradient_accumulation_steps=3, clipvalue=0.5), loss="mse"
    )
    by.fit(model, x, y, epochs=3, batch_size=64)


# Regularizers, constraints, initializers, activations.


class NearOrthogonal(keras.regularizers.Regularizer):
    def __init__(self, strength=0.01):
        self.strength = strength

    def __call__(self, w):
        gram = ops.transpose(w) @ w
        return self.strength * ops.sum(ops.square(gram - ops.eye(w.shape[1])))


class RowsSumToOne(keras.constraints.Constraint):
    def __call__(self, w):
        w = ops.relu(w) + 1e-4
        return w / ops.sum(w, axis=0, keepdims=True)


class Checker(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None, **kwargs):
        return (
            ops.cast(ops.reshape(ops.arange(math.prod(shape)) % 3, shape), dtype or "float32") - 1
        )


def snake(v):
    return v + ops.sin(v) ** 2


@by_fit
def own_regularizer_constraint_initializer_and_activation(by):
    x, y = diabetes()
    model = keras.Sequential(
        [
            layers.Dense(
                6,
                activation=snake,
                kernel_initializer=Checker(),
                kernel_regularizer=NearOrthogonal(0.02),
                bias_regularizer=lambda b: 0.1 * ops.sum(ops.abs(b)),
                activity_regularizer=keras.regularizers.L2(1e-3),
            ),
            layers.Dense(1, kernel_constraint=RowsSumToOne(), bias_constraint="non_neg"),
        ]
    )
    model.compile("adam", "mse")
    by.fit(model, x, y[:, None], epochs=2, batch_size=64, validation_split=0.2)
    by.evaluate(model, x, y[:, None])


# Callbacks.


class Diary(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.lines = []

    def _note(self, what, number=-1, logs=None):
        self.lines.append((what, number, sorted(logs or {})))

    def on_train_begin(self, logs=None):
        self._note("train begins", logs=logs)

    def on_train_end(self, logs=None):
        self._note("train ends", logs=logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._note("epoch begins", epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._note("epoch ends", epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self._note("batch begins", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._note("batch ends", batch, logs)

    def on_test_begin(self, logs=None):
        self._note("test begins", logs=logs)

    def on_test_end(self, logs=None):
        self._note("test ends", logs=logs)

    def on_test_batch_begin(self, batch, logs=None):
        self._note("test batch begins", batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        self._note("test batch ends", batch, logs)


@by_fit
def callback_with_every_hook(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile("sgd", "mse", metrics=["mae"])
    diary = Diary()
    by.fit(
        model,
        x,
        y,
        epochs=2,
        batch_size=128,
        validation_split=0.3,
        callbacks=diary,
        validation_freq=2,
    )
    return {
        "lines": [f"{what} {number} {','.join(names)}" for what, number, names in diary.lines],
        "params": {k: v for k, v in diary.params.items() if k in ("epochs", "steps")},
    }


class LossByBatch(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.losses, self.rates = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
        self.rates.append(float(ops.convert_to_numpy(self.model.optimizer.learning_rate)))


class WarmUp(keras.callbacks.Callback):
    def __init__(self, steps, goal):
        super().__init__()
        self.step, self.steps, self.goal = 0, steps, goal

    def on_train_batch_begin(self, batch, logs=None):
        self.step += 1
        self.model.optimizer.learning_rate = self.goal * min(1.0, self.step / self.steps)


@by_fit
def callback_that_warms_the_learning_rate_up(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(keras.optimizers.SGD(0.5), "mse")
    seen = LossByBatch()
    by.fit(model, x, y, epochs=2, batch_size=64, callbacks=[WarmUp(10, 0.08), seen])
    return {"losses": seen.losses, "rates": seen.rates}


@by_fit
def learning_rate_callbacks_of_keras(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    history = by.fit(
        model,
        x,
        y,
        epochs=3,
        batch_size=64,
        validation_data=(x[:100], y[:100]),
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr * 0.5 if epoch else lr),
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.1, patience=1, min_delta=10.0),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(odd=epoch)),
        ],
    )
    return {"rates": history.history["learning_rate"]}


class ShakeWeights(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        first = self.model.layers[0]
        kernel, bias = first.get_weights()
        first.set_weights([kernel * 0.9, bias + 0.01 * epoch])

    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            bias = self.model.layers[-1].bias
            bias.assign(ops.clip(bias, -0.05, 0.05))


@by_fit
def callback_that_changes_weights(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    by.fit(model, x, y, epochs=3, batch_size=64, callbacks=[ShakeWeights()])


class StopAtLoss(keras.callbacks.Callback):
    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.model.stop_training = True


@by_fit
def callback_that_stops_in_the_midst_of_an_epoch(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile("adam", "mse")
    history = by.fit(
        model, x, y, epochs=3, batch_size=64, validation_split=0.1, callbacks=[StopAtLoss(9)]
    )
    return {"epochs": history.epoch, "steps": int(model.optimizer.iterations)}


class Gallery(keras.callbacks.Callback):
    """Predicts and evaluates after each epoch, and keeps the best weights."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
        self.pictures, self.scores, self.best = [], [], None

    def on_epoch_end(self, epoch, logs=None):
        self.pictures.append(self.model.predict(self.x[:4], verbose=0))
        score = self.model.evaluate(self.x, self.y, verbose=0, return_dict=True)
        self.scores.append(score["mae"])
        logs["held_out_mae"] = score["mae"]
        if self.best is None or score["mae"] <= min(self.scores):
            self.best = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.model.set_weights(self.best)


@by_fit
def callback_that_predicts_and_evaluates(by):
    x, y = diabetes()
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.BatchNormalization(),
            layers.Dropout(0.1, seed=4),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    gallery = Gallery(x[400:], y[400:, None])
    by.fit(model, x[:400], y[:400, None], epochs=3, batch_size=80, callbacks=[gallery])
    return {"pictures": gallery.pictures, "scores": gallery.scores}


@by_fit
def checkpoints_and_csv(by):
    import csv
    import tempfile
    from pathlib import Path

    x, y = diabetes()
    model = small_regressor()
    model.compile("adam", "mse")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        by.fit(
            model,
            x,
            y,
            epochs=2,
            batch_size=64,
            validation_split=0.2,
            callbacks=[
                keras.callbacks.ModelCheckpoint(
                    str(path / "w-{epoch:02d}-{val_loss:.2f}.weights.h5"), save_weights_only=True
                ),
                keras.callbacks.CSVLogger(path / "log.csv", separator=";"),
                keras.callbacks.TerminateOnNaN(),
            ],
        )
        with (path / "log.csv").open() as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        names = sorted(p.name for p in path.glob("*.h5"))
        model.load_weights(path / names[0])
    return {"names": names, "loss": [float(r["loss"]) for r in rows], "columns": list(rows[0])}


class SwapWeights(keras.callbacks.Callback):
    """A mean of the weights over the batches, which the validation uses."""

    def on_train_begin(self, logs=None):
        self.mean = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        self.mean = [
            0.8 * m + 0.2 * w for m, w in zip(self.mean, self.model.get_weights(), strict=True)
        ]

    def on_test_begin(self, logs=None):
        self.kept = self.model.get_weights()
        self.model.set_weights(self.mean)

    def on_test_end(self, logs=None):
        self.model.set_weights(self.kept)


@by_fit
def callback_that_swaps_the_weights_for_the_validation(by):
    x, y = diabetes()
    model = small_regressor()
    model.compile("adam", "mse")
    by.fit(model, x, y, epochs=2, batch_size=64, validation_split=0.2, callbacks=[SwapWeights()])


# Layers with a state of their own, and models with Python's.


class RunningCenter(layers.Layer):
    """Subtracts a moving average that it updates in training."""

    def __init__(self, momentum=0.9, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def build(self, input_shape):
        self.center = self.add_weight(
            shape=(input_shape[-1],), initializer="zeros", trainable=False, name="center"
        )
        self.calls = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False)

    def call(self, x, training=False):
        if training:
            mean = ops.mean(x, axis=0)
            self.center.assign(self.momentum * self.center + (1 - self.momentum) * mean)
            self.calls.assign(self.calls + 1)
        return x - self.center


class MyDropout(layers.Layer):
    def __init__(self, rate, seed=1337, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        if not training:
            return inputs
        keep = keras.random.uniform(ops.shape(inputs), seed=self.seed_generator) > self.rate
        return ops.where(keep, inputs / (1 - self.rate), 0.0)


@by_fit
def layers_with_moving_averages_and_seed_generators(by):
    x, y = diabetes()
    inp = keras.Input((10,))
    h = MyDropout(0.2)(RunningCenter()(inp))
    model = keras.Model(inp, layers.Dense(1)(RunningCenter(0.5)(layers.Dense(4, "relu")(h))))
    model.compile("adam", "mse")
    by.fit(model, x, y, epochs=2, batch_size=64, validation_split=0.2)
    by.evaluate(model, x, y)
    by.predict(model, x)
    return {"calls": int(ops.convert_to_numpy(model.layers[1].calls))}


class VectorQuantizer(layers.Layer):
    def __init__(self, num_embeddings, beta=0.25, **kwargs):
        super().__init__(**kwargs)
        self.num_embeddings = num_embeddings
        self.beta = beta

    def build(self, input_shape):
        self.codes = self.add_weight(
            shape=(input_shape[-1], self.num_embeddings), initializer="random_uniform"
        )
        self.usage = self.add_weight(
            shape=(self.num_embeddings,), initializer="zeros", trainable=False, name="usage"
        )

    def call(self, x, training=None):
        distances = (
            ops.sum(x**2, axis=1, keepdims=True)
            + ops.sum(self.codes**2, axis=0)
            - 2 * ops.matmul(x, self.codes)
        )
        one_hot = ops.one_hot(ops.argmin(distances, axis=1), self.num_embeddings)
        quantized = ops.matmul(one_hot, ops.transpose(self.codes))
        if training:
            self.usage.assign_add(ops.sum(one_hot, axis=0))
        commitment = ops.mean((ops.stop_gradient(quantized) - x) ** 2)
        self.add_loss(self.beta * commitment + ops.mean((quantized - ops.stop_gradient(x)) ** 2))
        return x + ops.stop_gradient(quantized - x)


@by_fit
def vector_quantized_autoencoder(by):
    x = digits(160)[0].reshape(-1, 64)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(4),
            VectorQuantizer(8, name="vq"),
            layers.Dense(64, "sigmoid"),
        ]
    )
    model.compile("adam", loss="mse")
    by.fit(model, x, x, epochs=2, batch_size=32)
    by.evaluate(model, x, x)


class Curriculum(keras.Model):
    """Keeps Python state that a callback changes, and a variable that it reads."""

    def __init__(self, inp, out):
        super().__init__(inp, out)
        self.history_of_levels = []
        self.settings = {"names": ["a", "b"], "depth": 2}
        self.level = self.add_weight(shape=(), initializer="ones", trainable=False, name="level")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.level * super().compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
        )


class LevelUp(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.level.assign(0.5 + epoch)
        self.model.history_of_levels.append(epoch)


@by_fit
def model_with_python_state(by):
    x, y = diabetes()
    inp = keras.Input((10,))
    model = Curriculum(inp, layers.Dense(1)(inp))
    model.compile(keras.optimizers.SGD(0.05), "mse")
    by.fit(model, x, y[:, None], epochs=3, batch_size=64, callbacks=[LevelUp()])
    return {"levels": list(model.history_of_levels)}


# Decorators of the frameworks.


def decorated_by_framework(fn):
    kind = keras.backend.backend()
    if kind == "tensorflow":
        import tensorflow as tf

        return tf.function(fn, reduce_retracing=True)
    if kind == "jax":
        import jax

        return jax.jit(fn)
    return fn


@decorated_by_framework
def soft_threshold(v):
    return ops.sign(v) * ops.relu(ops.abs(v) - 0.05)


class Shrink(layers.Layer):
    def call(self, v):
        return soft_threshold(v)


@by_fit
def helper_compiled_by_the_framework(by):
    @decorated_by_framework
    def squares(a, b):
        return ops.mean((a - b) ** 2)

    x, y = diabetes()
    model = keras.Sequential([layers.Dense(6), Shrink(), layers.Dense(1)])
    model.compile("adam", loss=squares)
    by.fit(model, x, y[:, None], epochs=2, batch_size=64)
    by.predict(model, x, batch_size=200)


@by_fit(only="torch")
def helpers_under_no_grad(by):
    import torch

    class EmaTarget(keras.Model):
        def __init__(self):
            super().__init__()
            self.online, self.target = layers.Dense(4), layers.Dense(4, trainable=False)
            self.top = layers.Dense(1)

        def build(self, shape):
            self.online.build(shape)
            self.target.build(shape)
            self.top.build((None, 4))
            self.drag(0.0)

        @torch.no_grad()
        def drag(self, tau):
            for t, o in zip(self.target.weights, self.online.weights, strict=True):
                t.assign(tau * t.value + (1 - tau) * o.value)

        def call(self, x, training=False):
            h = self.online(x)
            with torch.no_grad():
                goal = self.target(x)
            self.add_loss(0.1 * ops.mean((h - goal) ** 2))
            if training:
                self.drag(0.95)
            return self.top(ops.tanh(h))

    x, y = diabetes()
    model = EmaTarget()
    model.compile("sgd", "mse")
    by.fit(model, x, y[:, None], epochs=2, batch_size=64)
    by.evaluate(model, x, y[:, None])


@by_fit(only="tensorflow", differs=("raw",))
def train_step_decorated_with_tf_function(by):
    import tensorflow as tf

    class Adversarial(keras.Model):
        @tf.function
        def perturbed(self, x, y):
            with tf.GradientTape() as inner:
                inner.watch(x)
                loss = tf.reduce_mean(tf.square(y - self(x, training=False)))
            return x + 0.05 * tf.sign(inner.gradient(loss, x))

        @tf.function
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=y, y_pred=self(self.perturbed(x, y), training=True))
            variables = self.trainable_variables
            self.optimizer.apply_gradients(
                zip(tape.gradient(loss, variables), variables, strict=True)
            )
            self._loss_tracker.update_state(loss)
            return {"loss": self._loss_tracker.result(), "raw": loss}

    x, y = diabetes()
    inp = keras.Input((10,))
    model = Adversarial(inp, layers.Dense(1)(layers.Dense(4, "tanh")(inp)))
    model.compile("adam", "mse")
    by.fit(model, x, y[:, None], epochs=2, batch_size=64)


@by_fit(only="jax", differs=("loss", "grad_norm"))
def train_step_with_jax_tricks(by):
    import jax
    import jax.numpy as jnp

    class Clipped(keras.Model):
        def train_step(self, state, data):
            tv, ntv, ov, mv = state
            x, y = data

            @functools.partial(jax.value_and_grad, has_aux=True)
            def objective(tv, ntv):
                p, ntv, extra = self.stateless_call(tv, ntv, x, training=True, return_losses=True)
                return jnp.mean((jnp.ravel(p) - jnp.ravel(y)) ** 2) + sum(extra), (p, ntv)

            (loss, (_, ntv)), grads = objective(tv, ntv)
            norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
            grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, 1.0 / norm), grads)
            tv, ov = self.optimizer.stateless_apply(ov, grads, tv)
            return {"loss": loss, "grad_norm": norm}, (tv, ntv, ov, mv)

    x, y = diabetes()
    inp = keras.Input((10,))
    h = layers.Dropout(0.1, seed=1)(layers.Dense(5, "relu", kernel_regularizer="l2")(inp))
    model = Clipped(inp, layers.Dense(1)(h))
    model.compile("adam")
    by.fit(model, x, y, epochs=2, batch_size=64)
