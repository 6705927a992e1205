"""Trains a small U-Net to segment bright discs in noisy images."""
# ruff: noqa: B905

import numpy as np
import tensorflow as tf

keras = tf.keras
L = tf.keras.layers

keras.utils.set_random_seed(31)

SIZE = 24
BATCH = 16
N_EPOCHS = 4


def make_images(n, rng):
    yy, xx = np.mgrid[:SIZE, :SIZE]
    images = np.zeros((n, SIZE, SIZE, 1), "float32")
    masks = np.zeros((n, SIZE, SIZE, 1), "float32")
    for i in range(n):
        for _ in range(rng.integers(1, 4)):
            cy, cx = rng.uniform(4, SIZE - 4, size=2)
            r = rng.uniform(2, 5)
            masks[i, (yy - cy) ** 2 + (xx - cx) ** 2 < r**2] = 1.0
        images[i] = masks[i] * rng.uniform(0.5, 1.0)
    images += rng.normal(0, 0.4, images.shape).astype("float32")
    return images, masks


rng = np.random.default_rng(0)
train_x, train_y = make_images(300, rng)
val_x, val_y = make_images(60, rng)


def conv_block(x, filters):
    for _ in range(2):
        x = L.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = L.BatchNormalization()(x)
        x = L.Activation("relu")(x)
    return x


def unet():
    inputs = L.Input((SIZE, SIZE, 1))
    c1 = conv_block(inputs, 8)
    p1 = L.MaxPooling2D()(c1)
    c2 = conv_block(p1, 16)
    p2 = L.MaxPooling2D()(c2)
    b = L.SpatialDropout2D(0.1)(conv_block(p2, 32))
    u2 = conv_block(L.Concatenate()([L.UpSampling2D()(b), c2]), 16)
    u1 = conv_block(L.Concatenate()([L.UpSampling2D()(u2), c1]), 8)
    return keras.Model(inputs, L.Conv2D(1, 1)(u1))


net = unet()
boundaries, values = [40, 60], [5e-3, 2e-3, 5e-4]
opt = keras.optimizers.Adam(
    keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values), global_clipnorm=5.0
)

iou = keras.metrics.BinaryIoU(target_class_ids=[1], threshold=0.5)
val_iou = keras.metrics.BinaryIoU(target_class_ids=[1], threshold=0.5)

image_spec = tf.TensorSpec([None, SIZE, SIZE, 1], tf.float32)


def dice_loss(y_true, y_prob, smooth=1.0):
    axes = [1, 2, 3]
    inter = tf.reduce_sum(y_true * y_prob, axis=axes)
    union = tf.reduce_sum(y_true, axis=axes) + tf.reduce_sum(y_prob, axis=axes)
    return 1.0 - tf.reduce_mean((2.0 * inter + smooth) / (union + smooth))


def seg_loss(y_true, logits):
    bce = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=y_true, logits=logits))
    return bce + dice_loss(y_true, tf.sigmoid(logits))


@tf.function(input_signature=[image_spec, image_spec])
def train_step(images, masks):
    with tf.GradientTape() as tape:
        logits = net(images, training=True)
        loss = seg_loss(masks, logits)
    opt.apply_gradients(zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables))
    return loss, tf.sigmoid(logits)


@tf.function(input_signature=[image_spec], jit_compile=True)
def predict(images):
    return tf.sigmoid(net(images, training=False))


def batches(x, y, order):
    for start in range(0, len(x), BATCH):
        idx = order[start : start + BATCH]
        yield x[idx], y[idx]


def main():
    for epoch in range(N_EPOCHS):
        losses = []
        iou.reset_state()
        val_iou.reset_state()
        for images, masks in batches(train_x, train_y, rng.permutation(len(train_x))):
            loss, probs = train_step(images, masks)
            losses.append(loss.numpy())
            iou.update_state(masks, probs)
        for images, masks in batches(val_x, val_y, np.arange(len(val_x))):
            val_iou.update_state(masks, predict(images))
        print(
            f"[{epoch + 1}/{N_EPOCHS}] loss={np.mean(losses):.4f} "
            f"iou={iou.result().numpy():.4f} val_iou={val_iou.result().numpy():.4f}"
        )


if __name__ == "__main__":
    main()
