"""Trains two networks, side by side, to forecast the next hours of a noisy seasonal series."""
# ruff: noqa: B905

import numpy as np
import tensorflow as tf
from tensorflow import keras

keras.utils.set_random_seed(99)

PAST, FUTURE = 36, 6
EPOCHS = 3
BATCH_SIZE = 64

t = np.arange(1200, dtype="float32")
noise = np.random.normal(0.0, 0.15, size=t.shape)
series = np.sin(2 * np.pi * t / 24) + 0.5 * np.sin(2 * np.pi * t / 84) + 0.0005 * t + noise
mean, std = series[:900].mean(), series[:900].std()
series = ((series - mean) / std).astype("float32")


def windows(values, shuffle=False):
    ds = tf.data.Dataset.from_tensor_slices(values)
    ds = ds.window(PAST + FUTURE, shift=1, drop_remainder=True)
    ds = ds.flat_map(lambda w: w.batch(PAST + FUTURE))
    if shuffle:
        ds = ds.shuffle(1000, seed=4)
    ds = ds.batch(BATCH_SIZE)
    return ds.map(lambda w: (w[:, :PAST, None], w[:, PAST:]))


train_ds = windows(series[:900], shuffle=True).cache()
valid_ds = windows(series[900:])


class LastValueResidual(keras.layers.Layer):
    """Adds the last seen value to what the network says, and keeps its output small."""

    def __init__(self, penalty=1e-3):
        super().__init__()
        self.penalty = penalty

    def call(self, window, delta):
        self.add_loss(self.penalty * tf.reduce_mean(tf.square(delta)))
        return window[:, -1, :] + delta


def build_lstm():
    x = keras.Input((PAST, 1))
    h = keras.layers.LSTM(24)(x)
    h = keras.layers.Dropout(0.1)(h)
    return keras.Model(x, LastValueResidual()(x, keras.layers.Dense(FUTURE)(h)), name="lstm")


def build_conv():
    x = keras.Input((PAST, 1))
    h = keras.layers.Conv1D(16, 5, padding="causal", activation="relu")(x)
    h = keras.layers.Conv1D(
        16, 5, padding="causal", dilation_rate=4, activation="relu", kernel_regularizer="l2"
    )(h)
    h = keras.layers.Flatten()(h)
    return keras.Model(x, LastValueResidual()(x, keras.layers.Dense(FUTURE)(h)), name="conv")


nets = [build_lstm(), build_conv()]
optimizers = [
    keras.optimizers.Adam(5e-3, clipnorm=1.0, use_ema=True, ema_momentum=0.9),
    keras.optimizers.RMSprop(1e-3, clipvalue=0.5),
]
huber = keras.losses.Huber(delta=1.0)


def train_one_batch(net, opt, x, y):
    with tf.GradientTape() as tape:
        y_pred = net(x, training=True)
        data_loss = huber(y, y_pred)
        total = data_loss + tf.math.add_n(net.losses)
    variables = net.trainable_variables
    opt.apply_gradients(zip(tape.gradient(total, variables), variables))
    mae = tf.reduce_mean(tf.abs(y - y_pred))
    return {"loss": total, "data": data_loss, "mae": mae}


def validate(net):
    mae = keras.metrics.MeanAbsoluteError()
    for x, y in valid_ds:
        mae.update_state(y, net(x, training=False))
    return mae.result().numpy()


def main():
    # one compiled step per network: each has an optimizer of its own
    updates = [tf.function(train_one_batch) for _ in nets]

    for epoch in range(EPOCHS):
        sums = [{"loss": 0.0, "data": 0.0, "mae": 0.0} for _ in nets]
        seen = 0
        for x, y in train_ds:
            for i, (net, opt, update) in enumerate(zip(nets, optimizers, updates)):
                logs = update(net, opt, x, y)
                for key in sums[i]:
                    sums[i][key] += logs[key].numpy() * x.shape[0]
            seen += x.shape[0]
        print(f"epoch {epoch}")
        for net, total in zip(nets, sums):
            line = ", ".join(f"{key} {value / seen:.4f}" for key, value in total.items())
            print(f"   {net.name}: {line}, val mae {validate(net):.4f}")

    optimizers[0].finalize_variable_values(nets[0].trainable_variables)
    print(f"lstm, averaged weights: val mae {validate(nets[0]):.4f}")


if __name__ == "__main__":
    main()
