"""Layers with state, with chance, and of unusual structure."""

import keras
import numpy as np
from keras import initializers, layers, ops, regularizers

from tests.strangers.corpus import by_fit
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine

# Normalizations.


@by_fit
def batchnorm_with_all_its_options(by):
    x, y = digits(192)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(momentum=0.8, epsilon=1e-2, scale=False),
            layers.Activation("relu"),
            layers.Conv2D(6, 3, strides=2, use_bias=False),
            layers.BatchNormalization(
                center=False, beta_initializer="ones", gamma_constraint="non_neg"
            ),
            layers.LeakyReLU(0.2),
            layers.Flatten(),
            layers.BatchNormalization(axis=1, moving_mean_initializer="ones"),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(model, x, y, batch_size=50, epochs=2, validation_split=0.2)
    by.evaluate(model, x, y, batch_size=64)


@by_fit
def batchnorm_frozen_within(by):
    """Transfer learning: the body is frozen, then one layer of it is thawed and compiled again."""
    x, y = digits(128)
    base = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(4, 3, activation="relu", name="last_conv"),
            layers.BatchNormalization(name="last_bn"),
            layers.GlobalAveragePooling2D(),
        ],
        name="backbone",
    )
    base.trainable = False
    inputs = keras.Input((8, 8, 1))
    z = base(inputs, training=False)
    z = layers.Dropout(0.2, seed=11)(z)
    model = keras.Model(inputs, layers.Dense(10, "softmax")(z))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(model, x, y, batch_size=32, epochs=1)

    base.trainable = True
    for layer in base.layers:
        layer.trainable = layer.name == "last_conv"
    model.compile(keras.optimizers.Adam(1e-5), "sparse_categorical_crossentropy")
    by.fit(model, x, y, batch_size=32, epochs=1)


@by_fit
def every_norm_one_after_another(by):
    x, y = digits(96)
    i = keras.Input((8, 8, 1))
    h = layers.Conv2D(8, 3, padding="same")(i)
    h = layers.GroupNormalization(groups=4)(h)
    h = layers.LayerNormalization(axis=[1, 2, 3], center=False)(h)
    h = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="silu")(h)
    h = layers.RMSNormalization(epsilon=1e-5)(h)
    h = layers.SpectralNormalization(layers.Conv2D(6, 1), power_iterations=2)(h)
    h = layers.GlobalMaxPooling2D()(h)
    h = layers.UnitNormalization()(h)
    model = keras.Model(i, layers.Dense(10, activation="softmax")(h))
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    by.fit(model, x, y, batch_size=32, epochs=2)
    by.predict(model, x[:9], batch_size=4)


@by_fit
def adapted_normalization_inside(by):
    x, t = diabetes()
    norm = layers.Normalization(axis=-1)
    norm.adapt(x[:200] * 5 + 2)
    bins = layers.Discretization(num_bins=4, epsilon=0.05)
    bins.adapt(x[:200, :1])
    i = keras.Input((10,))
    a = norm(i)
    b = layers.CategoryEncoding(num_tokens=4, output_mode="multi_hot")(bins(i[:, :1]))
    h = layers.Concatenate()([a, b])
    net = keras.Model(i, layers.Dense(1)(layers.Dense(5, "mish")(h)))
    net.compile("adam", "mse")
    by.fit(net, x[:200] * 5 + 2, t[:200, None], batch_size=60, epochs=2)


# Chance.


@by_fit
def all_the_dropouts(by):
    x, y = wine()
    keras.utils.set_random_seed(99)
    net = keras.Sequential(
        [
            keras.Input((13,)),
            layers.GaussianNoise(0.1),
            layers.Dense(16, "selu", kernel_initializer="lecun_normal"),
            layers.AlphaDropout(0.1),
            layers.Dense(16, "relu"),
            layers.GaussianDropout(0.2),
            layers.Reshape((4, 4)),
            layers.SpatialDropout1D(0.3),
            layers.Flatten(),
            layers.Dropout(0.25, noise_shape=(None, 16)),
            layers.Dense(3, activation="softmax"),
        ]
    )
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, batch_size=32, epochs=3, validation_split=0.25)
    by.evaluate(net, x, y)


