"""Trains a teacher on the scikit-learn digits, then distills it into a small student."""
# ruff: noqa: B905

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from sklearn.datasets import load_digits

keras.utils.set_random_seed(0)

TEMPERATURE = 4.0
ALPHA = 0.3
BATCH_SIZE = 50

digits = load_digits()
order = np.random.permutation(len(digits.data))
X = (digits.data[order] / 16.0).astype(np.float32)
Y = keras.utils.to_categorical(digits.target[order], 10)
train = tf.data.Dataset.from_tensor_slices((X[:1430], Y[:1430])).shuffle(1430, seed=9)
train = train.batch(BATCH_SIZE)
val = tf.data.Dataset.from_tensor_slices((X[1430:], Y[1430:])).batch(BATCH_SIZE)

models = {
    "teacher": keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    ),
    "student": keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(12, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-4)),
            layers.Dense(10),
        ]
    ),
}

student_loss_fn = keras.losses.CategoricalCrossentropy(from_logits=True)
distillation_loss_fn = keras.losses.KLDivergence()


def make_teacher_step(model, optimizer, smoothing=0.1):
    loss_fn = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        grads = tape.gradient(loss, model.trainable_weights)
        optimizer.apply_gradients(zip(grads, model.trainable_weights))
        return loss

    return step


def make_distill_step(student, teacher, optimizer, temperature, alpha):
    teacher.trainable = False

    @tf.function(jit_compile=True)
    def step(x, y):
        soft_targets = tf.nn.softmax(teacher(x, training=False) / temperature, axis=1)

        with tf.GradientTape() as tape:
            logits = student(x, training=True)
            hard = student_loss_fn(y, logits)
            soft = distillation_loss_fn(soft_targets, tf.nn.softmax(logits / temperature, axis=1))
            soft = soft * temperature**2
            loss = alpha * hard + (1 - alpha) * soft
            loss += tf.add_n(student.losses)

        grads = tape.gradient(loss, student.trainable_weights)
        optimizer.apply_gradients(zip(grads, student.trainable_weights))
        return {"loss": loss, "hard": hard, "soft": soft}

    return step


def evaluate(model):
    acc = keras.metrics.CategoricalAccuracy()
    for x, y in val:
        acc.update_state(y, model(x, training=False))
    return float(acc.result())


def main():
    schedule = keras.optimizers.schedules.ExponentialDecay(3e-3, decay_steps=50, decay_rate=0.9)
    teacher_step = make_teacher_step(models["teacher"], keras.optimizers.Adam(schedule))
    print("Teacher")
    for epoch in range(4):
        running = keras.metrics.Mean()
        for x, y in train:
            running.update_state(teacher_step(x, y))
        acc = evaluate(models["teacher"])
        print(f"  epoch {epoch}: loss={float(running.result()):.4f} val_acc={acc:.4f}")

    distill_step = make_distill_step(
        models["student"],
        models["teacher"],
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        TEMPERATURE,
        ALPHA,
    )
    print("Student")
    for epoch in range(5):
        totals = {"loss": 0.0, "hard": 0.0, "soft": 0.0}
        n = 0
        for x, y in train:
            out = distill_step(x, y)
            for k in totals:
                totals[k] += float(out[k]) * len(x)
            n += len(x)
        text = " ".join(f"{k}={v / n:.4f}" for k, v in totals.items())
        print(f"  epoch {epoch}: {text} val_acc={evaluate(models['student']):.4f}")


if __name__ == "__main__":
    main()
