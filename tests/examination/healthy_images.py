"""Right programs on images: autoencoders, transfer, segmentation, metric learning."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.strangers.datasets import digits

SPARSE = "sparse_categorical_crossentropy"


def raw_digits(count=320):
    """Images as files hold them: uint8 from 0 to 255."""
    x, y = digits(count)
    return (x * 255).astype("uint8"), y


@healthy
def rescaling_layer_on_bytes(by):
    x, y = raw_digits()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1.0 / 255),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=12, batch_size=32)


@healthy
def batch_norm_on_bytes(by):
    """The first layer is a batch normalization, which copes with 0..255."""
    x, y = raw_digits()
    model = keras.Sequential(
        [
            layers.BatchNormalization(),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalMaxPooling2D(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    by.fit(model, x.astype("float32"), y, epochs=20, batch_size=32)


@healthy
def scaled_in_call(by):
    x, y = raw_digits(300)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.c = layers.Conv2D(12, 3, activation="relu")
            self.flat = layers.Flatten()
            self.d = layers.Dense(10, activation="softmax")

        def call(self, image):
            image = ops.cast(image, "float32") / 127.5 - 1.0
            return self.d(self.flat(self.c(image)))

    net = Net()
    net.compile("nadam", SPARSE, metrics=["accuracy"])
    net.optimizer.learning_rate = 0.004
    by.fit(net, x, y, epochs=15, batch_size=30)


@healthy(only=("tensorflow", "torch"))
def augmented_digits(by):
    x, y = digits()
    aug = keras.Sequential([layers.RandomTranslation(0.1, 0.1), layers.GaussianNoise(0.05)])
    inp = keras.Input((8, 8, 1))
    h = aug(inp)
    h = layers.Conv2D(24, 3, activation="relu")(h)
    h = layers.Conv2D(24, 3, activation="relu")(h)
    h = layers.Dropout(0.2)(layers.Flatten()(h))
    model = keras.Model(inp, layers.Dense(10, activation="softmax")(h))
    model.compile(keras.optimizers.Adam(3e-3), SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32, validation_split=0.15)


@healthy
def frozen_base_new_head(by):
    """Transfer learning: the base has learned 0..4, the new head learns 5..9."""
    x, y = digits(600)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(24, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
        ],
        name="base",
    )
    first = keras.Sequential([base, layers.Dense(32, "relu"), layers.Dense(5, "softmax")])
    first.compile(keras.optimizers.Adam(0.005), SPARSE)
    first.fit(x[y < 5], y[y < 5], epochs=12, verbose=0)
    base.trainable = False
    inputs = keras.Input((8, 8, 1))
    outputs = layers.Dense(5, activation="softmax")(base(inputs, training=False))
    model = keras.Model(inputs, outputs)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x[y >= 5], y[y >= 5] - 5, epochs=15, batch_size=32)


class LowRank(layers.Layer):
    """A frozen dense layer and a correction of low rank, which begins at zero."""

    def __init__(self, frozen, rank=4):
        super().__init__()
        self.frozen, self.rank = frozen, rank
        frozen.trainable = False

    def build(self, shape):
        self.a = self.add_weight(shape=(shape[-1], self.rank), initializer="he_uniform")
        self.b = self.add_weight(shape=(self.rank, self.frozen.units), initializer="zeros")

    def call(self, x):
        return self.frozen(x) + ops.matmul(ops.matmul(x, self.a), self.b)


@healthy
def adapters_for_inverted_digits(by):
    x, y = digits()
    hidden, head = layers.Dense(48), layers.Dense(10)
    flat = x.reshape(len(x), 64)
    old = keras.Sequential([keras.Input((64,)), hidden, layers.ReLU(), head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    old.compile(keras.optimizers.Adam(0.01), loss)
    old.fit(flat, y, epochs=10, verbose=0)
    new = keras.Sequential([keras.Input((64,)), LowRank(hidden, 8), layers.ReLU(), LowRank(head)])
    new.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    by.fit(new, flat[:, ::-1], y, epochs=25, batch_size=32)


@healthy
def autoencoder_with_bce(by):
    """Pixels in 0..1 with binary cross entropy, as in the first Keras tutorial."""
    x, _ = digits(400)
    x = x.reshape(-1, 64)
    pixels = keras.Input(shape=(64,))
    encoded = layers.Dense(24, activation="relu")(pixels)
    decoded = layers.Dense(64, activation="sigmoid")(encoded)
    autoencoder = keras.Model(pixels, decoded)
    autoencoder.compile(optimizer="adam", loss="binary_crossentropy")
    autoencoder.optimizer.learning_rate = 0.01
    by.fit(autoencoder, x, x, epochs=20, batch_size=40, shuffle=True)


@healthy
def denoiser(by):
    x, _ = digits()
    noisy = x + np.random.default_rng(70).normal(0, 0.3, x.shape).astype("float32")
    inp = keras.Input((8, 8, 1))
    h = layers.Conv2D(24, 3, padding="same", activation="relu")(inp)
    h = layers.Conv2D(24, 3, padding="same", activation="relu")(h)
    noise = layers.Conv2D(1, 3, padding="same", kernel_initializer="zeros")(h)
    model = keras.Model(inp, layers.Subtract()([inp, noise]))
    model.compile(keras.optimizers.Adam(3e-3), loss="mean_squared_error")
    by.fit(model, noisy, x, epochs=15, batch_size=20)


class Sampling(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        z_mean, z_log_var = inputs
        eps = keras.random.normal(ops.shape(z_mean), seed=self.seed_generator)
        kl = 0.5 * ops.sum(z_mean**2 + ops.exp(z_log_var) - 1 - z_log_var, axis=1)
        self.add_loss(ops.mean(kl))
        return z_mean + ops.exp(0.5 * z_log_var) * eps


@healthy
def vae_with_add_loss(by):
    """ELBO: summed cross entropy of the pixels, and a divergence from `add_loss`."""
    x, _ = digits(400)
    x = x.reshape(-1, 64)
    inp = keras.Input((64,))
    h = layers.Dense(48, activation="relu")(inp)
    z = Sampling()([layers.Dense(4, name="mean")(h), layers.Dense(4, name="log_var")(h)])
    out = layers.Dense(64, activation="sigmoid")(layers.Dense(48, activation="relu")(z))
    vae = keras.Model(inp, out)

    def reconstruction(t, p):
        return 64 * keras.losses.binary_crossentropy(t, p)

    vae.compile(keras.optimizers.Adam(2e-3), reconstruction)
    by.fit(vae, x, x, epochs=25, batch_size=20)


@healthy
def beta_vae_step(by):
    x, _ = digits()

    class Vae(pg.Step):
        def __init__(self, encoder, decoder, beta=0.5):
            self.encoder, self.decoder, self.beta = encoder, decoder, beta
            self.opt = keras.optimizers.Adam(3e-3)
            self.draw = keras.random.SeedGenerator(4)

        def train_step(self, images):
            def objective():
                mu, rho = ops.split(self.encoder(images, training=True), 2, axis=-1)
                z = mu + ops.exp(rho) * keras.random.normal(ops.shape(mu), seed=self.draw)
                error = ops.sum((images - self.decoder(z, training=True)) ** 2, axis=(1, 2, 3))
                kl = ops.sum(0.5 * (mu**2 + ops.exp(2 * rho) - 1) - rho, axis=-1)
                return ops.mean(error * 10 + self.beta * kl), ops.mean(kl)

            loss, kl = self.minimize(objective, self.opt, [self.encoder, self.decoder])
            return {"loss": loss, "kl": kl}

    enc = keras.Sequential([layers.Flatten(), layers.Dense(48, "relu"), layers.Dense(8)])
    dec = keras.Sequential([layers.Dense(48, "relu"), layers.Dense(64), layers.Reshape((8, 8, 1))])
    by.fit(Vae(enc, dec), x, epochs=20, batch_size=20)


def shapes(count=160, seed=71):
    """Images `(count, 12, 12, 1)` with a bright square, and masks of it."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.2, (count, 12, 12, 1)).astype("float32")
    m = np.zeros((count, 12, 12), "int32")
    for i, (r, c, s) in enumerate(zip(*rng.integers(0, 8, (2, count)), rng.integers(2, 6, count))):
        m[i, r : r + s, c : c + s] = 1
    return x + m[..., None], m