@by_fit
def one_dropout_called_twice(by):
    """The same layer on both branches; its seeds go on from call to call."""
    x, y = wine()
    drop = layers.Dropout(0.4, seed=123)
    i = keras.Input((13,))
    left = drop(layers.Dense(6, "relu")(i))
    right = drop(layers.Dense(6, "tanh")(i))
    net = keras.Model(i, layers.Dense(3, "softmax")(layers.maximum([left, right])))
    net.compile("sgd", "sparse_categorical_crossentropy")
    by.fit(net, x, y, batch_size=60, epochs=2)


@by_fit
def augmentation_inside_the_model(by):
    x, y = digits(96)
    augment = keras.Sequential(
        [
            layers.RandomFlip("horizontal", seed=1),
            layers.RandomRotation(0.1, fill_mode="nearest", seed=2),
            layers.RandomTranslation(0.1, 0.1, seed=3),
            layers.RandomZoom((-0.2, 0.1), seed=4),
        ],
        name="augment",
    )
    i = keras.Input((8, 8, 1))
    h = augment(i)
    h = layers.Rescaling(2.0, offset=-1)(h)
    h = layers.Conv2D(4, 3, activation="relu")(h)
    h = layers.Flatten()(h)
    net = keras.Model(i, layers.Dense(10, "softmax")(h))
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, batch_size=32, epochs=2, validation_split=0.2)


# On JAX the first batch is traced, even where the rest runs op by op: RandomCrop cannot be.
@by_fit(only=("tensorflow", "torch"))
def colours_and_crops(by):
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (48, 12, 12, 3)).astype("uint8")
    warm = (photos[..., 0].mean((1, 2)) > photos[..., 2].mean((1, 2))).astype("int32")
    net = keras.Sequential(
        [
            keras.Input((12, 12, 3), dtype="uint8"),
            layers.Rescaling(1.0 / 255),
            layers.RandomBrightness(0.2, value_range=(0, 1), seed=7),
            layers.RandomContrast(0.3, value_range=(0, 1), seed=8),
            layers.RandomCrop(10, 10, seed=9),
            layers.CenterCrop(8, 8),
            layers.ZeroPadding2D(1),
            layers.Conv2D(3, 3, 2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, "sigmoid"),
        ]
    )
    net.compile("adam", "binary_crossentropy")
    by.fit(net, photos, warm, batch_size=16, epochs=2)
    by.predict(net, photos[:5])


class StochasticDepth(layers.Layer):
    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.seed_gen = keras.random.SeedGenerator(4)

    def call(self, shortcut, residual, training=None):
        if training:
            keep = keras.random.uniform((ops.shape(shortcut)[0], 1), seed=self.seed_gen)
            return shortcut + residual * ops.cast(keep > self.rate, "float32") / (1 - self.rate)
        return shortcut + residual


@by_fit
def two_tensors_and_a_training_argument(by):
    x, y = wine()
    i = keras.Input((13,))
    h = i
    for k in range(2):
        h = StochasticDepth(0.2 * (k + 1))(h, layers.Dense(13, "relu")(h))
    net = keras.Model(i, layers.Dense(3, "softmax")(h))
    net.compile("adam", "sparse_categorical_crossentropy")
    by.fit(net, x, y, batch_size=64, epochs=2, validation_split=0.1)


# Recurrent.


@by_fit
def bidirectional_lstm_on_padded_text(by):
    ids, y = sentences(96)
    net = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(50, 6, mask_zero=True, embeddings_regularizer="l2"),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.1, seed=0)),
            layers.Bidirectional(layers.GRU(3), merge_mode="sum"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    net.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, ids, y, batch_size=32, epochs=1, validation_split=0.2)


@by_fit(draws="torch")
def masking_and_time_distributed(by):
    x, nxt = waves(60, 10)
    x = x.copy()
    x[:, 7:] = np.where(np.arange(60)[:, None, None] % 2, -1.0, x[:, 7:])
    i = keras.Input((10, 1))
    h = layers.Masking(mask_value=-1.0)(i)
    h = layers.SimpleRNN(5, return_sequences=True, go_backwards=True, recurrent_dropout=0.2)(h)
    h = layers.TimeDistributed(layers.Dense(3, activation="tanh"))(h)
    h = layers.GRU(4, reset_after=False, unroll=True)(h)
    net = keras.Model(i, layers.Dense(1)(h))
    net.compile(keras.optimizers.RMSprop(0.01, momentum=0.5), "mae")
    by.fit(net, x, nxt, batch_size=25, epochs=2)


