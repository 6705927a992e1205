"""Programs in the idioms of Keras's guides."""

import keras
import numpy as np
from keras import layers, ops

from tests.strangers.corpus import by_fit
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine


@by_fit
def logistic_regression_on_wine(by):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), layers.Dense(3, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=3, batch_size=32, validation_split=0.2)
    by.evaluate(model, x, y, batch_size=50)
    by.predict(model, x)


@by_fit
def convnet(by):
    x, y = digits()
    num_classes = 10
    model = keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            layers.Conv2D(8, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5, seed=1),
            layers.Dense(num_classes, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    y = keras.utils.to_categorical(y, num_classes)
    by.fit(model, x, y, batch_size=64, epochs=2, validation_split=0.1)
    by.evaluate(model, x, y)


class LinearWithActivity(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(shape=(input_shape[-1], self.units), initializer="random_normal")
        self.b = self.add_weight(shape=(self.units,), initializer="zeros")

    def call(self, inputs):
        self.add_loss(1e-2 * ops.mean(inputs))
        return ops.matmul(inputs, self.w) + self.b


@by_fit
def own_layer_that_adds_a_loss(by):
    x, y = wine()
    model = keras.Sequential([LinearWithActivity(8), layers.ReLU(), LinearWithActivity(3)])
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    by.fit(model, x, y, batch_size=16, epochs=2)
    by.predict(model, np.asarray(x[:7]))


# Functional models with several inputs and outputs.


def ticket_router():
    title = keras.Input(shape=(None,), name="title")
    body = keras.Input(shape=(None,), name="body")
    tags = keras.Input(shape=(4,), name="tags")
    t = layers.Embedding(50, 6)(title)
    b = layers.Embedding(50, 6)(body)
    t = layers.LSTM(5)(t)
    b = layers.LSTM(4)(b)
    merged = layers.concatenate([t, b, tags])
    priority = layers.Dense(1, name="priority")(merged)
    department = layers.Dense(3, name="department")(merged)
    return keras.Model([title, body, tags], {"priority": priority, "department": department})


def tickets():
    ids, spam = sentences()
    rng = np.random.default_rng(11)
    inputs = {
        "title": ids[:, :5],
        "body": ids,
        "tags": rng.integers(0, 2, (len(ids), 4)).astype("float32"),
    }
    targets = {"priority": spam[:, None], "department": np.eye(3)[ids[:, 0] % 3]}
    return inputs, targets


@by_fit(differs={"tensorflow": ("*_loss",)})
def tickets_with_losses_by_name(by):
    inputs, targets = tickets()
    model = ticket_router()
    model.compile(
        optimizer=keras.optimizers.RMSprop(1e-3),
        loss={
            "priority": keras.losses.BinaryCrossentropy(from_logits=True),
            "department": keras.losses.CategoricalCrossentropy(from_logits=True),
        },
        loss_weights={"priority": 1.0, "department": 0.2},
    )
    by.fit(model, inputs, targets, epochs=2, batch_size=32)
    by.evaluate(model, inputs, targets, batch_size=64)
    by.predict(model, {k: v[:9] for k, v in inputs.items()})


@by_fit
def tickets_with_metrics_by_name_and_validation_data(by):
    inputs, targets = tickets()
    head = {k: v[:150] for k, v in inputs.items()}, {k: v[:150] for k, v in targets.items()}
    tail = {k: v[150:] for k, v in inputs.items()}, {k: v[150:] for k, v in targets.items()}
    model = ticket_router()
    model.compile(
        "adam",
        loss={"priority": "mse", "department": keras.losses.CategoricalCrossentropy(True)},
        metrics={"department": ["accuracy", keras.metrics.TopKCategoricalAccuracy(2)]},
        weighted_metrics={"priority": "mae"},
    )
    by.fit(model, *head, epochs=2, batch_size=30, validation_data=tail, validation_batch_size=25)


@by_fit
def tickets_with_sample_weights_by_name(by):
    inputs, targets = tickets()
    model = ticket_router()
    model.compile(
        "sgd",
        loss={"priority": "mse", "department": keras.losses.CategoricalCrossentropy(True)},
        weighted_metrics={"department": ["accuracy"], "priority": ["mae"]},
    )
    weights = {
        "priority": np.linspace(0.5, 2, 200),
        "department": np.where(targets["priority"][:, 0] > 0, 3.0, 1.0),
    }
    by.fit(model, inputs, targets, sample_weight=weights, epochs=2, batch_size=40)


@by_fit(differs={"tensorflow": ("*_loss",)})
def two_inputs_two_outputs_as_lists(by):
    img, label = digits(200)
    series = img[:, :, 0, :]
    image_input = keras.Input(shape=(8, 8, 1), name="img_input")
    ts_input = keras.Input(shape=(None, 1), name="ts_input")
    x1 = layers.Conv2D(3, 3)(image_input)
    x1 = layers.GlobalMaxPooling2D()(x1)
    x2 = layers.Conv1D(3, 3)(ts_input)
    x2 = layers.GlobalMaxPooling1D()(x2)
    x = layers.concatenate([x1, x2])
    score = layers.Dense(1, name="score_output")(x)
    cls = layers.Dense(10, name="class_output")(x)
    model = keras.Model(inputs=[image_input, ts_input], outputs=[score, cls])
    model.compile(
        optimizer=keras.optimizers.RMSprop(1e-3),
        loss=[
            keras.losses.MeanSquaredError(),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        ],
        metrics=[
            [keras.metrics.MeanAbsolutePercentageError(), keras.metrics.MeanAbsoluteError()],
            ["sparse_categorical_accuracy"],
        ],
        loss_weights=[2.0, 1.0],
    )
    by.fit(model, [img, series], [label / 10.0 + 0.1, label], batch_size=32, epochs=2)
    by.evaluate(model, [img, series], [label / 10.0 + 0.1, label])
    by.predict(model, [img[:33], series[:33]])


@by_fit
def only_one_of_two_outputs_has_a_loss(by):
    x, y = wine()
    inp = keras.Input((13,))
    h = layers.Dense(7, activation="gelu", name="hidden")(inp)
    out = layers.Dense(3, activation="softmax", name="probs")(h)
    model = keras.Model(inp, [out, h])
    model.compile(optimizer="adam", loss=["sparse_categorical_crossentropy", None])
    by.fit(model, x, [y, np.zeros((len(y), 7))], epochs=2)


@by_fit(differs={"tensorflow": ("*_loss",)})
def one_loss_for_a_list_of_outputs(by):
    x, y = diabetes()
    inputs = keras.Input((10,))
    trunk = layers.Dense(8, "tanh")(inputs)
    outs = [layers.Dense(1, name=f"head_{i}")(trunk) for i in range(3)]
    model = keras.Model(inputs, outs)
    model.compile("sgd", loss=["mse"] * 3, metrics=[["mae"], ["mse"], []])
    by.fit(model, x, [y, y**2, np.abs(y)], batch_size=64, epochs=2, validation_split=0.25)
    by.predict(model, x[:50], batch_size=20)


@by_fit(draws="torch")
def toy_resnet(by):
    x, y = digits(192)
    inputs = keras.Input(shape=(8, 8, 1), name="img")
    z = layers.Conv2D(4, 3, activation="relu", padding="same")(inputs)
    block_1 = layers.MaxPooling2D(2)(z)
    z = layers.Conv2D(4, 3, activation="relu", padding="same")(block_1)
    z = layers.BatchNormalization()(z)
    block_2 = layers.add([z, block_1])
    z = layers.Conv2D(4, 3, activation="relu", padding="same")(block_2)
    block_3 = layers.add([z, block_2])
    z = layers.GlobalAveragePooling2D()(block_3)
    z = layers.Dropout(0.5)(z)
    model = keras.Model(inputs, layers.Dense(10)(z), name="toy_resnet")
    model.compile(
        optimizer=keras.optimizers.RMSprop(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["acc"],
    )
    by.fit(model, x[:160], y[:160], batch_size=32, epochs=2, validation_data=(x[160:], y[160:]))
    by.evaluate(model, x, y, batch_size=64)


@by_fit
def ensemble_of_three_models(by):
    x, y = diabetes()

    def get_model():
        inp = keras.Input(shape=(10,))
        return keras.Model(inp, layers.Dense(1)(inp))

    members = [get_model() for _ in range(3)]
    inputs = keras.Input(shape=(10,))
    outputs = layers.average([m(inputs) for m in members])
    ensemble = keras.Model(inputs=inputs, outputs=outputs)
    ensemble.compile(keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True), "mean_squared_error")
    by.fit(ensemble, x, y, epochs=2, batch_size=64)
    by.predict(members[1], x[:5])


@by_fit
def shared_embedding(by):
    ids, y = sentences()
    shared = layers.Embedding(50, 8, mask_zero=True)
    a, b = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    pool = layers.GlobalAveragePooling1D()
    left, right = pool(shared(a)), pool(shared(b))
    out = layers.Dense(1, activation="sigmoid")(layers.Concatenate()([left, right, left * right]))
    model = keras.Model([a, b], out)
    model.compile("nadam", "binary_crossentropy", metrics=["accuracy", keras.metrics.AUC()])
    by.fit(model, (ids[:, :6], ids[:, 1:8]), y, batch_size=32, epochs=2)


@by_fit
def layers_of_a_trained_model_as_features(by):
    x, y = digits(128)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Conv2D(4, 3, activation="relu", name="mid"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(10),
        ]
    )
    base.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(base, x, y, epochs=1)
    extractor = keras.Model(base.inputs, [base.get_layer("mid").output, base.layers[-1].output])
    by.predict(extractor, x[:20], batch_size=8)


# Subclassing.


class Sampling(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        z_mean, z_log_var = inputs
        eps = keras.random.normal(shape=ops.shape(z_mean), seed=self.seed_generator)
        return z_mean + ops.exp(0.5 * z_log_var) * eps


class Encoder(layers.Layer):
    def __init__(self, latent_dim=3, intermediate_dim=16, name="encoder", **kwargs):
        super().__init__(name=name, **kwargs)
        self.dense_proj = layers.Dense(intermediate_dim, activation="relu")
        self.dense_mean = layers.Dense(latent_dim)
        self.dense_log_var = layers.Dense(latent_dim)
        self.sampling = Sampling()

    def call(self, inputs):
        x = self.dense_proj(inputs)
        mean, log_var = self.dense_mean(x), self.dense_log_var(x)
        return mean, log_var, self.sampling((mean, log_var))


class Decoder(layers.Layer):
    def __init__(self, original_dim, intermediate_dim=16, name="decoder", **kwargs):
        super().__init__(name=name, **kwargs)
        self.dense_proj = layers.Dense(intermediate_dim, activation="relu")
        self.dense_output = layers.Dense(original_dim, activation="sigmoid")

    def call(self, inputs):
        return self.dense_output(self.dense_proj(inputs))


class VariationalAutoEncoder(keras.Model):
    def __init__(self, original_dim, name="autoencoder", **kwargs):
        super().__init__(name=name, **kwargs)
        self.encoder = Encoder()
        self.decoder = Decoder(original_dim)

    def call(self, inputs):
        z_mean, z_log_var, z = self.encoder(inputs)
        reconstructed = self.decoder(z)
        kl = -0.5 * ops.mean(z_log_var - ops.square(z_mean) - ops.exp(z_log_var) + 1)
        self.add_loss(kl)
        return reconstructed


@by_fit
def variational_autoencoder_with_add_loss(by):
    x = digits(256)[0].reshape(-1, 64)
    vae = VariationalAutoEncoder(64)
    vae.compile(keras.optimizers.Adam(learning_rate=1e-3), loss=keras.losses.MeanSquaredError())
    by.fit(vae, x, x, epochs=2, batch_size=64)
    by.predict(vae, x[:10])


class MLPBlock(layers.Layer):
    def __init__(self):
        super().__init__()
        self.stack = [layers.Dense(8, kernel_regularizer="l2"), layers.Dense(4), layers.Dense(1)]

    def call(self, inputs, training=None):
        x = inputs
        for layer in self.stack[:-1]:
            x = keras.activations.relu(layer(x), negative_slope=0.1 if training else 0.0)
        return self.stack[-1](x)


class NestedAndNamed(keras.Model):
    def __init__(self):
        super().__init__()
        self.towers = {
            "narrow": MLPBlock(),
            "wide": keras.Sequential([layers.Dense(6), MLPBlock()]),
        }
        self.mix = self.add_weight(shape=(), initializer=keras.initializers.Constant(0.3))

    def call(self, inputs, training=False):
        parts = {k: tower(inputs, training=training) for k, tower in self.towers.items()}
        return self.mix * parts["narrow"] + (1 - self.mix) * parts["wide"]


@by_fit
def subclass_with_nested_towers_and_training_argument(by):
    x, y = diabetes()
    model = NestedAndNamed()
    model.compile("adamw", loss="huber", metrics=["root_mean_squared_error"])
    by.fit(model, x, y[:, None], batch_size=64, epochs=2, validation_split=0.3)
    by.evaluate(model, x, y[:, None])
    by.predict(model, x[:3])


class DictInDictOut(keras.Model):
    def __init__(self, width, **kw):
        super().__init__(**kw)
        self.reg = layers.Dense(1)
        self.cls = layers.Dense(3, activation="softmax")
        self.body = layers.Dense(width, activation="swish")

    def call(self, batch):
        h = self.body(ops.concatenate([batch["chem"], batch["color"]], axis=-1))
        return {"alcohol": self.reg(h), "cultivar": self.cls(h)}


@by_fit(differs={"tensorflow": ("*_loss",)})
def subclass_of_dicts(by):
    x, y = wine()
    feats = {"color": x[:, 9:11], "chem": x[:, 1:9]}
    goals = {"cultivar": y, "alcohol": x[:, 0]}
    model = DictInDictOut(width=6, name="winery")
    model.compile(
        keras.optimizers.Adagrad(0.05),
        loss={"cultivar": "sparse_categorical_crossentropy", "alcohol": "mae"},
        metrics={"cultivar": ["accuracy"], "alcohol": ["mse"]},
    )
    by.fit(model, feats, goals, batch_size=32, epochs=2, validation_split=0.2)
    by.predict(model, feats, batch_size=100)
    by.evaluate(model, feats, goals)


class ResidualUnit(keras.Model):
    def __init__(self, filters):
        super().__init__()
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.bn = layers.BatchNormalization(momentum=0.8)
        self.act = layers.PReLU(shared_axes=[1, 2])

    def call(self, x, training=None):
        return x + self.act(self.bn(self.conv(x), training=training))


class StackOfModels(keras.Model):
    def __init__(self, depth=2):
        super().__init__()
        self.stem = layers.Conv2D(4, 2, strides=2)
        self.blocks = [ResidualUnit(4) for _ in range(depth)]
        self.head = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(10)])

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(x)