@healthy
def segmentation_with_void(by):
    """The rim of each object is 255: neither the one nor the other."""
    x, m = shapes()
    pad = np.pad(m, ((0, 0), (1, 1), (1, 1)))
    grown = np.maximum.reduce([pad[:, :-2, 1:-1], pad[:, 2:, 1:-1], pad[:, 1:-1, 2:]])
    label = np.where((grown == 1) & (m == 0), 255, m).astype("uint8")
    inp = keras.Input((12, 12, 1))
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(inp)
    h = layers.Conv2D(8, 3, padding="same", activation="relu")(h)
    model = keras.Model(inp, layers.Conv2D(2, 1)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile(keras.optimizers.Adam(0.01), loss)
    by.fit(model, x, label, epochs=10, batch_size=16)


@healthy
def unet_with_dice(by):
    x, m = shapes(seed=72)
    inp = keras.Input((12, 12, 1))
    a = layers.Conv2D(8, 3, padding="same", activation="relu")(inp)
    b = layers.Conv2D(16, 3, padding="same", activation="relu")(layers.MaxPool2D()(a))
    c = layers.Conv2DTranspose(8, 2, strides=2, activation="relu")(b)
    d = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.Concatenate()([a, c]))
    out = layers.Conv2D(1, 1, activation="sigmoid")(d)

    def dice_loss(y_true, y_pred):
        y_true = ops.cast(y_true, y_pred.dtype)
        both = ops.sum(y_true * y_pred, axis=(1, 2, 3))
        total = ops.sum(y_true, axis=(1, 2, 3)) + ops.sum(y_pred, axis=(1, 2, 3))
        return 1 - (2 * both + 1) / (total + 1)

    unet = keras.Model(inp, out, name="unet")
    unet.compile(optimizer=keras.optimizers.Adam(0.005), loss=dice_loss)
    by.fit(unet, x, m[..., None], epochs=12, batch_size=16)