class MinimalCell(layers.Layer):
    def __init__(self, units, **kw):
        super().__init__(**kw)
        self.units = units
        self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), initializer="glorot_uniform")
        self.rec = self.add_weight(
            shape=(self.units, self.units), initializer=initializers.Orthogonal(0.5, seed=2)
        )

    def call(self, inputs, states):
        out = ops.matmul(inputs, self.kernel) + ops.matmul(ops.tanh(states[0]), self.rec)
        return out, [out]


@by_fit
def stacked_cells_one_of_which_is_own(by):
    x, nxt = waves(64, 8)
    rnn = layers.RNN([layers.GRUCell(4), MinimalCell(3), layers.LSTMCell(2)], return_state=True)
    i = keras.Input((8, 1))
    out, *states = rnn(i)
    merged = layers.Concatenate()([out, states[0], states[1]])
    net = keras.Model(i, layers.Dense(1)(merged))
    net.compile("adam", "mse")
    by.fit(net, x, nxt, batch_size=16, epochs=1)
    by.predict(net, x[:6])


@by_fit
def seq2seq_with_states_handed_on(by):
    ids, _ = sentences(64)
    enc_in = keras.Input((12,), name="encoder_inputs")
    dec_in = keras.Input((12,), name="decoder_inputs")
    embed = layers.Embedding(50, 5)
    _, h, c = layers.LSTM(5, return_state=True)(embed(enc_in))
    seq = layers.LSTM(5, return_sequences=True)(embed(dec_in), initial_state=[h, c])
    logits = layers.Dense(50)(seq)
    net = keras.Model([enc_in, dec_in], logits)
    net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(net, [ids, ids[:, ::-1]], ids, batch_size=16, epochs=1)


@by_fit(
    only=("tensorflow", "jax"), differs={"jax": ("*",)}
)  # torch: Keras raises, its state is changed in place
def stateful_lstm_over_a_long_wave(by):
    """State runs from batch to batch."""
    wave = np.sin(np.arange(0, 60, 0.1)).astype("float32")
    x = wave[:480].reshape(4, 20, 6).transpose(1, 0, 2).reshape(80, 6, 1)
    y = np.roll(wave, -6)[:480].reshape(4, 20, 6).transpose(1, 0, 2).reshape(80, 6)[:, :1]
    net = keras.Sequential(
        [keras.Input(batch_shape=(4, 6, 1)), layers.LSTM(3, stateful=True), layers.Dense(1)]
    )
    net.compile("adam", "mse")
    for _ in range(2):
        by.fit(net, x[:32], y[:32], batch_size=4, epochs=1)
        net.layers[0].reset_state()


@by_fit
def conv_lstm_of_moving_dots(by):
    rng = np.random.default_rng(3)
    film = (rng.random((24, 5, 6, 6, 1)) > 0.8).astype("float32")
    net = keras.Sequential(
        [
            keras.Input((4, 6, 6, 1)),
            layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True),
            layers.BatchNormalization(),
            layers.ConvLSTM2D(2, 3, padding="same", data_format="channels_last"),
            layers.Conv2D(1, 1, activation="sigmoid"),
        ]
    )
    net.compile("adam", "binary_crossentropy")
    by.fit(net, film[:, :4], film[:, 4], batch_size=8, epochs=1)


# Attention.


class PositionalEmbedding(layers.Layer):
    def __init__(self, vocab, length, dim, **kwargs):
        super().__init__(**kwargs)
        self.tok = layers.Embedding(vocab, dim, mask_zero=True)
        self.pos = layers.Embedding(length, dim)
        self.length = length

    def call(self, ids):
        return self.tok(ids) + self.pos(ops.arange(self.length))

    def compute_mask(self, *args, **kwargs):
        return self.tok.compute_mask(*args, **kwargs)