@by_fit
def models_within_models(by):
    x, y = digits(160)
    model = StackOfModels()
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, name="xent"),
        metrics=[keras.metrics.SparseTopKCategoricalAccuracy(k=3, name="top3")],
    )
    by.fit(model, x, y, batch_size=32, epochs=2, validation_data=(x[:40], y[:40]))
    by.evaluate(model, x, y)


# Customizing what happens in fit().


class GradientTapeModel(keras.Model):
    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


@by_fit(only="tensorflow")
def train_step_with_gradient_tape(by):
    rng = np.random.default_rng(0)
    inputs = keras.Input(shape=(32,))
    model = GradientTapeModel(inputs, layers.Dense(1)(inputs))
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    by.fit(model, rng.random((200, 32)), rng.random((200, 1)), epochs=3)


class StatelessModel(keras.Model):
    def compute_loss_and_updates(self, tvars, ntvars, x, y, training=False):
        y_pred, ntvars = self.stateless_call(tvars, ntvars, x, training=training)
        return self.compute_loss(x, y, y_pred), (y_pred, ntvars)

    def train_step(self, state, data):
        import jax

        tvars, ntvars, ovars, mvars = state
        x, y = data
        grad_fn = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        (loss, (y_pred, ntvars)), grads = grad_fn(tvars, ntvars, x, y, training=True)
        tvars, ovars = self.optimizer.stateless_apply(ovars, grads, tvars)
        new_mvars, logs = [], {}
        for metric in self.metrics:
            mine = mvars[len(new_mvars) : len(new_mvars) + len(metric.variables)]
            if metric.name == "loss":
                mine = metric.stateless_update_state(mine, loss)
            else:
                mine = metric.stateless_update_state(mine, y, y_pred)
            logs[metric.name] = metric.stateless_result(mine)
            new_mvars += mine
        return logs, (tvars, ntvars, ovars, new_mvars)