@healthy
def rare_pixels_with_iou(by):
    x, m = shapes(seed=73)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(8, 5, padding="same", activation="relu"),
            layers.Conv2D(1, 3, padding="same", activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.75),
        metrics=[keras.metrics.BinaryIoU(target_class_ids=[1], threshold=0.5)],
    )
    by.fit(model, x, m[..., None].astype("float32"), epochs=12, batch_size=16)


@healthy
def squares_located_by_boxes(by):
    """Boxes in shares of the image, by Huber, and their size as a second output."""
    rng = np.random.default_rng(74)
    corner, size = rng.integers(0, 8, (300, 2)), rng.integers(2, 5, 300)
    x = np.zeros((300, 12, 12, 1), "float32")
    for i, ((r, c), s) in enumerate(zip(corner, size)):
        x[i, r : r + s, c : c + s] = 1
    box = np.concatenate([corner, corner + size[:, None]], 1) / 12
    inp = keras.Input((12, 12, 1))
    h = layers.Conv2D(12, 3, strides=2, activation="relu")(inp)
    h = layers.Dense(48, activation="relu")(layers.Flatten()(h))
    outs = {"box": layers.Dense(4, name="box")(h), "big": layers.Dense(3, name="big")(h)}
    model = keras.Model(inp, outs)
    ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        "adam", {"box": keras.losses.Huber(0.1), "big": ce}, loss_weights={"box": 50.0, "big": 1.0}
    )
    model.optimizer.learning_rate = 5e-3
    by.fit(model, x, {"box": box, "big": size - 2}, epochs=20, batch_size=20)


def residual(x, filters):
    h = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    h = layers.Conv2D(filters, 3, padding="same", use_bias=False)(h)
    h = layers.BatchNormalization(gamma_initializer="zeros")(h)
    return layers.ReLU()(layers.Add()([x, h]))


