"""Trains an encoder with a SimCLR-like contrastive loss on the scikit-learn digits."""
# ruff: noqa: B905

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

keras.utils.set_random_seed(123)

NUM_EPOCHS = 6
BATCH_SIZE = 128
TEMPERATURE = 0.2
STEPS_PER_EPOCH = 12

digits = load_digits()
imgs = (digits.images / 16.0).astype("float32")[..., np.newaxis]
unlabeled, held_out = imgs[:1500], imgs[1500:]

pairs = tf.data.Dataset.from_tensor_slices(unlabeled).shuffle(1500, seed=8).batch(BATCH_SIZE)


def build_encoder():
    inp = keras.Input((8, 8, 1))
    h = layers.Conv2D(16, 3, padding="same", use_bias=False)(inp)
    h = layers.BatchNormalization()(h)
    h = layers.ReLU()(h)
    h = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False)(h)
    h = layers.BatchNormalization()(h)
    h = layers.ReLU()(h)
    h = layers.Flatten()(h)
    out = layers.Dense(32, activation="relu")(h)
    return keras.Model(inp, out, name="encoder")


def build_augmenter():
    return keras.Sequential(
        [
            layers.RandomTranslation(0.15, 0.15, fill_mode="constant", seed=1),
            layers.RandomZoom(0.15, fill_mode="constant", seed=2),
            layers.GaussianNoise(0.1, seed=3),
        ],
        name="augmenter",
    )


def nt_xent(z1, z2, temperature):
    z1 = tf.math.l2_normalize(z1, axis=1)
    z2 = tf.math.l2_normalize(z2, axis=1)
    sim = tf.matmul(z1, z2, transpose_b=True) / temperature
    target = tf.range(tf.shape(z1)[0])
    loss_12 = tf.nn.sparse_softmax_cross_entropy_with_logits(target, sim)
    loss_21 = tf.nn.sparse_softmax_cross_entropy_with_logits(target, tf.transpose(sim))
    return tf.reduce_mean(loss_12 + loss_21) / 2.0, sim


class SimCLR(tf.Module):
    def __init__(self, temperature, name=None):
        super().__init__(name=name)
        self.temperature = temperature
        self.augment = build_augmenter()
        self.encoder = build_encoder()
        self.head = keras.Sequential(
            [layers.Input((32,)), layers.Dense(32, activation="relu"), layers.Dense(16)]
        )
        lr = keras.optimizers.schedules.CosineDecay(5e-3, NUM_EPOCHS * STEPS_PER_EPOCH)
        self.optimizer = keras.optimizers.AdamW(lr, weight_decay=1e-4)
        self.loss_metric = keras.metrics.Mean()
        self.acc_metric = keras.metrics.SparseCategoricalAccuracy()

    @tf.function
    def step(self, images):
        v1 = self.augment(images, training=True)
        v2 = self.augment(images, training=True)
        weights = self.encoder.trainable_weights + self.head.trainable_weights
        with tf.GradientTape() as tape:
            z1 = self.head(self.encoder(v1, training=True), training=True)
            z2 = self.head(self.encoder(v2, training=True), training=True)
            loss, sim = nt_xent(z1, z2, self.temperature)
        grads = tape.gradient(loss, weights)
        grads, norm = tf.clip_by_global_norm(grads, 1.0)
        self.optimizer.apply_gradients(zip(grads, weights))

        self.loss_metric.update_state(loss)
        self.acc_metric.update_state(tf.range(tf.shape(images)[0]), sim)
        return norm


def linear_probe(encoder):
    a = encoder(unlabeled, training=False).numpy()
    b = encoder(held_out, training=False).numpy()
    probe = LogisticRegression(max_iter=500).fit(a, digits.target[:1500])
    return probe.score(b, digits.target[1500:])


simclr = SimCLR(TEMPERATURE)

if __name__ == "__main__":
    for epoch in range(NUM_EPOCHS):
        simclr.loss_metric.reset_state()
        simclr.acc_metric.reset_state()
        for batch in pairs:
            grad_norm = simclr.step(batch)
        loss, acc = simclr.loss_metric.result(), simclr.acc_metric.result()
        print(
            f"epoch {epoch} | contrastive loss {float(loss):.4f} | "
            f"pair accuracy {float(acc):.4f} | last norm {float(grad_norm):.4f}"
        )
    print(f"linear probe: {linear_probe(simclr.encoder):.4f}")