class EncoderBlock(layers.Layer):
    def __init__(self, dim, heads, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.att = layers.MultiHeadAttention(heads, dim // heads, dropout=rate, seed=6)
        self.ffn = keras.Sequential([layers.Dense(2 * dim, activation="gelu"), layers.Dense(dim)])
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.drops = [layers.Dropout(rate, seed=k) for k in range(2)]
        self.supports_masking = True

    def call(self, x, training=None, mask=None):
        m = None if mask is None else mask[:, None, :]
        x = self.norms[0](x + self.drops[0](self.att(x, x, attention_mask=m), training=training))
        return self.norms[1](x + self.drops[1](self.ffn(x), training=training))


@by_fit
def encoder_of_text_with_mask(by):
    ids, y = sentences(96)
    i = keras.Input((12,), dtype="int64")
    h = PositionalEmbedding(50, 12, 8)(i)
    h = EncoderBlock(8, 2)(h)
    h = layers.GlobalAveragePooling1D()(h)
    net = keras.Model(i, layers.Dense(1, "sigmoid")(h))
    net.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, ids.astype("int64"), y, batch_size=32, epochs=2, validation_split=0.25)
    by.predict(net, ids[:7].astype("int64"))


@by_fit
def causal_decoder_with_grouped_queries(by):
    ids, _ = sentences(48)
    i = keras.Input((11,), dtype="int32")
    h = layers.Embedding(50, 8)(i)
    h = h + layers.GroupQueryAttention(4, 4, 2)(
        layers.RMSNormalization()(h), h, use_causal_mask=True
    )
    h = h + layers.EinsumDense(
        "btd,de->bte", output_shape=(None, 8), bias_axes="e", activation="silu"
    )(h)
    net = keras.Model(i, layers.Dense(50, use_bias=False)(h))
    net.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(net, ids[:, :-1], ids[:, 1:], batch_size=16, epochs=2)


@by_fit
def tied_embedding_and_attention_scores(by):
    """The output layer is the embedding turned round; old kinds of attention before it."""
    ids, _ = sentences(48)
    table = layers.ReversibleEmbedding(50, 6, tie_weights=True)
    i = keras.Input((11,), dtype="int32")
    h = table(i)
    context, scores = layers.Attention(use_scale=True, score_mode="concat", dropout=0.1, seed=5)(
        [h, h], return_attention_scores=True
    )
    h = layers.Add()([context, layers.AdditiveAttention()([h, context])])
    net = keras.Model(i, [table(h, reverse=True), scores])
    net.compile("adam", [keras.losses.SparseCategoricalCrossentropy(from_logits=True), None])
    by.fit(net, ids[:, :-1], [ids[:, 1:], np.zeros((48, 11, 11))], batch_size=16)


# Convolutions and shapes.


@by_fit
def autoencoder_of_transposed_convs(by):
    x, _ = digits(96)
    net = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.SeparableConv2D(4, 3, strides=2, padding="same", activation="elu"),
            layers.AveragePooling2D(2),
            layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="relu"),
            layers.UpSampling2D(2),
            layers.Cropping2D(((1, 0), (0, 1))),
            layers.ZeroPadding2D(((0, 1), (1, 0))),
            layers.Conv2D(1, 3, padding="same", dilation_rate=2, activation="sigmoid"),
        ]
    )
    net.compile("adam", "binary_crossentropy")
    by.fit(net, x, x, batch_size=32, epochs=2)


@by_fit
def one_and_three_dimensional_convs(by):
    rng = np.random.default_rng(4)
    volume = rng.normal(size=(32, 4, 4, 4, 1)).astype("float32")
    signal = rng.normal(size=(32, 16, 2)).astype("float32")
    a = keras.Input((4, 4, 4, 1), name="scan")
    b = keras.Input((16, 2), name="ecg")
    p = layers.GlobalAveragePooling3D()(layers.Conv3D(3, 2, activation="relu")(a))
    q = layers.Conv1D(4, 3, groups=2, padding="causal")(b)
    q = layers.SeparableConv1D(4, 3, activation="softsign")(q)
    q = layers.Conv1DTranspose(3, 3, strides=2)(layers.MaxPooling1D(2)(q))
    q = layers.GlobalMaxPooling1D()(layers.DepthwiseConv1D(3)(q))
    net = keras.Model({"scan": a, "ecg": b}, layers.Dense(1)(layers.concatenate([p, q])))
    net.compile("adam", "mse")
    by.fit(net, {"ecg": signal, "scan": volume}, signal[:, 0, 0], batch_size=12, epochs=2)