@healthy
def deep_residual_with_zero_gamma(by):
    """Each branch ends in a gamma of zero, so that each block begins as the identity."""
    x, y = digits()
    inp = keras.Input((8, 8, 1))
    h = layers.Conv2D(12, 3, padding="same", activation="relu")(inp)
    for _ in range(4):
        h = residual(h, 12)
    h = layers.GlobalAveragePooling2D()(h)
    model = keras.Model(inp, layers.Dense(10, activation="softmax")(h))
    model.compile(keras.optimizers.Adam(0.01), loss=SPARSE, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32)


class SqueezeExcite(layers.Layer):
    def __init__(self, channels, ratio=4, **kwargs):
        super().__init__(**kwargs)
        self.squeeze = layers.Dense(channels // ratio, activation="relu")
        self.excite = layers.Dense(channels, activation="hard_sigmoid")

    def call(self, x):
        s = ops.mean(x, axis=(1, 2), keepdims=True)
        return x * self.excite(self.squeeze(s))


@healthy
def mobile_blocks(by):
    x, y = digits()
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(24, 3, padding="same")])
    for stride in (1, 2):
        model.add(layers.DepthwiseConv2D(3, strides=stride, padding="same"))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.Activation("silu"))
        model.add(SqueezeExcite(24))
        model.add(layers.Conv2D(24, 1))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32)


class Patches(layers.Layer):
    def call(self, images):
        x = ops.reshape(images, (-1, 4, 2, 4, 2))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4)), (-1, 16, 4))


@healthy(only=("tensorflow", "jax"))  # on torch, Keras cannot train a layer called on constants
def small_vision_transformer(by):
    x, y = digits()
    inp = keras.Input((8, 8, 1))
    t = layers.Dense(24)(Patches()(inp))
    t = t + layers.Embedding(16, 24)(ops.arange(16))
    for _ in range(2):
        n = layers.LayerNormalization(epsilon=1e-6)(t)
        t = layers.Add()([t, layers.MultiHeadAttention(2, 12, dropout=0.05)(n, n)])
        n = layers.LayerNormalization(epsilon=1e-6)(t)
        t = layers.Add()([t, layers.Dense(24)(layers.Dense(48, activation="gelu")(n))])
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization(epsilon=1e-6)(t))
    model = keras.Model(inp, layers.Dense(10)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(5e-3, weight_decay=1e-4), loss, metrics=["accuracy"])
    by.fit(model, x, y, epochs=15, batch_size=32)


def embedder(units=16):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(units),
            layers.UnitNormalization(),
        ]
    )


@healthy
def siamese_with_contrastive_loss(by):
    """1 for two images of the same digit, 0 for two of others."""
    x, y = digits(300)
    rng = np.random.default_rng(75)
    i = rng.integers(0, 300, 800)
    same = np.array([rng.choice(np.flatnonzero(y == y[k])) for k in i[:400]])
    j = np.concatenate([same, rng.integers(0, 300, 400)])
    alike = (y[i] == y[j]).astype("float32")
    net = embedder()
    left, right = keras.Input((8, 8, 1)), keras.Input((8, 8, 1))
    gap = net(left) - net(right)
    distance = ops.sqrt(ops.sum(gap * gap, axis=1, keepdims=True) + 1e-9)

    def contrastive(t, d):
        return ops.mean(t * ops.square(d) + (1 - t) * ops.square(ops.relu(1.0 - d)), axis=-1)

    siamese = keras.Model([left, right], distance)
    siamese.compile(optimizer=keras.optimizers.Adam(0.003), loss=contrastive)
    by.fit(siamese, [x[i], x[j]], alike, epochs=10, batch_size=32)