@by_fit(only="jax")
def train_step_with_value_and_grad(by):
    rng = np.random.default_rng(0)
    inputs = keras.Input(shape=(32,))
    h = layers.BatchNormalization()(inputs)
    model = StatelessModel(inputs, layers.Dense(1)(h))
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    by.fit(model, rng.random((200, 32)), rng.random((200, 1)), epochs=3)
    by.predict(model, rng.random((10, 32)))


class BackwardModel(keras.Model):
    def train_step(self, data):
        import torch

        x, y = data
        self.zero_grad()
        y_pred = self(x, training=True)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        loss.backward()
        trainable_weights = list(self.trainable_weights)
        gradients = [v.value.grad for v in trainable_weights]
        with torch.no_grad():
            self.optimizer.apply(gradients, trainable_weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


@by_fit(only="torch")
def train_step_with_backward(by):
    rng = np.random.default_rng(0)
    inputs = keras.Input(shape=(32,))
    model = BackwardModel(inputs, layers.Dense(1)(inputs))
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    by.fit(model, rng.random((200, 32)), rng.random((200, 1)), epochs=3)


class LossTrackerModel(keras.Model):
    """Goes lower: it computes its loss itself and is compiled without one."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.mae_metric = keras.metrics.MeanAbsoluteError(name="mae")
        self.loss_fn = keras.losses.MeanSquaredError()

    @property
    def metrics(self):
        return [self.loss_tracker, self.mae_metric]


class LossTrackerTape(LossTrackerModel):
    def train_step(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.loss_fn(y, y_pred)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        self.loss_tracker.update_state(loss)
        self.mae_metric.update_state(y, y_pred)
        return {"loss": self.loss_tracker.result(), "mae": self.mae_metric.result()}


@by_fit(only="tensorflow")
def loss_tracker_tape(by):
    x, y = diabetes()
    inputs = keras.Input(shape=(10,))
    model = LossTrackerTape(inputs, layers.Dense(1)(inputs))
    model.compile(optimizer="adam")
    by.fit(model, x, y[:, None], epochs=3, batch_size=64)


class LossTrackerStateless(LossTrackerModel):
    def loss_and_updates(self, tv, ntv, x, y):
        y_pred, ntv = self.stateless_call(tv, ntv, x, training=True)
        return self.loss_fn(y, y_pred), (y_pred, ntv)

    def train_step(self, state, data):
        import jax

        tv, ntv, ov, mv = state
        x, y = data
        (loss, (y_pred, ntv)), grads = jax.value_and_grad(self.loss_and_updates, has_aux=True)(
            tv, ntv, x, y
        )
        tv, ov = self.optimizer.stateless_apply(ov, grads, tv)
        k = len(self.loss_tracker.variables)
        loss_vars = self.loss_tracker.stateless_update_state(mv[:k], loss)
        mae_vars = self.mae_metric.stateless_update_state(mv[k:], y, y_pred)
        logs = {
            self.loss_tracker.name: self.loss_tracker.stateless_result(loss_vars),
            self.mae_metric.name: self.mae_metric.stateless_result(mae_vars),
        }
        return logs, (tv, ntv, ov, loss_vars + mae_vars)


@by_fit(only="jax")
def loss_tracker_stateless(by):
    x, y = diabetes()
    inputs = keras.Input(shape=(10,))
    model = LossTrackerStateless(inputs, layers.Dense(1)(layers.Dropout(0.1)(inputs)))
    model.compile(optimizer="adam")
    by.fit(model, x, y[:, None], epochs=3, batch_size=64)


class LossTrackerBackward(LossTrackerModel):
    def train_step(self, data):
        import torch

        x, y = data
        self.zero_grad()
        y_pred = self(x, training=True)
        loss = self.loss_fn(y, y_pred)
        loss.backward()
        with torch.no_grad():
            self.optimizer.apply(
                [v.value.grad for v in self.trainable_weights], self.trainable_weights
            )
        self.loss_tracker.update_state(loss)
        self.mae_metric.update_state(y, y_pred)
        return {"loss": self.loss_tracker.result(), "mae": self.mae_metric.result()}


@by_fit(only="torch")
def loss_tracker_backward(by):
    x, y = diabetes()
    inputs = keras.Input(shape=(10,))
    model = LossTrackerBackward(inputs, layers.Dense(1)(inputs))
    model.compile(optimizer="adam")
    by.fit(model, x, y[:, None], epochs=3, batch_size=64)


class WeightedTape(keras.Model):
    """Takes sample weights where they are given, and measures by a test_step of its own."""

    def train_step(self, data):
        import tensorflow as tf

        if len(data) == 3:
            x, y, sample_weight = data
        else:
            sample_weight = None
            x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)
        grads = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(grads, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=sample_weight)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        x, y = data[0], data[1]
        y_pred = self(x, training=False)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        for metric in self.metrics:
            if metric.name != "loss":
                metric.update_state(y, y_pred)
            else:
                metric.update_state(loss)
        return {m.name: m.result() for m in self.metrics}


@by_fit(only="tensorflow")
def train_step_and_test_step_with_sample_weights(by):
    x, y = cancer()
    w = np.where(y > 0, 0.7, 1.6)
    inputs = keras.Input(shape=(30,))
    model = WeightedTape(inputs, layers.Dense(1, activation="sigmoid")(inputs))
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y[:, None], sample_weight=w, epochs=2, batch_size=96)
    by.evaluate(model, x, y[:, None])


class OnlyTestStepJax(keras.Model):
    def test_step(self, state, data):
        x, y = data
        tvars, ntvars, mvars = state
        y_pred, ntvars = self.stateless_call(tvars, ntvars, x, training=False)
        loss = self.compute_loss(x, y, y_pred)
        new_mvars = []
        for metric in self.metrics:
            now = mvars[len(new_mvars) : len(new_mvars) + len(metric.variables)]
            args = (loss,) if metric.name == "loss" else (y, y_pred)
            new_mvars += metric.stateless_update_state(now, *args)
        logs = {"half_loss": loss / 2}
        return logs, (tvars, ntvars, new_mvars)


@by_fit(only="jax", differs=("half_loss",))
def test_step_only(by):
    x, y = diabetes()
    inputs = keras.Input(shape=(10,))
    model = OnlyTestStepJax(inputs, layers.Dense(1)(inputs))
    model.compile(loss="mse", metrics=["mae"])
    by.fit(model, x, y[:, None], epochs=1, batch_size=64)
    by.evaluate(model, x, y[:, None], batch_size=64)


class TinyGAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator = discriminator
        self.generator = generator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.g_loss_tracker = keras.metrics.Mean(name="g_loss")
        self.built = True

    @property
    def metrics(self):
        return [self.d_loss_tracker, self.g_loss_tracker]

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer = d_optimizer
        self.g_optimizer = g_optimizer
        self.loss_fn = loss_fn


class TinyGANTape(TinyGAN):
    def train_step(self, real_images):
        import tensorflow as tf

        if isinstance(real_images, tuple):
            real_images = real_images[0]
        batch_size = tf.shape(real_images)[0]
        noise = keras.random.normal((batch_size, self.latent_dim), seed=self.seed_generator)
        fakes = self.generator(noise)
        images = tf.concat([fakes, real_images], axis=0)
        labels = tf.concat([tf.ones((batch_size, 1)), tf.zeros((batch_size, 1))], axis=0)
        with tf.GradientTape() as tape:
            predictions = self.discriminator(images)
            d_loss = self.loss_fn(labels, predictions)
        grads = tape.gradient(d_loss, self.discriminator.trainable_weights)
        self.d_optimizer.apply(grads, self.discriminator.trainable_weights)

        noise = keras.random.normal((batch_size, self.latent_dim), seed=self.seed_generator)
        with tf.GradientTape() as tape:
            predictions = self.discriminator(self.generator(noise))
            g_loss = self.loss_fn(tf.zeros((batch_size, 1)), predictions)
        grads = tape.gradient(g_loss, self.generator.trainable_weights)
        self.g_optimizer.apply(grads, self.generator.trainable_weights)
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {"d_loss": self.d_loss_tracker.result(), "g_loss": self.g_loss_tracker.result()}


class TinyGANBackward(TinyGAN):
    def train_step(self, real_images):
        import torch

        if isinstance(real_images, tuple | list):
            real_images = real_images[0]
        n = real_images.shape[0]
        noise = keras.random.normal((n, self.latent_dim), seed=self.seed_generator)
        images = ops.concatenate([self.generator(noise).detach(), real_images], axis=0)
        labels = ops.concatenate([ops.ones((n, 1)), ops.zeros((n, 1))], axis=0)
        self.zero_grad()
        d_loss = self.loss_fn(labels, self.discriminator(images))
        d_loss.backward()
        with torch.no_grad():
            self.d_optimizer.apply(
                [v.value.grad for v in self.discriminator.trainable_weights],
                self.discriminator.trainable_weights,
            )
        noise = keras.random.normal((n, self.latent_dim), seed=self.seed_generator)
        self.zero_grad()
        g_loss = self.loss_fn(ops.zeros((n, 1)), self.discriminator(self.generator(noise)))
        g_loss.backward()
        with torch.no_grad():
            self.g_optimizer.apply(
                [v.value.grad for v in self.generator.trainable_weights],
                self.generator.trainable_weights,
            )
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {"d_loss": self.d_loss_tracker.result(), "g_loss": self.g_loss_tracker.result()}


@by_fit(only=("tensorflow", "torch"))
def gan_with_two_optimizers(by):
    x, _ = digits(128)
    discriminator = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.GlobalMaxPooling2D(),
            layers.Dense(1),
        ],
        name="discriminator",
    )
    generator = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(2 * 2 * 4),
            layers.Reshape((2, 2, 4)),
            layers.Conv2DTranspose(4, 4, strides=2, padding="same"),
            layers.LeakyReLU(negative_slope=0.2),
            layers.Conv2DTranspose(1, 4, strides=2, padding="same", activation="sigmoid"),
        ],
        name="generator",
    )
    kind = TinyGANTape if keras.backend.backend() == "tensorflow" else TinyGANBackward
    gan = kind(discriminator=discriminator, generator=generator, latent_dim=5)
    gan.compile(
        d_optimizer=keras.optimizers.Adam(learning_rate=0.0003),
        g_optimizer=keras.optimizers.Adam(learning_rate=0.0003),
        loss_fn=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    by.fit(gan, x, epochs=2, batch_size=32)
    return {"generated": gan.generator(np.ones((2, 5), "float32"))}


# Transfer learning.


@by_fit
def transfer_freeze_then_fine_tune(by):
    x, y = digits(160)
    base_model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
        ],
        name="base",
    )
    base_model.trainable = False
    inputs = keras.Input(shape=(8, 8, 1))
    h = layers.Rescaling(scale=2.0, offset=-1)(inputs)
    h = base_model(h, training=False)
    outputs = layers.Dense(1)(layers.Dropout(0.2, seed=5)(h))
    model = keras.Model(inputs, outputs)
    model.compile(
        keras.optimizers.Adam(),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy()],
    )
    is_even = (y % 2 == 0).astype("float32")
    by.fit(model, x, is_even, epochs=1, batch_size=32)
    base_model.trainable = True
    model.compile(
        keras.optimizers.Adam(1e-5),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy()],
    )
    by.fit(model, x, is_even, epochs=1, batch_size=32)
    by.evaluate(model, x, is_even)


@by_fit
def fine_tune_all_but_batch_normalization(by):
    x, y = cancer()
    trunk = keras.Sequential(
        [layers.Dense(8), layers.BatchNormalization(), layers.Activation("relu"), layers.Dense(4)]
    )
    model = keras.Sequential([keras.Input((30,)), trunk, layers.Dense(1, activation="sigmoid")])
    for layer in trunk.layers[:-1]:
        layer.trainable = False
    model.compile("rmsprop", "binary_crossentropy")
    by.fit(model, x, y, epochs=1, batch_size=100)
    for layer in trunk.layers:
        if not isinstance(layer, layers.BatchNormalization):
            layer.trainable = True
    model.compile(keras.optimizers.RMSprop(1e-4), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, epochs=2, initial_epoch=1, batch_size=100, validation_split=0.1)


# Sequences.


@by_fit
def masked_timeseries(by):
    x, y = waves()
    x = x.copy()
    x[::3, 14:] = -10.0
    model = keras.Sequential(
        [
            keras.Input((20, 1)),
            layers.Masking(mask_value=-10.0),
            layers.GRU(6, return_sequences=True),
            layers.SimpleRNN(4),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", metrics=["mae"])
    by.fit(model, x, y, epochs=2, batch_size=24)
    by.evaluate(model, x, y, batch_size=60)


class TemporalSoftmax(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        e = ops.exp(inputs)
        if mask is not None:
            e = e * ops.cast(ops.expand_dims(mask, -1), "float32")
        return e / (ops.sum(e, axis=1, keepdims=True) + 1e-9)


@by_fit
def custom_layer_that_reads_the_mask(by):
    ids, y = sentences()
    inputs = keras.Input(shape=(None,), dtype="int32")
    emb = layers.Embedding(50, 6, mask_zero=True)(inputs)
    scores = TemporalSoftmax()(layers.Dense(1)(emb))
    pooled = layers.Dot(axes=1)([scores, emb])
    outputs = layers.Dense(1, activation="sigmoid")(layers.Flatten()(pooled))
    model = keras.Model(inputs, layers.Reshape((1,))(outputs))
    model.compile("adam", "binary_crossentropy", metrics=["binary_accuracy"])
    by.fit(model, ids, y, epochs=2, batch_size=50)
    by.predict(model, ids[:17])


@by_fit
def tagger_whose_mask_reaches_the_loss(by):
    ids, _ = sentences()
    tags = ids % 4
    model = keras.Sequential(
        [
            layers.Embedding(50, 8, mask_zero=True),
            layers.Dense(8, activation="relu"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, ids, tags, epochs=2, batch_size=48)
    by.evaluate(model, ids, tags, batch_size=48)


class MinimalCell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units), initializer="orthogonal", name="recurrent_kernel"
        )

    def call(self, inputs, states):
        out = ops.tanh(inputs @ self.kernel + states[0] @ self.recurrent_kernel)
        return out, [out]


@by_fit
def rnn_of_own_cells(by):
    x, y = waves(96, 8)
    model = keras.Sequential(
        [keras.Input((8, 1)), layers.RNN([MinimalCell(4), layers.GRUCell(3)]), layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    by.fit(model, x, y, epochs=2, batch_size=24)
    by.predict(model, x)


@by_fit(differs={"jax": ("*",)})
def stateful_rnn_by_batches_of_one_size(by):
    x, y = waves(64, 8)
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(16, 8, 1)),
            layers.SimpleRNN(4, stateful=True),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "mae")
    by.fit(model, x, y, epochs=2, batch_size=16)


@by_fit
def seq2seq_with_teacher_forcing(by):
    ids, _ = sentences(96, 6, 20)
    onehot = np.eye(20, dtype="float32")
    encoder_input_data, decoder_target_data = onehot[ids], onehot[ids[:, ::-1]]
    decoder_input_data = np.zeros_like(decoder_target_data)
    decoder_input_data[:, 1:] = decoder_target_data[:, :-1]

    encoder_inputs = keras.Input(shape=(None, 20))
    _, state_h, state_c = layers.LSTM(8, return_state=True)(encoder_inputs)
    decoder_inputs = keras.Input(shape=(None, 20))
    decoder_lstm = layers.LSTM(8, return_sequences=True, return_state=True)
    decoder_outputs, _, _ = decoder_lstm(decoder_inputs, initial_state=[state_h, state_c])
    decoder_outputs = layers.Dense(20, activation="softmax")(decoder_outputs)
    model = keras.Model([encoder_inputs, decoder_inputs], decoder_outputs)
    model.compile("rmsprop", loss="categorical_crossentropy", metrics=["accuracy"])
    by.fit(
        model,
        [encoder_input_data, decoder_input_data],
        decoder_target_data,
        batch_size=32,
        epochs=2,
        validation_split=0.2,
    )


class TransformerBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential(
            [layers.Dense(ff_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1, self.dropout2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, inputs, training=None):
        attended = self.dropout1(self.att(inputs, inputs), training=training)
        out1 = self.layernorm1(inputs + attended)
        return self.layernorm2(out1 + self.dropout2(self.ffn(out1), training=training))


class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, maxlen, vocab_size, embed_dim):
        super().__init__()
        self.token_emb = layers.Embedding(vocab_size, embed_dim)
        self.pos_emb = layers.Embedding(maxlen, embed_dim)

    def call(self, x):
        return self.token_emb(x) + self.pos_emb(ops.arange(0, ops.shape(x)[-1]))


@by_fit(draws="torch")
def transformer_classifier(by):
    x, y = sentences()
    inputs = keras.Input(shape=(12,))
    h = TokenAndPositionEmbedding(12, 50, 8)(inputs)
    h = TransformerBlock(8, 2, 8)(h)
    h = layers.GlobalAveragePooling1D()(h)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(layers.Dropout(0.1)(h)))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, batch_size=64, epochs=2, validation_data=(x[:30], y[:30]))
    by.evaluate(model, x, y)


@by_fit
def causal_language_model(by):
    ids, _ = sentences()
    tok = keras.Input((None,), dtype="int32")
    e = layers.Embedding(50, 8)(tok)
    a = layers.MultiHeadAttention(2, 4)(e, e, use_causal_mask=True)
    logits = layers.Dense(50)(layers.LayerNormalization()(e + a))
    model = keras.Model(tok, logits)
    model.compile(
        keras.optimizers.AdamW(3e-3, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
    )
    by.fit(model, ids[:, :-1], ids[:, 1:], batch_size=64, epochs=2)


# Mixed precision.


@by_fit(only=("tensorflow", "jax"), within=1e-3)
def mixed_float16_by_layer_dtype(by):
    x, y = digits(256)
    x = x.reshape(-1, 64)
    policy = keras.DTypePolicy("mixed_float16")
    model = keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(16, "relu", dtype=policy),
            layers.Dense(16, "relu", dtype="mixed_float16"),
            layers.Dense(10, dtype=policy),
            layers.Activation("softmax", dtype="float32"),
        ]
    )
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop()),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    by.fit(model, x, y, batch_size=64, epochs=2)
    by.evaluate(model, x, y, batch_size=64)


@by_fit(within=1e-2)
def global_bfloat16_policy(by):
    x, y = cancer()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = keras.Sequential([keras.Input((30,)), layers.Dense(8, "relu"), layers.Dense(1)])
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        by.fit(model, x, y, batch_size=128, epochs=2)
    finally:
        keras.mixed_precision.set_global_policy("float32")


# Preprocessing layers with state.


@by_fit
def normalization_adapted_inside_the_model(by):
    x, y = diabetes()
    raw = x * 7 + 3
    norm = layers.Normalization(axis=-1)
    norm.adapt(raw[:300])
    model = keras.Sequential([norm, layers.Dense(6, activation="elu"), layers.Dense(1)])
    model.compile("adam", loss="mean_absolute_error", metrics=[keras.metrics.R2Score()])
    by.fit(model, raw, y[:, None], epochs=2, batch_size=70, validation_split=0.2)
    by.predict(model, raw[:5])


@by_fit(only="tensorflow")
def text_vectorization_from_raw_strings(by):
    import tensorflow as tf

    words = ["brown", "fox", "lazy", "dog", "the", "quick", "jumps"]
    rng = np.random.default_rng(4)
    texts = [" ".join(rng.choice(words, 6)) for _ in range(80)]
    labels = np.array(["fox" in t for t in texts], "float32")
    vectorize = layers.TextVectorization(max_tokens=20, output_mode="int", output_sequence_length=6)
    vectorize.adapt(texts)
    inputs = keras.Input(shape=(1,), dtype="string")
    h = layers.Embedding(20, 4)(vectorize(inputs))
    h = layers.GlobalAveragePooling1D()(h)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(h))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((tf.constant(texts)[:, None], labels)).batch(16)
    by.fit(model, data, epochs=2)
    by.predict(model, data)


@by_fit
def structured_data_from_a_dict_of_columns(by):
    rng = np.random.default_rng(9)
    n = 150
    columns = {
        "age": rng.integers(29, 78, (n, 1)),
        "thal": rng.integers(0, 4, (n, 1)),
        "chol": rng.normal(240, 50, (n, 1)).astype("float32"),
        "zone": rng.integers(0, 9, (n, 1)).astype("int64"),
    }
    target = (columns["age"] + columns["thal"] * 5 > 58).astype("float32")
    inputs = {
        "age": keras.Input((1,), name="age", dtype="int64"),
        "thal": keras.Input((1,), name="thal", dtype="int64"),
        "chol": keras.Input((1,), name="chol"),
        "zone": keras.Input((1,), name="zone", dtype="int64"),
    }
    buckets = layers.Discretization(bin_boundaries=[35.0, 45.0, 60.0], output_mode="one_hot")
    norm = layers.Normalization()
    norm.adapt(columns["chol"])
    features = layers.concatenate(
        [
            buckets(inputs["age"]),
            layers.CategoryEncoding(num_tokens=4, output_mode="one_hot")(inputs["thal"]),
            norm(inputs["chol"]),
            layers.Flatten()(layers.Embedding(9, 2)(inputs["zone"])),
        ]
    )
    h = layers.Dropout(0.5, seed=2)(layers.Dense(8, activation="relu")(features))
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid")(h))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, columns, target, batch_size=32, epochs=2, validation_split=0.2)
    by.evaluate(model, columns, target)


@by_fit
def augmentation_inside_the_model(by):
    x, y = digits(96)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.RandomFlip("horizontal", seed=1),
            layers.RandomTranslation(0.1, 0.1, seed=2),
            layers.GaussianNoise(0.05, seed=3),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    by.fit(model, x, y, epochs=2, batch_size=32)
    by.evaluate(model, x, y)


# Serialization.


@by_fit
def save_load_and_train_on(by):
    import tempfile
    from pathlib import Path

    x, y = wine()
    inputs = keras.Input((13,))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(5, "selu")(inputs)))
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    by.fit(model, x, y, epochs=1, batch_size=32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wine.keras"
        model.save(path)
        again = keras.models.load_model(path)
    by.fit(again, x, y, epochs=3, initial_epoch=1, batch_size=32)
    by.evaluate(again, x, y)
    return {"iterations": int(again.optimizer.iterations)}


@keras.saving.register_keras_serializable(package="winery")
class Scaled(layers.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="gain")

    def call(self, inputs):
        return inputs * self.gain * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@by_fit
def clone_and_from_config(by):
    x, y = wine()
    model = keras.Sequential([keras.Input((13,)), Scaled(0.5), layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    by.fit(model, x, y, epochs=1, batch_size=45)
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(twin, x, y, epochs=1, batch_size=45)
    third = keras.Sequential.from_config(twin.get_config())
    third.compile_from_config(twin.get_compile_config())
    by.fit(third, x, y, epochs=1, batch_size=45)


# What the examples train.


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.teacher = teacher
        self.student = student
        self.teacher.trainable = False

    def compile(self, optimizer, metrics, student_loss_fn, distillation_loss_fn, alpha=0.1, t=3):
        super().compile(optimizer=optimizer, metrics=metrics)
        self.student_loss_fn = student_loss_fn
        self.distillation_loss_fn = distillation_loss_fn
        self.alpha = alpha
        self.temperature = t

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, allow_empty=False):
        soft_targets = ops.softmax(self.teacher(x, training=False) / self.temperature, axis=1)
        student_loss = self.student_loss_fn(y, y_pred)
        distillation_loss = self.distillation_loss_fn(
            soft_targets, ops.softmax(y_pred / self.temperature, axis=1)
        ) * (self.temperature**2)
        return self.alpha * student_loss + (1 - self.alpha) * distillation_loss

    def call(self, x):
        return self.student(x)


@by_fit
def knowledge_distillation(by):
    x, y = digits(160)

    def network(width, name):
        return keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Flatten(),
                layers.Dense(width, "relu"),
                layers.Dense(10),
            ],
            name=name,
        )

    teacher, student = network(24, "teacher"), network(4, "student")
    xent = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    teacher.compile("adam", xent, metrics=[keras.metrics.SparseCategoricalAccuracy()])
    by.fit(teacher, x, y, epochs=2, batch_size=32)
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile(
        optimizer=keras.optimizers.Adam(),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
        student_loss_fn=xent,
        distillation_loss_fn=keras.losses.KLDivergence(),
        alpha=0.1,
        t=10,
    )
    by.fit(distiller, x, y, epochs=2, batch_size=32)
    by.evaluate(distiller, x, y)


def contrastive(margin=1):
    def contrastive_loss(y_true, y_pred):
        near = ops.square(y_pred)
        far = ops.square(ops.maximum(margin - y_pred, 0))
        return ops.mean((1 - y_true) * near + y_true * far)

    return contrastive_loss


@by_fit
def siamese_with_shared_tower(by):
    x, y = digits(200)
    other = np.roll(np.arange(200), 7)
    differ = (y != y[other]).astype("float32")[:, None]
    inp = keras.Input((8, 8, 1))
    h = layers.BatchNormalization()(inp)
    h = layers.AveragePooling2D((2, 2))(layers.Conv2D(4, (3, 3), activation="tanh")(h))
    tower = keras.Model(inp, layers.Dense(5, activation="tanh")(layers.Flatten()(h)))
    a, b = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    distance = layers.Lambda(
        lambda t: ops.sqrt(
            ops.maximum(ops.sum(ops.square(t[0] - t[1]), axis=1, keepdims=True), 1e-7)
        ),
        output_shape=(1,),
    )([tower(a), tower(b)])
    out = layers.Dense(1, activation="sigmoid")(layers.BatchNormalization()(distance))
    siamese = keras.Model(inputs=[a, b], outputs=out)
    siamese.compile(loss=contrastive(margin=1), optimizer="RMSprop", metrics=["accuracy"])
    by.fit(siamese, [x, x[other]], differ, batch_size=32, epochs=2)
    by.evaluate(siamese, [x, x[other]], differ)


class SimCLRish(keras.Model):
    """Contrasts two views of each picture; nobody gives it a target."""

    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature
        self.view = keras.Sequential([layers.GaussianNoise(0.2, seed=1), layers.RandomFlip(seed=2)])
        self.encoder = keras.Sequential(
            [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(6)]
        )
        self.contrast_acc = keras.metrics.SparseCategoricalAccuracy(name="c_acc")

    def call(self, images, training=None):
        one = self.encoder(self.view(images, training=training))
        two = self.encoder(self.view(images, training=training))
        return ops.normalize(one, axis=1), ops.normalize(two, axis=1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        one, two = y_pred
        similarities = one @ ops.transpose(two) / self.temperature
        labels = ops.arange(ops.shape(one)[0])
        self.contrast_acc.update_state(labels, similarities)
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(labels, similarities, from_logits=True)
        )


@by_fit
def self_supervised_contrast_without_targets(by):
    x, _ = digits(128)
    model = SimCLRish()
    model.compile(optimizer="adam")
    by.fit(model, x, epochs=2, batch_size=32)


@by_fit(only=("tensorflow", "jax"))
def unet_segmentation(by):
    x, _ = digits(96)
    mask = (x[..., 0] > 0.4).astype("int32")[..., None]
    inputs = keras.Input(shape=(8, 8, 1))
    h = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(inputs)
    h = layers.Activation("relu")(layers.BatchNormalization()(h))
    previous = h
    for filters in [6]:
        h = layers.Conv2D(filters, 3, padding="same")(layers.Activation("relu")(h))
        h = layers.MaxPooling2D(3, strides=2, padding="same")(h)
        h = layers.add([h, layers.Conv2D(filters, 1, strides=2, padding="same")(previous)])
    for filters in [6, 4]:
        h = layers.Conv2DTranspose(filters, 3, padding="same")(layers.Activation("relu")(h))
        h = layers.UpSampling2D(2)(h)
    outputs = layers.Conv2D(2, 3, activation="softmax", padding="same")(h)
    model = keras.Model(inputs, outputs)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="sparse_categorical_crossentropy")
    by.fit(model, x, mask, epochs=2, batch_size=24, validation_data=(x[:12], mask[:12]))
    by.predict(model, x[:3])


@by_fit
def denoising_autoencoder_on_a_generator(by):
    x, _ = digits(96)

    class Noisy(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            clean = x[index * 24 : (index + 1) * 24]
            noise = np.random.default_rng(index).normal(0, 0.4, clean.shape)
            return np.clip(clean + noise, 0, 1).astype("float32"), clean

    inp = keras.Input(shape=(8, 8, 1))
    h = layers.MaxPooling2D((2, 2), padding="same")(layers.Conv2D(4, 3, padding="same")(inp))
    h = layers.Conv2DTranspose(4, (3, 3), strides=2, activation="relu", padding="same")(h)
    out = layers.Conv2D(1, (3, 3), activation="sigmoid", padding="same")(h)
    autoencoder = keras.Model(inp, out)
    autoencoder.compile(optimizer="adam", loss="binary_crossentropy")
    by.fit(autoencoder, x=Noisy(), epochs=2, validation_data=Noisy())
    by.evaluate(autoencoder, Noisy())


class DepthToSpace(layers.Layer):
    def __init__(self, block_size):
        super().__init__()
        self.block_size = block_size

    def call(self, x):
        _, h, w, c = ops.shape(x)
        r = self.block_size
        x = ops.reshape(x, (-1, h, w, r, r, c // r**2))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, h * r, w * r, c // r**2))


def psnr(y_true, y_pred):
    return -10 * ops.log10(ops.mean(ops.square(y_true - y_pred), axis=(1, 2, 3)))


@by_fit
def super_resolution(by):
    hi, _ = digits(100)
    lo = hi.reshape(100, 4, 2, 4, 2, 1).mean((2, 4))
    args = {"activation": "relu", "kernel_initializer": "orthogonal", "padding": "same"}
    inputs = keras.Input(shape=(4, 4, 1))
    x = layers.Conv2D(8, 3, **args)(inputs)
    x = layers.Conv2D(4, 3, **args)(x)
    model = keras.Model(inputs, DepthToSpace(2)(x))
    model.compile(optimizer="adam", loss="mse", metrics=[psnr])
    by.fit(model, lo, hi, epochs=2, batch_size=20, validation_data=(lo[:20], hi[:20]))


@by_fit
def metric_learning_on_anchors_and_positives(by):
    x, y = digits(300)

    def batches():
        rng = np.random.default_rng(0)
        for _ in range(5):
            pairs = [rng.choice(np.flatnonzero(y == k), 2) for k in range(10)]
            yield x[np.transpose(pairs)], np.zeros(1)

    class EmbeddingModel(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **_):
            anchors, positives = y_pred
            logits = ops.einsum("ae,pe->ap", anchors, positives) / 0.2
            labels = ops.arange(10)
            return self.loss_obj(labels, logits)

    anchor_and_positive = keras.Input(batch_shape=(2, 10, 8, 8, 1))
    net = keras.Sequential(
        [
            layers.Conv2D(4, 3, 2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    embedded = [layers.UnitNormalization()(net(anchor_and_positive[i])) for i in range(2)]
    model = EmbeddingModel(anchor_and_positive, embedded)
    model.loss_obj = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    by.fit(model, batches(), epochs=1, steps_per_epoch=5)


class GraphConv(layers.Layer):
    def __init__(self, units, adjacency, **kwargs):
        super().__init__(**kwargs)
        degree = adjacency.sum(1, keepdims=True)
        self.adjacency = ops.convert_to_tensor(adjacency / degree)
        self.update_fn = layers.Dense(units, activation="gelu")

    def call(self, nodes):
        return self.update_fn(ops.concatenate([nodes, ops.matmul(self.adjacency, nodes)], axis=-1))


@by_fit
def graph_network_over_a_fixed_adjacency(by):
    rng = np.random.default_rng(8)
    adjacency = (rng.random((9, 9)) > 0.6).astype("float32") + np.eye(9, dtype="float32")
    nodes = rng.normal(size=(60, 9, 3)).astype("float32")
    target = nodes.mean((1, 2), keepdims=False)[:, None]
    model = keras.Sequential(
        [
            GraphConv(6, adjacency),
            GraphConv(4, adjacency),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1),
        ]
    )
    model.compile("adam", "log_cosh")
    by.fit(model, nodes, target, batch_size=12, epochs=2)
    by.predict(model, nodes)


@by_fit
def timeseries_windows_from_an_array(by):
    signal = np.sin(np.arange(150) / 5).astype("float32")[:, None]
    windows = keras.utils.timeseries_dataset_from_array(
        signal[:-8], signal[8:], sequence_length=8, sequence_stride=2, batch_size=16
    )
    held_out = keras.utils.timeseries_dataset_from_array(
        signal[:-8], signal[8:], sequence_length=8, batch_size=32, start_index=100
    )
    model = keras.Sequential(
        [
            keras.Input((8, 1)),
            layers.Conv1D(4, 3, padding="causal"),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.compile("adam", loss="mse")
    by.fit(model, windows, epochs=2, validation_data=held_out)
    by.predict(model, held_out)


@by_fit
def tied_weights(by):
    x = digits(128)[0].reshape(-1, 64)

    class Tied(layers.Layer):
        def __init__(self, tied_to, **kw):
            super().__init__(**kw)
            self.tied_to = tied_to

        def build(self, input_shape):
            self.bias = self.add_weight(shape=(64,), initializer="zeros")

        def call(self, z):
            return ops.sigmoid(ops.matmul(z, ops.transpose(self.tied_to.kernel)) + self.bias)

    enc = layers.Dense(10, activation="relu")
    inp = keras.Input((64,))
    model = keras.Model(inp, Tied(enc)(enc(inp)))
    model.compile("adam", "mse")
    by.fit(model, x, x, batch_size=32, epochs=2)


@by_fit
def several_fits_that_continue(by):
    x, y = diabetes()
    model = keras.Sequential([keras.Input((10,)), layers.Dense(1)])
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.9, staircase=True)
    model.compile(keras.optimizers.SGD(schedule), "mse")
    histories = [by.fit(model, x, y, epochs=1, batch_size=64)]
    histories.append(by.fit(model, x, y, initial_epoch=1, epochs=3, batch_size=64))
    histories.append(by.fit(model, x, y, initial_epoch=3, epochs=4, batch_size=221))
    epochs = [e for h in histories for e in h.epoch]
    rate = keras.ops.convert_to_numpy(model.optimizer.learning_rate)
    return {"epochs": epochs, "rate": float(rate), "steps": int(model.optimizer.iterations)}


@by_fit
def schedules_and_callbacks_together(by):
    x, y = cancer()
    model = keras.Sequential([keras.Input((30,)), layers.Dense(1, activation="sigmoid")])
    model.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                0.0, decay_steps=12, warmup_target=0.02, warmup_steps=4, alpha=0.1
            )
        ),
        loss="binary_crossentropy",
        metrics=[keras.metrics.Precision(name="prec"), keras.metrics.Recall(thresholds=0.3)],
    )
    stopper = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
    history = by.fit(
        model, x, y, epochs=3, batch_size=96, validation_split=0.15, callbacks=[stopper]
    )
    return {"ran": len(history.epoch), "best": stopper.best}