@by_fit
def reshape_permute_repeat(by):
    x, t = diabetes()
    i = keras.Input((10,))
    h = layers.Dense(6)(i)
    h = layers.PReLU(alpha_initializer="ones", alpha_constraint="non_neg")(h)
    h = layers.RepeatVector(3)(h)
    h = layers.Permute((2, 1))(h)
    h = layers.Reshape((-1, 2))(h)
    h = layers.PReLU(shared_axes=[1])(h)
    h = layers.Lambda(lambda z: ops.sum(z**2, axis=1), output_shape=(2,))(h)
    h = layers.Softmax()(layers.Identity()(h))
    net = keras.Model(i, layers.Dense(1)(h))
    net.compile("sgd", "mse")
    by.fit(net, x[:100], t[:100], batch_size=30, epochs=2)


@by_fit
def all_the_merges(by):
    x, y = cancer()
    i = keras.Input((30,))
    a, b, c = (layers.Dense(4, act)(i) for act in ("relu", "tanh", "softplus"))
    merged = [
        layers.Add()([a, b, c]),
        layers.Subtract()([a, b]),
        layers.Multiply()([a, c]),
        layers.Average()([a, b]),
        layers.Minimum()([b, c]),
        layers.Dot(axes=1, normalize=True)([a, b]),
        a * 0.5 - b / 2 + ops.square(c),
    ]
    h = layers.Concatenate(axis=-1)(merged)
    net = keras.Model(i, layers.Dense(1, activation=ops.sigmoid)(h))
    net.compile("adam", "bce", metrics=["binary_accuracy"])
    by.fit(net, x[:256], y[:256, None], batch_size=64)


# Structure.


@by_fit
def siamese_with_shared_encoder(by):
    x, y = digits(128)
    encoder = keras.Sequential([layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(4)])
    a, b = keras.Input((8, 8, 1), name="img_a"), keras.Input((8, 8, 1), name="img_b")

    def distance(vectors):
        u, v = vectors
        return ops.sqrt(ops.maximum(ops.sum((u - v) ** 2, axis=1, keepdims=True), 1e-7))

    d = layers.Lambda(distance, output_shape=(1,), name="distance")([encoder(a), encoder(b)])
    net = keras.Model([a, b], d)

    def contrastive(y_true, y_pred, margin=1.0):
        y_true = ops.cast(y_true, "float32")
        return ops.mean(
            (1 - y_true) * ops.square(y_pred) + y_true * ops.square(ops.maximum(margin - y_pred, 0))
        )

    net.compile("rmsprop", contrastive)
    different = (y != np.roll(y, 1)).astype("float32")[:, None]
    by.fit(net, (x, np.roll(x, 1, axis=0)), different, batch_size=32, epochs=2)
    by.predict(encoder, x[:4])


@by_fit
def regularizers_and_constraints(by):
    x, t = diabetes()
    net = keras.Sequential(
        [
            layers.Dense(
                8,
                activation="relu",
                kernel_regularizer=regularizers.L1L2(1e-3, 1e-2),
                bias_regularizer=regularizers.L1(1e-2),
                activity_regularizer=regularizers.L2(1e-3),
            ),
            layers.ActivityRegularization(l1=0.01),
            layers.Dense(6, kernel_constraint=keras.constraints.MaxNorm(0.5)),
            layers.Dense(6, kernel_regularizer=regularizers.OrthogonalRegularizer(0.1)),
            layers.Dense(4, kernel_constraint="unit_norm", bias_constraint="non_neg"),
            layers.Dense(
                1, kernel_regularizer="l2", kernel_constraint=keras.constraints.MinMaxNorm(0.2, 0.9)
            ),
        ]
    )
    net.compile(keras.optimizers.SGD(0.01, nesterov=True, momentum=0.8), "huber", metrics=["mae"])
    by.fit(net, x[:240], t[:240, None], batch_size=60, epochs=2, validation_split=0.25)
    by.evaluate(net, x[:240], t[:240, None])