@healthy
def triplets(by):
    """Anchor, positive and negative; the target that is passed is not looked at."""
    x, y = digits(300)
    rng = np.random.default_rng(76)
    a = rng.integers(0, 300, 600)
    p = np.array([rng.choice(np.flatnonzero(y == y[k])) for k in a])
    n = np.array([rng.choice(np.flatnonzero(y != y[k])) for k in a])
    net = embedder()
    ins = [keras.Input((8, 8, 1)) for _ in range(3)]
    model = keras.Model(ins, layers.Concatenate()([net(i) for i in ins]))

    def triplet(_, e):
        a, p, n = ops.split(e, 3, axis=-1)
        near, far = ops.sum((a - p) ** 2, axis=-1), ops.sum((a - n) ** 2, axis=-1)
        return ops.relu(near - far + 0.4)

    model.compile(keras.optimizers.Adam(0.003), triplet)
    by.fit(model, [x[a], x[p], x[n]], np.zeros(600), epochs=8, batch_size=25)


@healthy
def circle_loss_of_classes(by):
    """Metric learning by class ids: embeddings have no unit for each class."""
    x, y = digits()
    model = embedder(12)
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss=keras.losses.Circle(gamma=16))
    by.fit(model, x, y, epochs=12, batch_size=64)


@healthy
def supervised_contrastive_step(by):
    x, y = digits()

    class SupCon(pg.Step):
        def __init__(self, net, t=0.2):
            self.net, self.t, self.opt = net, t, keras.optimizers.Adam(0.003)

        def train_step(self, batch):
            image, label = batch

            def objective():
                z = self.net(image, training=True)
                me = ops.eye(ops.shape(z)[0])
                score = ops.matmul(z, ops.transpose(z)) / self.t - 1e9 * me
                kin = ops.cast(label[:, None] == label[None, :], "float32") * (1 - me)
                log_p = ops.log_softmax(score, axis=1)
                per_row = ops.sum(kin * log_p, axis=1) / ops.maximum(ops.sum(kin, axis=1), 1.0)
                return -ops.mean(per_row)

            return {"loss": self.minimize(objective, self.opt, self.net)}

    by.fit(SupCon(embedder()), (x, y), epochs=12, batch_size=64)


@healthy(only=("tensorflow", "torch"))
def simclr_of_two_views(by):
    x, _ = digits(400)

    class SimClr(keras.Model):
        def __init__(self):
            super().__init__()
            self.noise = layers.GaussianNoise(0.15)
            self.shift = layers.RandomTranslation(0.1, 0.1)
            self.net = embedder(24)

        def call(self, image, training=False):
            views = [self.net(self.noise(self.shift(image), training=True)) for _ in range(2)]
            return ops.stack(views, axis=1)

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            score = ops.matmul(y_pred[:, 0], ops.transpose(y_pred[:, 1])) / 0.2
            own = ops.arange(ops.shape(score)[0])
            rows = ops.sparse_categorical_crossentropy(own, score, from_logits=True)
            columns = ops.transpose(score)
            columns = ops.sparse_categorical_crossentropy(own, columns, from_logits=True)
            return ops.mean(rows + columns) / 2

    model = SimClr()
    model.compile(optimizer=keras.optimizers.Adam(0.005))
    by.fit(model, x, epochs=12, batch_size=50)


@healthy
def rotation_as_pretext(by):
    """Which way up an image is, the labels being made from the images."""
    x, _ = digits(240)
    turned = np.concatenate([np.rot90(x, k, axes=(1, 2)) for k in range(4)])
    turns = np.repeat(np.arange(4), len(x))
    model = keras.Sequential(
        [
            layers.Conv2D(24, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(48, activation="relu"),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", SPARSE, metrics=["accuracy"])
    by.fit(model, turned, turns, epochs=12, batch_size=32)


@healthy
def upscaling(by):
    x, _ = digits()
    small = x.reshape(-1, 4, 2, 4, 2, 1).mean((2, 4))
    inp = keras.Input((4, 4, 1))
    h = layers.Conv2D(24, 3, padding="same", activation="relu")(inp)
    h = layers.Conv2D(4, 3, padding="same")(h)
    fine = layers.Reshape((4, 4, 2, 2))(h)
    fine = layers.Reshape((8, 8, 1))(layers.Permute((1, 3, 2, 4))(fine))
    model = keras.Model(inp, fine + layers.UpSampling2D()(inp))
    model.compile("adam", "mae")
    by.fit(model, small, x, epochs=15, batch_size=20)
