"""Right programs on texts, time series and other sequences."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg
from tests.examination.programs import healthy
from tests.strangers.datasets import sentences, waves


@healthy
def mask_zero_bilstm(by):
    ids, y = sentences()
    model = keras.Sequential(
        [
            layers.Embedding(50, 12, mask_zero=True),
            layers.Bidirectional(layers.LSTM(12)),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    by.fit(model, ids, y, epochs=10, batch_size=16)


@healthy
def masking_of_short_series(by):
    """Series that end early are filled up with -10, which Masking takes away."""
    x, y = waves()
    x = x.copy()
    begin = np.random.default_rng(50).integers(0, 10, len(x))
    x[np.arange(20) < begin[:, None]] = -10.0
    inp = keras.Input((20, 1))
    h = layers.Masking(mask_value=-10.0)(inp)
    h = layers.GRU(24)(h)
    model = keras.Model(inp, layers.Dense(1)(h))
    model.compile("adam", "mse")
    model.optimizer.learning_rate = 0.01
    by.fit(model, x, y, epochs=20, batch_size=12)


@healthy
def parts_of_speech(by):
    """A tag for each token; the loss leaves out the padding by the mask of the embedding."""
    rng = np.random.default_rng(51)
    ids = rng.integers(1, 40, (250, 10))
    ids[np.arange(10) >= rng.integers(4, 11, (250, 1))] = 0
    before = np.pad(ids[:, :-1], ((0, 0), (1, 0)))
    tags = np.where(ids > 0, (ids % 3 + (before > 20)) % 4, 0)
    words = keras.Input((None,), dtype="int32")
    e = layers.Embedding(40, 16, mask_zero=True)(words)
    e = layers.Bidirectional(layers.GRU(16, return_sequences=True))(e)
    out = layers.TimeDistributed(layers.Dense(4, activation="softmax"))(e)
    tagger = keras.Model(words, out)
    tagger.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    by.fit(tagger, ids, tags, epochs=12, batch_size=25)


@healthy
def named_entities_with_weights(by):
    """Padding has weight 0, as a third array `(B, T)`."""
    rng = np.random.default_rng(52)
    tok = rng.integers(1, 30, (200, 8)).astype("int32")
    lengths = rng.integers(3, 9, 200)
    pad = np.arange(8) >= lengths[:, None]
    tok[pad] = 0
    entity = np.where(pad, 0, (tok > 22).astype(int) + (tok > 27))
    model = keras.Sequential(
        [layers.Embedding(30, 8), layers.Conv1D(16, 3, padding="same"), layers.Dense(3)]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    by.fit(model, tok, entity, sample_weight=(~pad).astype("float32"), epochs=12, batch_size=20)


@healthy
def next_token_of_a_small_language(by):
    rng = np.random.default_rng(53)
    table = rng.permutation(20)
    seq = np.zeros((200, 13), "int64")
    seq[:, 0] = rng.integers(0, 20, 200)
    for t in range(12):
        lost = rng.random(200) < 0.1
        seq[:, t + 1] = np.where(lost, rng.integers(0, 20, 200), table[seq[:, t]])
    lm = keras.Sequential([layers.Embedding(20, 16), layers.LSTM(32, return_sequences=True)])
    lm.add(layers.Dense(20))

    def perplexity(t, p):
        ce = keras.losses.sparse_categorical_crossentropy(t, p, from_logits=True)
        return ops.exp(ops.mean(ce))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    lm.compile(optimizer=keras.optimizers.RMSprop(0.01), loss=loss, metrics=[perplexity])
    by.fit(lm, seq[:, :-1], seq[:, 1:], epochs=10, batch_size=20)


class Block(layers.Layer):
    def __init__(self, dim, heads):
        super().__init__()
        self.att = layers.MultiHeadAttention(heads, dim // heads)
        self.n1, self.n2 = layers.LayerNormalization(), layers.LayerNormalization()
        self.ff = keras.Sequential([layers.Dense(2 * dim, "gelu"), layers.Dense(dim)])

    def call(self, x):
        h = self.n1(x)
        x = x + self.att(h, h, use_causal_mask=True)
        return x + self.ff(self.n2(x))


class Gpt(keras.Model):
    def __init__(self, vocab=16, length=12, dim=24):
        super().__init__()
        self.tok, self.pos = layers.Embedding(vocab, dim), layers.Embedding(length, dim)
        self.blocks = [Block(dim, 2) for _ in range(2)]
        self.norm, self.out = layers.LayerNormalization(), layers.Dense(vocab, use_bias=False)

    def call(self, ids):
        x = self.tok(ids) + self.pos(ops.arange(ops.shape(ids)[1]))
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


@healthy
def tiny_gpt_copies(by):
    """The second half of each row repeats the first; the first half cannot be foretold."""
    rng = np.random.default_rng(54)
    half = rng.integers(1, 16, (400, 6))
    rows = np.concatenate([half, np.zeros((400, 1), int), half], 1)
    weight = np.broadcast_to((np.arange(12) >= 6).astype("float32"), (400, 12))
    model = Gpt()
    model.compile(
        keras.optimizers.AdamW(5e-3, weight_decay=0.01, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["sparse_categorical_accuracy"],
    )
    by.fit(model, rows[:, :-1], rows[:, 1:], sample_weight=weight, epochs=20, batch_size=25)


@healthy
def sum_of_marked_numbers_long_gru(by):
    """The adding problem, over 60 steps."""
    rng = np.random.default_rng(55)
    numbers = rng.random((500, 60))
    marks = np.zeros((500, 60))
    marks[np.arange(500), rng.integers(0, 30, 500)] = 1
    marks[np.arange(500), rng.integers(30, 60, 500)] = 1
    x = np.stack([numbers, marks], -1).astype("float32")
    total = (numbers * marks).sum(1)
    model = keras.Sequential([keras.Input((60, 2)), layers.GRU(32), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01, clipnorm=1.0), loss="mse")
    by.fit(model, x, total, epochs=25, batch_size=25)


@healthy
def stateful_counter(by):
    """One long signal in order, in pieces of 10, so that the state goes on: no shuffling."""
    rng = np.random.default_rng(56)
    signal = np.sin(np.arange(4 * 1000) * 0.13).reshape(4, 1000) + rng.normal(0, 0.02, (4, 1000))
    x = signal[:, :-10].reshape(4, 99, 10).swapaxes(0, 1).reshape(-1, 10, 1)
    y = signal[:, 1:-9].reshape(4, 99, 10).swapaxes(0, 1).reshape(-1, 10, 1)
    inp = keras.Input(batch_shape=(4, 10, 1))
    h = layers.LSTM(12, stateful=True, return_sequences=True)(inp)
    model = keras.Model(inp, layers.Dense(1)(h))
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss="mse")
    start_over = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.layers[1].reset_state()
    )
    by.fit(model, x, y, batch_size=4, epochs=6, shuffle=False, callbacks=[start_over])


@healthy
def ctc_of_strokes(by):
    rng = np.random.default_rng(57)
    y = rng.integers(1, 5, (200, 3))
    frames = np.zeros((200, 12, 5), "float32")
    for row, word in enumerate(y):
        for k, letter in enumerate(word):
            frames[row, 4 * k : 4 * k + 3, letter] = 1.0
    frames += rng.normal(0, 0.1, frames.shape).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((12, 5)),
            layers.Conv1D(16, 3, padding="same", activation="relu"),
            layers.Dense(5),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=keras.losses.CTC())
    by.fit(model, frames, y, epochs=15, batch_size=20)


@healthy
def reversed_digits_seq2seq(by):
    """An encoder and a decoder that is fed the right answer of the step before."""
    rng = np.random.default_rng(58)
    src = rng.integers(2, 12, (400, 5))
    tgt = np.concatenate([np.ones((400, 1), int), src[:, ::-1]], 1)
    enc_in = keras.Input((None,), dtype="int32", name="source")
    dec_in = keras.Input((None,), dtype="int32", name="so_far")
    emb = layers.Embedding(12, 16)
    keys, state = layers.GRU(32, return_sequences=True, return_state=True)(emb(enc_in))
    dec = layers.GRU(32, return_sequences=True)(emb(dec_in), initial_state=state)
    ctx = layers.Attention()([dec, keys])
    out = layers.Dense(12, activation="softmax")(layers.Concatenate()([dec, ctx]))
    model = keras.Model([enc_in, dec_in], out)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.learning_rate = 0.01
    by.fit(model, {"source": src, "so_far": tgt[:, :-1]}, tgt[:, 1:], epochs=15, batch_size=25)


@healthy
def strings_through_text_vectorization(by):
    rng = np.random.default_rng(59)
    good, bad = ["great", "lovely", "fine", "superb"], ["awful", "poor", "dull", "sad"]
    filler = ["the", "film", "was", "a", "plot", "and", "actors"]
    y = rng.integers(0, 2, 200)
    texts = [" ".join([*rng.choice(filler, 5), rng.choice(good if c else bad)]) for c in y]
    vec = layers.TextVectorization(max_tokens=30, output_sequence_length=6)
    vec.adapt(texts)
    ids = ops.convert_to_numpy(vec(texts)).astype("int32")
    model = keras.Sequential([layers.Embedding(30, 4), layers.GlobalAveragePooling1D()])
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="binary_crossentropy")
    by.fit(model, ids, y, epochs=15, validation_split=0.2)


@healthy
def bag_of_words_counts(by):
    """Multi-hot inputs of 50 words, most of them 0."""
    ids, y = sentences()
    bag = np.zeros((200, 50), "float32")
    np.put_along_axis(bag, ids, 1.0, axis=1)
    model = keras.Sequential([keras.Input((50,)), layers.Dense(16, "relu"), layers.Dense(1)])
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
    )
    by.fit(model, bag, y, epochs=20, batch_size=20)


@healthy
def skipgram_negative_sampling(by):
    """Pairs that occur together are 1, pairs drawn at random 0: a dot of two embeddings."""
    rng = np.random.default_rng(61)
    centre = rng.integers(0, 40, 1500)
    near = (centre // 8) * 8 + rng.integers(0, 8, 1500)
    pairs = np.concatenate([np.stack([centre, near], 1), rng.integers(0, 40, (1500, 2))])
    label = np.repeat([1.0, 0.0], 1500)
    a, b = keras.Input((1,), dtype="int32"), keras.Input((1,), dtype="int32")
    dot = layers.Dot(axes=-1)([layers.Embedding(40, 8)(a), layers.Embedding(40, 8)(b)])
    model = keras.Model([a, b], layers.Flatten()(dot))
    model.compile(
        optimizer=keras.optimizers.Adam(0.02),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)],
    )
    by.fit(model, [pairs[:, :1], pairs[:, 1:]], label, epochs=8, batch_size=64)


@healthy
def films_by_dot_products(by):
    rng = np.random.default_rng(62)
    u, f = rng.integers(0, 40, 1500), rng.integers(0, 30, 1500)
    taste, kind = rng.normal(size=(40, 2)), rng.normal(size=(30, 2))
    stars = np.clip(np.round(3.2 + (taste[u] * kind[f]).sum(1)), 1, 5)

    class Recommender(keras.Model):
        def __init__(self):
            super().__init__()
            l2 = keras.regularizers.L2(1e-5)
            self.user = layers.Embedding(40, 6, embeddings_regularizer=l2)
            self.film = layers.Embedding(30, 6, embeddings_regularizer=l2)
            self.user_bias, self.film_bias = layers.Embedding(40, 1), layers.Embedding(30, 1)

        def call(self, ids):
            user, film = ids["user"], ids["film"]
            dot = ops.sum(self.user(user) * self.film(film), axis=-1, keepdims=True)
            bias = self.user_bias(user) + self.film_bias(film)
            return 1 + 4 * ops.sigmoid(dot + bias)

    model = Recommender()
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse", metrics=["mae"])
    by.fit(model, {"user": u, "film": f}, stars, epochs=12, batch_size=64)


@healthy
def two_towers_in_batch_negatives(by):
    rng = np.random.default_rng(63)
    topic = rng.normal(size=(320, 4))
    q = (topic @ rng.normal(size=(4, 10))).astype("float32")
    d = (topic @ rng.normal(size=(4, 14))).astype("float32")

    class Towers(keras.Model):
        def __init__(self):
            super().__init__()
            self.q = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(8)])
            self.d = keras.Sequential([layers.Dense(16, "relu"), layers.Dense(8)])

        def call(self, x):
            a = ops.normalize(self.q(x["query"]), axis=-1)
            return ops.matmul(a, ops.transpose(ops.normalize(self.d(x["doc"]), axis=-1))) * 8.0

        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            own = ops.arange(ops.shape(y_pred)[0])
            return ops.mean(
                keras.losses.sparse_categorical_crossentropy(own, y_pred, from_logits=True)
            )

    towers = Towers()
    towers.compile(keras.optimizers.Adam(0.01))
    by.fit(towers, {"query": q, "doc": d}, epochs=15, batch_size=32)


@healthy
def dilated_causal_convolutions(by):
    rng = np.random.default_rng(64)
    t = np.arange(33) * 0.4 + rng.uniform(0, 6, (200, 1))
    s = (np.sin(t) + 0.5 * np.sin(2.1 * t)).astype("float32")[..., None]
    inputs = h = keras.Input((32, 1))
    for rate in (1, 2, 4):
        c = layers.Conv1D(16, 2, dilation_rate=rate, padding="causal", activation="relu")(h)
        h = layers.Conv1D(16, 1)(h) + c
    model = keras.Model(inputs, layers.Conv1D(1, 1)(h))
    model.compile("adam", loss=keras.losses.LogCosh())
    by.fit(model, s[:, :-1], s[:, 1:], epochs=15, batch_size=20)


@healthy
def many_steps_ahead(by):
    x, _ = waves(160, 24)
    past, future = x[:, :18], x[:, 18:, 0]
    model = keras.Sequential(
        [
            layers.SimpleRNN(16, kernel_initializer="orthogonal"),
            layers.RepeatVector(6),
            layers.GRU(16, return_sequences=True),
            layers.TimeDistributed(layers.Dense(1)),
            layers.Reshape((6,)),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss="mse")
    by.fit(model, past, future, epochs=20, batch_size=16)


@healthy
def anomaly_by_reconstruction(by):
    """An autoencoder of windows: x is its own target."""
    x, _ = waves(200, 16)
    ae = keras.Sequential(
        [
            keras.Input((16, 1)),
            layers.Conv1D(16, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1D(4, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1DTranspose(16, 5, strides=2, padding="same", activation="relu"),
            layers.Conv1DTranspose(1, 5, strides=2, padding="same"),
        ]
    )
    ae.compile(optimizer=keras.optimizers.Adam(0.005), loss="mse")
    by.fit(ae, x, x, epochs=20, batch_size=20, validation_split=0.1)


@healthy
def masked_words_only(by):
    """As BERT learns: a token is hidden, and only hidden ones count, -100 being none."""
    rng = np.random.default_rng(66)
    start = rng.integers(0, 12, (400, 1))
    ids = (start + np.arange(8)) % 12 + 1
    hidden = rng.random(ids.shape) < 0.2
    labels = np.where(hidden, ids, -100)
    seen = np.where(hidden, 0, ids)
    inp = keras.Input((8,), dtype="int32")
    x = layers.Embedding(13, 24)(inp)
    x = x + layers.Embedding(8, 24)(ops.arange(8))
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 12)(x, x))
    x = layers.LayerNormalization()(x + layers.Dense(24)(layers.Dense(48, "gelu")(x)))
    model = keras.Model(inp, layers.Dense(13)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    model.compile(keras.optimizers.Adam(0.005), loss)
    by.fit(model, seen, labels, epochs=15, batch_size=25)


@healthy
def own_rnn_cell(by):
    class Leaky(layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.units = self.state_size = units
            self.inner = layers.Dense(units, activation="tanh")
            self.across = layers.Dense(units, use_bias=False)

        def build(self, shape):
            self.inner.build(shape)
            self.across.build((shape[0], self.units))

        def call(self, x, states):
            h = 0.7 * states[0] + 0.3 * (self.inner(x) + self.across(states[0]))
            return h, [h]

    x, y = waves()
    model = keras.Sequential([keras.Input((20, 1)), layers.RNN(Leaky(24)), layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adam(0.005), loss="mse")
    by.fit(model, x, y, epochs=20, batch_size=15)


@healthy
def set_of_points(by):
    """Deep sets: the order of the points does not matter, and sets have several sizes."""
    rng = np.random.default_rng(68)
    pts = rng.normal(size=(300, 9, 2)).astype("float32")
    there = (np.arange(9) < rng.integers(2, 10, (300, 1))).astype("float32")
    y = ((pts**2).sum(-1) * there).max(1)
    p, m = keras.Input((9, 2)), keras.Input((9,))
    phi = layers.Dense(32, activation="relu")(layers.Dense(32, activation="relu")(p))
    pooled = ops.max(phi * m[..., None], axis=1)
    rho = layers.Dense(1)(layers.Dense(32, activation="relu")(pooled))
    model = keras.Model([p, m], rho)
    model.compile("adam", "mse")
    model.optimizer.learning_rate.assign(5e-3)
    by.fit(model, (pts, there), y, epochs=25, batch_size=20)


@healthy
def learning_to_rank_listwise(by):
    """Eight documents a query: a softmax over the list, which is not over classes."""
    rng = np.random.default_rng(69)
    docs = rng.normal(size=(250, 8, 5)).astype("float32")
    clicked = (docs @ [1.0, -0.5, 0.0, 0.8, 0.0] + rng.gumbel(0, 0.3, (250, 8))).argmax(1)
    model = keras.Sequential(
        [
            keras.Input((8, 5)),
            layers.Dense(16, activation="relu"),
            layers.Dense(1),
            layers.Flatten(),
            layers.Softmax(),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.learning_rate = 0.01
    by.fit(model, docs, clicked, epochs=15, batch_size=25)


@healthy
def language_model_step_with_sum(by):
    """A sum over the tokens and a mean over the rows, with a rate that suits it."""
    ids, _ = sentences()
    ids = np.where(ids > 0, (np.cumsum(ids % 3 + 1, axis=1)) % 12 + 1, 0).astype("int32")

    class Lm(pg.Step):
        def __init__(self, net):
            self.net, self.opt = net, keras.optimizers.Adam(2e-3, global_clipnorm=5.0)

        def train_step(self, batch):
            now, then = batch[:, :-1], batch[:, 1:]
            real = ops.cast(then > 0, "float32")

            def objective():
                logits = self.net(now, training=True)
                ce = ops.sparse_categorical_crossentropy(then, logits, from_logits=True)
                return ops.mean(ops.sum(ce * real, axis=1)), ops.sum(ce * real) / ops.sum(real)

            loss, per_token = self.minimize(objective, self.opt, self.net)
            return {"loss": loss, "per_token": per_token}

    net = keras.Sequential(
        [layers.Embedding(13, 16), layers.GRU(24, return_sequences=True), layers.Dense(13)]
    )
    by.fit(Lm(net), ids, epochs=20, batch_size=10)
