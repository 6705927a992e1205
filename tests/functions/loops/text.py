"""Trains a GRU with attention on short made-up reviews of varying length."""
# ruff: noqa: B905

from functools import partial

import keras
import numpy as np
import tensorflow as tf

keras.utils.set_random_seed(5)

GOOD = ["good", "great", "lovely", "superb", "fine", "brilliant", "charming", "fun"]
BAD = ["bad", "awful", "dull", "poor", "boring", "weak", "terrible", "slow"]
NEUTRAL = ["the", "a", "film", "plot", "actor", "scene", "was", "and", "it", "with", "music"]
NEUTRAL += ["ending", "in", "of", "story", "camera"]


def write_review(rng):
    label = int(rng.integers(2))
    words = list(rng.choice(NEUTRAL, rng.integers(3, 14)))
    for _ in range(rng.integers(1, 4)):
        word = str(rng.choice(GOOD if label else BAD))
        at = int(rng.integers(len(words) + 1))
        if rng.random() < 0.3:  # turned around: not + the opposite
            words[at:at] = ["not", str(rng.choice(BAD if label else GOOD))]
        else:
            words.insert(at, word)
    return " ".join(words), label


rng = np.random.default_rng(17)
reviews, sentiments = zip(*(write_review(rng) for _ in range(1100)))

vocab = {w: i + 1 for i, w in enumerate(sorted({w for r in reviews for w in r.split()}))}
sequences = [[vocab[w] for w in r.split()] for r in reviews]


def gen(start, stop):
    for i in range(start, stop):
        yield sequences[i], sentiments[i]


signature = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.float32))
train_data = (
    tf.data.Dataset.from_generator(partial(gen, 0, 900), output_signature=signature)
    .shuffle(900, seed=2)
    .padded_batch(64)
)
valid_data = tf.data.Dataset.from_generator(
    partial(gen, 900, 1100), output_signature=signature
).padded_batch(64)


class AttentionPool(keras.layers.Layer):
    """Weighted mean over the words, without the padding."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape):
        self.score = self.add_weight(
            shape=(input_shape[-1], 1), initializer="glorot_uniform", name="score"
        )

    def call(self, x, mask=None):
        logits = tf.matmul(x, self.score)
        if mask is not None:
            logits += (1.0 - tf.cast(mask[..., None], x.dtype)) * -1e9
        return tf.reduce_sum(tf.nn.softmax(logits, axis=1) * x, axis=1)

    def compute_mask(self, inputs, mask=None):
        return None

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])


class TextClassifier(keras.Model):
    def __init__(self, vocab_size, dim=24):
        super().__init__()
        self.embed = keras.layers.Embedding(vocab_size, dim, mask_zero=True)
        self.gru = keras.layers.Bidirectional(keras.layers.GRU(dim, return_sequences=True))
        self.pool = AttentionPool()
        self.drop = keras.layers.Dropout(0.2)
        self.out = keras.layers.Dense(1)

    def call(self, ids, training=None):
        h = self.embed(ids)
        h = self.gru(h, training=training)
        h = self.pool(h)
        return self.out(self.drop(h, training=training))[:, 0]


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, peak, warmup):
        self.peak = peak
        self.warmup = warmup

    def __call__(self, step):
        step = tf.cast(step, tf.float32) + 1.0
        return self.peak * tf.minimum(step / self.warmup, tf.sqrt(self.warmup / step))

    def get_config(self):
        return {"peak": self.peak, "warmup": self.warmup}


def train_on_batch(ids, labels, model, optimizer, loss_fn):
    with tf.GradientTape() as tape:
        logits = model(ids, training=True)
        loss = loss_fn(labels, logits)
    grads = tape.gradient(loss, model.trainable_variables)
    grads = [tf.clip_by_norm(g, 1.0) for g in grads]
    optimizer.apply_gradients(zip(grads, model.trainable_variables))
    return loss, logits


clf = TextClassifier(len(vocab) + 1)
adam = keras.optimizers.Adam(WarmupSchedule(8e-3, 15.0))
bce = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.05)

step = tf.function(
    partial(train_on_batch, model=clf, optimizer=adam, loss_fn=bce), reduce_retracing=True
)

loss_metric = keras.metrics.Mean()
acc_metric = keras.metrics.BinaryAccuracy(threshold=0.0)
val_metric = keras.metrics.BinaryAccuracy(threshold=0.0)

if __name__ == "__main__":
    for epoch in range(4):
        for ids, labels in train_data:
            loss, logits = step(ids, labels)
            loss_metric.update_state(loss, sample_weight=tf.shape(labels)[0])
            acc_metric.update_state(labels, logits)
        for ids, labels in valid_data:
            val_metric.update_state(labels, clf(ids, training=False))

        results = [m.result().numpy().round(4) for m in (loss_metric, acc_metric, val_metric)]
        print("epoch", epoch, "loss, acc, val acc:", *results)
        for m in (loss_metric, acc_metric, val_metric):
            m.reset_state()
