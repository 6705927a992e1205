"""Trains a GAN to draw the zeros and ones of the scikit-learn digits."""
# ruff: noqa: B905

import tensorflow as tf
from sklearn.datasets import load_digits
from tensorflow.keras import layers

tf.keras.utils.set_random_seed(2024)

NOISE_DIM = 16
BATCH = 32
EPOCHS = 10
EMA_DECAY = 0.9

X, y = load_digits(return_X_y=True)
X = (X[y < 2].reshape(-1, 8, 8, 1) / 8.0 - 1.0).astype("float32")
dataset = tf.data.Dataset.from_tensor_slices(X).shuffle(len(X), seed=0).batch(BATCH)


def make_generator():
    return tf.keras.Sequential(
        [
            layers.Input(shape=(NOISE_DIM,)),
            layers.Dense(2 * 2 * 32, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Reshape((2, 2, 32)),
            layers.Conv2DTranspose(16, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Conv2DTranspose(1, 3, strides=2, padding="same", activation="tanh"),
        ],
        name="generator",
    )


def make_discriminator():
    model = tf.keras.Sequential(name="discriminator")
    model.add(layers.Input(shape=(8, 8, 1)))
    model.add(layers.Conv2D(16, 3, strides=2, padding="same"))
    model.add(layers.LeakyReLU(negative_slope=0.2))
    model.add(layers.Dropout(0.3))
    model.add(layers.Conv2D(32, 3, strides=2, padding="same"))
    model.add(layers.LeakyReLU(negative_slope=0.2))
    model.add(layers.Flatten())
    model.add(layers.Dense(1))
    return model


G = make_generator()
D = make_discriminator()
G_ema = make_generator()
G_ema.set_weights(G.get_weights())

bce = tf.keras.losses.BinaryCrossentropy(from_logits=True)
smooth_bce = tf.keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)

g_opt = tf.keras.optimizers.Adam(2e-3, beta_1=0.5)
d_opt = tf.keras.optimizers.Adam(1e-3, beta_1=0.5)


def discriminator_loss(real_output, fake_output):
    real_loss = smooth_bce(tf.ones_like(real_output), real_output)
    fake_loss = bce(tf.zeros_like(fake_output), fake_output)
    return real_loss + fake_loss


def generator_loss(fake_output):
    return bce(tf.ones_like(fake_output), fake_output)


def update_ema():
    for averaged, current in zip(G_ema.weights, G.weights):
        averaged.assign(EMA_DECAY * averaged + (1.0 - EMA_DECAY) * current)


@tf.function
def train_step(real):
    noise = tf.random.normal([tf.shape(real)[0], NOISE_DIM])

    with tf.GradientTape() as g_tape, tf.GradientTape() as d_tape:
        fake = G(noise, training=True)

        real_output = D(real, training=True)
        fake_output = D(fake, training=True)

        g_loss = generator_loss(fake_output)
        d_loss = discriminator_loss(real_output, fake_output)

    g_grads = g_tape.gradient(g_loss, G.trainable_variables)
    d_grads = d_tape.gradient(d_loss, D.trainable_variables)

    g_opt.apply_gradients(zip(g_grads, G.trainable_variables))
    d_opt.apply_gradients(zip(d_grads, D.trainable_variables))
    update_ema()
    return g_loss, d_loss


def mean_image_error(generator, noise):
    """How far the mean of the drawn images is from the mean of the real ones."""
    drawn = tf.reduce_mean(generator(noise, training=False), axis=0)
    return tf.reduce_mean(tf.abs(drawn - X.mean(axis=0)))


if __name__ == "__main__":
    seed = tf.random.normal([64, NOISE_DIM])
    for epoch in range(EPOCHS):
        g_losses, d_losses = [], []
        for batch in dataset:
            g_loss, d_loss = train_step(batch)
            g_losses.append(g_loss)
            d_losses.append(d_loss)
        g_mean = tf.reduce_mean(g_losses).numpy()
        d_mean = tf.reduce_mean(d_losses).numpy()
        err = mean_image_error(G_ema, seed).numpy()
        print(f"epoch {epoch:2d}  G {g_mean:.4f}  D {d_mean:.4f}  mean image error {err:.4f}")