@by_fit
def lora_on_a_trained_model(by):
    x, y = wine()
    net = keras.Sequential(
        [keras.Input((13,)), layers.Dense(8, "relu", name="big"), layers.Dense(3, name="head")]
    )
    net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    by.fit(net, x, y, batch_size=60, epochs=1)
    net.get_layer("big").enable_lora(2, lora_alpha=4)
    net.get_layer("head").trainable = False
    net.compile(
        keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    by.fit(net, x, y, batch_size=60, epochs=2)


@by_fit
def lora_of_int8_weights(by):
    x, t = diabetes()
    net = keras.Sequential([keras.Input((10,)), layers.Dense(8, "relu"), layers.Dense(1)])
    net.quantize("int8")
    for layer in net.layers:
        layer.enable_lora(2)
    net.compile("adam", "mse")
    by.fit(net, x[:128], t[:128, None], batch_size=32, epochs=2)


class Residual(layers.Wrapper):
    def call(self, inputs, *args, **kwargs):
        return inputs + self.layer(inputs)


@by_fit
def own_wrapper_and_nested_models(by):
    x, y = wine()
    inner_in = keras.Input((13,))
    inner = keras.Model(inner_in, layers.Dense(13, "tanh")(layers.BatchNormalization()(inner_in)))
    net = keras.Sequential(name="outer")
    net.add(keras.Input((13,)))
    net.add(Residual(layers.Dense(13)))
    net.add(inner)
    net.add(
        keras.Sequential([layers.Dense(5, "relu"), keras.Sequential([layers.Dense(3, "softmax")])])
    )
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, batch_size=64, epochs=2, validation_data=(x[:30], y[:30]))


class Gate(keras.Model):
    """Subclassed; built at the first batch, with a list and a dict of layers, and a counter."""

    def __init__(self, n):
        super().__init__()
        self.experts = [layers.Dense(4, "relu") for _ in range(n)]
        self.parts = {"gate": layers.Dense(n, "softmax"), "head": layers.Dense(3, "softmax")}
        self.calls = self.add_weight(name="calls", shape=(), dtype="int32", trainable=False)

    def call(self, inputs, training=False):
        if training:
            self.calls.assign(self.calls + 1)
        g = self.parts["gate"](inputs)
        e = ops.stack([expert(inputs) for expert in self.experts], axis=1)
        return self.parts["head"](ops.einsum("bn,bnd->bd", g, e))


@by_fit
def mixture_that_counts_its_calls(by):
    x, y = wine()
    net = Gate(3)
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, batch_size=50, epochs=2, validation_split=0.2)
    return {"calls": ops.convert_to_numpy(net.calls)}


class MovingCodebook(layers.Layer):
    """Vector quantization whose codebook moves without gradients."""

    def __init__(self, k, dim, **kwargs):
        super().__init__(**kwargs)
        self.k, self.dim = k, dim

    def build(self, _):
        self.codes = self.add_weight(
            shape=(self.k, self.dim), initializer=initializers.RandomNormal(seed=1), trainable=False
        )

    def call(self, z, training=None):
        d = ops.sum((z[:, None] - self.codes[None]) ** 2, axis=-1)
        hot = ops.one_hot(ops.argmin(d, axis=-1), self.k)
        q = ops.matmul(hot, self.codes)
        if training:
            means = ops.matmul(ops.transpose(hot), z) / (ops.sum(hot, axis=0)[:, None] + 1e-3)
            seen = ops.cast(ops.sum(hot, axis=0)[:, None] > 0, "float32")
            self.codes.assign(self.codes + 0.1 * seen * ops.stop_gradient(means - self.codes))
        self.add_loss(0.25 * ops.mean((ops.stop_gradient(q) - z) ** 2))
        return z + ops.stop_gradient(q - z)


@by_fit
def vector_quantization(by):
    x, _ = digits(96)
    x = x.reshape(96, 64)
    i = keras.Input((64,))
    z = layers.Dense(3)(i)
    net = keras.Model(i, layers.Dense(64, "sigmoid")(MovingCodebook(5, 3)(z)))
    net.compile("adam", "mse")
    by.fit(net, x, x, batch_size=24, epochs=2)


@by_fit(only="tensorflow")
def strings_looked_up_inside_the_model(by):
    import tensorflow as tf

    rng = np.random.default_rng(6)
    colour = rng.choice(["red", "green", "blue"], 90)
    zip_code = rng.integers(100, 120, 90)
    target = (colour == "red").astype("float32") + zip_code / 200
    look = layers.StringLookup(output_mode="one_hot")
    look.adapt(colour)
    zips = layers.IntegerLookup(num_oov_indices=2, output_mode="int")
    zips.adapt(zip_code[:40])
    c = keras.Input((1,), dtype="string", name="colour")
    n = keras.Input((1,), dtype="int64", name="zip")
    parts = [
        look(c),
        layers.Flatten()(layers.Embedding(30, 2)(zips(n))),
        layers.CategoryEncoding(8, output_mode="one_hot")(layers.Hashing(8)(c)),
    ]
    net = keras.Model([c, n], layers.Dense(1)(layers.Concatenate()(parts)))
    net.compile("adam", "mse")
    ds = tf.data.Dataset.from_tensor_slices(
        ({"colour": colour[:, None], "zip": zip_code[:, None]}, target)
    ).batch(20)
    by.fit(net, ds, epochs=2)


@by_fit(only="tensorflow")
def text_vectorization_in_front(by):
    import tensorflow as tf

    words = np.array(["good fine day", "bad day", "fine", "bad awful rain", "good sun", "rain"] * 8)
    label = np.array([1, 0, 1, 0, 1, 0] * 8)
    vectorize = layers.TextVectorization(max_tokens=12, output_sequence_length=4)
    vectorize.adapt(words)
    net = keras.Sequential(
        [
            keras.Input((), dtype="string"),
            vectorize,
            layers.Embedding(12, 3, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1, "sigmoid"),
        ]
    )
    net.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    by.fit(net, tf.constant(words), tf.constant(label), batch_size=16, epochs=2)


@by_fit(only="torch")
def torch_module_within(by):
    import torch

    class Body(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = torch.nn.Linear(13, 6)
            self.bn = torch.nn.BatchNorm1d(6)

        def forward(self, z):
            return torch.relu(self.bn(self.lin(z)))

    x, y = wine()
    torch.manual_seed(0)
    net = keras.Sequential(
        [keras.Input((13,)), layers.TorchModuleWrapper(Body()), layers.Dense(3, "softmax")]
    )
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    by.fit(net, x, y, batch_size=32, epochs=2, validation_split=0.2)


@by_fit(only="jax")
def jax_function_as_layer(by):
    import jax

    def init(rng, inputs, training):
        w = jax.random.normal(rng, (inputs.shape[-1], 4)) * 0.1
        return {"w": w, "b": jax.numpy.zeros(4)}, {"seen": jax.numpy.zeros(())}

    def apply(params, state, inputs, training):
        out = jax.nn.relu(inputs @ params["w"] + params["b"])
        return out, {"seen": state["seen"] + (1.0 if training else 0.0)}

    x, y = wine()
    net = keras.Sequential(
        [keras.Input((13,)), layers.JaxLayer(apply, init), layers.Dense(3, "softmax")]
    )
    net.compile("adam", "sparse_categorical_crossentropy")
    by.fit(net, x, y, batch_size=60, epochs=2)


@by_fit
def layer_with_a_cond(by):
    class Warm(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="n")
            self.s = self.add_weight(shape=(shape[-1],), initializer="ones", name="s")

        def call(self, z, training=False):
            if training:
                self.count.assign_add(1.0)
            return ops.cond(self.count > 2, lambda: z * self.s, lambda: z + self.s)

    x, t = diabetes()
    net = keras.Sequential([keras.Input((10,)), Warm(), layers.Dense(1)])
    net.compile("sgd", "mse")
    by.fit(net, x[:96], t[:96, None], batch_size=16, epochs=1)
