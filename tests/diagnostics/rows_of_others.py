"""Twenty steps written without a look at the rules: ten couple the rows of a batch, ten do not."""

import keras
import numpy as np
from keras import layers, ops

import perigee as pg

ROWS = 96


def rng(seed=0):
    return np.random.default_rng(seed)


def f32(a):
    return np.asarray(a, "float32")


def features(n=6, rows=ROWS, seed=0):
    return f32(rng(seed).normal(size=(rows, n)))


def classes(x, k, seed=1):
    return np.argmax(x @ rng(seed).normal(size=(x.shape[1], k)), axis=1).astype("int32")


def mlp(inputs, *units, activation="relu", name=None):
    stack = [keras.Input((inputs,))]
    stack += [layers.Dense(u, activation=activation) for u in units[:-1]]
    return keras.Sequential([*stack, layers.Dense(units[-1])], name=name)


# ------------------------------------------------------------------ ten that couple


class SampledSoftmaxRetrieval(pg.Step):
    """Two towers, in-batch negatives, logQ correction, accidental hits removed."""

    def __init__(self):
        self.query = mlp(6, 16, 8, name="query")
        self.item = layers.Embedding(20, 8)
        self.item.build((None,))
        self.log_scale = keras.Variable(1.0)
        self.optimizer = keras.optimizers.Adagrad(0.1)

    def train_step(self, batch):
        user, item, log_q = batch["user"], batch["item"], batch["log_q"]

        def objective():
            q = ops.normalize(self.query(user, training=True), axis=-1)
            c = ops.normalize(self.item(item), axis=-1)
            logits = ops.exp(self.log_scale) * ops.matmul(q, ops.transpose(c)) - log_q[None, :]
            n = ops.shape(item)[0]
            same = ops.cast(ops.equal(item[:, None], item[None, :]), "float32")
            logits = logits - 1e9 * (same - same * ops.eye(n))
            return ops.sparse_categorical_crossentropy(ops.arange(n), logits, from_logits=True)

        return {
            "loss": self.minimize(
                objective, self.optimizer, [self.query, self.item, self.log_scale]
            )
        }

    @staticmethod
    def data():
        item = rng(1).integers(0, 20, ROWS).astype("int32")
        counts = np.bincount(item, minlength=20)
        return {"user": features(), "item": item, "log_q": f32(np.log(counts[item] / ROWS))}


class BatchHardTriplet(pg.Step):
    """Hermans et al. 2017: hardest positive and hardest negative in the batch, soft margin."""

    def __init__(self):
        self.encoder = mlp(8, 16, 4)
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        x, y = batch

        def objective():
            e = self.encoder(x, training=True)
            sq = ops.sum(ops.square(e), axis=1)
            d2 = sq[:, None] - 2.0 * ops.matmul(e, ops.transpose(e)) + sq[None, :]
            d = ops.sqrt(ops.maximum(d2, 1e-12))
            same = ops.equal(y[:, None], y[None, :])
            hardest_positive = ops.max(ops.where(same, d, 0.0), axis=1)
            hardest_negative = ops.min(ops.where(same, 1e6, d), axis=1)
            return ops.mean(ops.softplus(hardest_positive - hardest_negative))

        return {"triplet": self.minimize(objective, self.optimizer, self.encoder)}

    @staticmethod
    def data():
        x = features(8)
        return x, classes(x, 4)


class RankNet(pg.Step):
    """Pairs of documents of the same query; twelve queries of eight documents, shuffled."""

    def __init__(self):
        self.scorer = mlp(5, 16, 1)
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        x, relevance, query = batch

        def objective():
            s = self.scorer(x, training=True)[:, 0]
            better = ops.logical_and(
                ops.equal(query[:, None], query[None, :]),
                ops.greater(relevance[:, None], relevance[None, :]),
            )
            better = ops.cast(better, "float32")
            losses = ops.softplus(-(s[:, None] - s[None, :])) * better
            return ops.sum(losses) / ops.maximum(ops.sum(better), 1.0)

        return {"loss": self.minimize(objective, self.optimizer, self.scorer)}

    @staticmethod
    def data():
        x = features(5)
        relevance = f32(np.digitize(x[:, 0] + 0.5 * x[:, 1], [-0.7, 0.0, 0.7]))
        return x, relevance, np.repeat(np.arange(12), 8).astype("int32")


class VICReg(pg.Step):
    """Invariance per row; variance and covariance over axis 0."""

    def __init__(self):
        self.encoder = mlp(6, 16, 8)
        self.seed = keras.random.SeedGenerator(3)
        self.optimizer = keras.optimizers.AdamW(1e-3)

    def train_step(self, x):
        a = x + keras.random.normal(ops.shape(x), stddev=0.2, seed=self.seed)
        b = x + keras.random.normal(ops.shape(x), stddev=0.2, seed=self.seed)

        def regularity(z):
            z = z - ops.mean(z, axis=0)
            n = ops.cast(ops.shape(z)[0], "float32")
            std = ops.sqrt(ops.var(z, axis=0) + 1e-4)
            cov = ops.matmul(ops.transpose(z), z) / (n - 1.0)
            off = ops.sum(ops.square(cov)) - ops.sum(ops.square(ops.diagonal(cov)))
            return 25.0 * ops.mean(ops.relu(1.0 - std)) + off / 8.0

        def objective():
            za, zb = self.encoder(a, training=True), self.encoder(b, training=True)
            return 25.0 * ops.mean(ops.square(za - zb)) + regularity(za) + regularity(zb)

        return {"loss": self.minimize(objective, self.optimizer, self.encoder)}

    @staticmethod
    def data():
        return features()


class MoCo(pg.Step):
    """A queue of keys of earlier batches as negatives; the key encoder is fixed, since `blend`
    is rejected under `accumulate` (PG209, see BYOL)."""

    def __init__(self):
        self.encoder = mlp(6, 16, 4)
        self.key_encoder = pg.copy_of(self.encoder)
        self.key_encoder.trainable = False
        start = rng(9).normal(size=(32, 4))
        start = f32(start / np.linalg.norm(start, axis=1, keepdims=True))
        self.queue = keras.Variable(start, trainable=False, name="queue")
        self.seed = keras.random.SeedGenerator(3)
        self.optimizer = keras.optimizers.SGD(0.03, momentum=0.9)

    def train_step(self, x):
        a = x + keras.random.normal(ops.shape(x), stddev=0.1, seed=self.seed)
        b = x + keras.random.normal(ops.shape(x), stddev=0.1, seed=self.seed)
        keys = ops.normalize(self.key_encoder(b, training=False), axis=-1)
        queue = ops.convert_to_tensor(self.queue)

        def objective():
            q = ops.normalize(self.encoder(a, training=True), axis=-1)
            positive = ops.sum(q * keys, axis=-1, keepdims=True)
            logits = ops.concatenate([positive, ops.matmul(q, ops.transpose(queue))], axis=1)
            zeros = ops.zeros(ops.shape(logits)[:1], "int32")
            return ops.sparse_categorical_crossentropy(zeros, logits / 0.2, from_logits=True)

        loss = self.minimize(objective, self.optimizer, self.encoder)
        kept = ops.concatenate([keys, queue], axis=0)[:32]
        self.queue.assign(ops.reshape(kept, (32, 4)))
        return {"loss": loss}

    @staticmethod
    def data():
        return features()


class Mixup(pg.Step):
    """Zhang et al. 2018: one lambda a batch, partners by a random permutation of the batch."""

    def __init__(self):
        self.model = mlp(6, 16, 3)
        self.seed = keras.random.SeedGenerator(3)
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch
        lam = keras.random.beta((), 0.4, 0.4, seed=self.seed)
        order = keras.random.shuffle(ops.arange(ops.shape(x)[0]), seed=self.seed)
        mixed = lam * x + (1.0 - lam) * ops.take(x, order, axis=0)
        partner = ops.take(y, order, axis=0)

        def objective():
            logits = self.model(mixed, training=True)

            def ce(t):
                return ops.sparse_categorical_crossentropy(t, logits, from_logits=True)

            return lam * ce(y) + (1.0 - lam) * ce(partner), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}

    @staticmethod
    def data():
        x = features()
        return x, classes(x, 3)


@keras.saving.register_keras_serializable()
class MinibatchStdDev(layers.Layer):
    """Karras et al. 2018: the mean deviation over the batch as one more feature."""

    def call(self, x):
        deviation = ops.mean(ops.sqrt(ops.var(x, axis=0) + 1e-8))
        column = ops.zeros_like(x[:, :1]) + deviation
        return ops.concatenate([x, column], axis=-1)


class DiscriminatorStdDev(pg.Step):
    """A discriminator with a minibatch layer, against a fixed generator."""

    def __init__(self):
        self.generator = mlp(4, 16, 6, name="generator")
        self.generator.trainable = False
        self.discriminator = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(16, activation="leaky_relu"),
                MinibatchStdDev(),
                layers.Dense(8, activation="leaky_relu"),
                layers.Dense(1),
            ],
            name="discriminator",
        )
        self.seed = keras.random.SeedGenerator(3)
        self.optimizer = keras.optimizers.Adam(1e-3, beta_1=0.0)
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)

    def train_step(self, real):
        noise = keras.random.normal((ops.shape(real)[0], 4), seed=self.seed)
        fake = self.generator(noise, training=False)

        def objective():
            on_real = self.discriminator(real, training=True)
            on_fake = self.discriminator(fake, training=True)
            return self.loss(ops.ones_like(on_real), on_real) + self.loss(
                ops.zeros_like(on_fake), on_fake
            )

        return {"d_loss": self.minimize(objective, self.optimizer, self.discriminator)}

    @staticmethod
    def data():
        return features()


class SwitchLayer(layers.Layer):
    """Mixture of experts, top 1, with the load-balancing loss of Switch Transformers."""

    def __init__(self, experts, units, **kwargs):
        super().__init__(**kwargs)
        self.experts = [layers.Dense(units, activation="gelu") for _ in range(experts)]
        self.router = layers.Dense(experts, use_bias=False)

    def build(self, shape):
        for layer in (*self.experts, self.router):
            layer.build(shape)
        self.built = True

    def call(self, x):
        probabilities = ops.softmax(self.router(x))
        chosen = ops.one_hot(ops.argmax(probabilities, axis=-1), len(self.experts))
        fraction = ops.mean(chosen, axis=0)
        mean_probability = ops.mean(probabilities, axis=0)
        self.add_loss(0.01 * len(self.experts) * ops.sum(fraction * mean_probability))
        outputs = ops.stack([expert(x) for expert in self.experts], axis=1)
        gate = ops.sum(probabilities * chosen, axis=-1, keepdims=True)
        return gate * ops.sum(outputs * chosen[:, :, None], axis=1)


class SwitchMoE(pg.Step):
    """The coupling is in an `add_loss` of a layer, with a small weight."""

    def __init__(self):
        inputs = keras.Input((8,))
        x = layers.Dense(8)(inputs)
        x = x + SwitchLayer(4, 8)(x)
        self.model = keras.Model(inputs, layers.Dense(1)(layers.LayerNormalization()(x)))
        self.loss = keras.losses.MeanSquaredError()
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        x, y = batch
        return {
            "loss": self.minimize(
                lambda: self.loss(y, self.model(x, training=True)), self.optimizer, self.model
            )
        }

    @staticmethod
    def data():
        x = features(8)
        return x, x[:, :1] * x[:, 1:2]


class NormalizedAdvantages(pg.Step):
    """PPO's clipped objective; advantages are normalized over the batch."""

    def __init__(self):
        self.policy, self.value = mlp(4, 16, 3, activation="tanh"), mlp(4, 16, 1, activation="tanh")
        self.optimizer = keras.optimizers.Adam(3e-4)

    def train_step(self, batch):
        state, action, old_logp, returns = batch

        def objective():
            value = self.value(state, training=True)[:, 0]
            advantage = ops.stop_gradient(returns - value)
            advantage = (advantage - ops.mean(advantage)) / (ops.std(advantage) + 1e-8)
            logp_all = ops.log_softmax(self.policy(state, training=True))
            logp = ops.sum(ops.one_hot(action, 3) * logp_all, axis=-1)
            ratio = ops.exp(logp - old_logp)
            clipped = ops.clip(ratio, 0.8, 1.2)
            surrogate = ops.minimum(ratio * advantage, clipped * advantage)
            entropy = -ops.sum(ops.exp(logp_all) * logp_all, axis=-1)
            return -surrogate + 0.5 * ops.square(returns - value) - 0.01 * entropy

        return {"loss": self.minimize(objective, self.optimizer, [self.policy, self.value])}

    @staticmethod
    def data():
        state = features(4)
        action = rng(5).integers(0, 3, ROWS).astype("int32")
        old = f32(np.log(rng(6).uniform(0.2, 0.5, ROWS)))
        return state, action, old, f32(state[:, 0] + (action == 1))


class HardExamples(pg.Step):
    """OHEM: only the hardest quarter of the batch counts."""

    def __init__(self):
        self.model = mlp(6, 16, 3)
        self.optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.model(x, training=True)
            losses = ops.sparse_categorical_crossentropy(y, logits, from_logits=True)
            hardest, _ = ops.top_k(losses, 4)
            return ops.mean(hardest), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}

    @staticmethod
    def data():
        x = features()
        return x, classes(x, 3)


# ------------------------------------------------------------------ ten that do not


class MaskedTagging(pg.Step):
    """Embedding with mask, LSTM; each example's own mean over its own valid steps."""

    def __init__(self):
        ids = keras.Input((7,), dtype="int32")
        x = layers.Embedding(12, 8, mask_zero=True)(ids)
        x = layers.Bidirectional(layers.LSTM(6, return_sequences=True, dropout=0.1))(x)
        self.model = keras.Model(ids, layers.Dense(3)(x))
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        ids, tags = batch
        valid = ops.cast(ops.not_equal(ids, 0), "float32")

        def objective():
            logits = self.model(ids, training=True)
            ce = keras.losses.sparse_categorical_crossentropy(tags, logits, from_logits=True)
            return ops.sum(ce * valid, axis=1) / ops.sum(valid, axis=1)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    @staticmethod
    def data():
        ids = rng(2).integers(1, 12, (ROWS, 7))
        lengths = rng(3).integers(2, 8, ROWS)
        ids = np.where(np.arange(7)[None] < lengths[:, None], ids, 0).astype("int32")
        return ids, (ids % 3).astype("int32")


class WeightedHuber(pg.Step):
    """Sample weights (a third of them 0) in a Keras loss; spectral normalization keeps a vector."""

    def __init__(self):
        self.model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.SpectralNormalization(layers.Dense(16, activation="relu")),
                layers.GaussianNoise(0.1),
                layers.Dense(1),
            ]
        )
        self.loss = keras.losses.Huber()
        self.rmse = keras.metrics.RootMeanSquaredError(name="rmse")
        self.optimizer = keras.optimizers.RMSprop(1e-3)

    def train_step(self, batch):
        x, y, weight = batch

        def objective():
            predicted = self.model(x, training=True)
            return self.loss(y, predicted, sample_weight=weight), predicted

        loss, predicted = self.minimize(objective, self.optimizer, self.model)
        self.rmse.update_state(y, predicted, sample_weight=weight)
        return {"loss": loss}

    @staticmethod
    def data():
        x = features()
        return x, x[:, :1] - x[:, 1:2], f32(rng(4).choice([0.0, 1.0, 2.5], ROWS))


class CausalLanguageModel(pg.Step):
    """A decoder block; the mean over tokens that are not padding, by `pg.mean`."""

    def __init__(self):
        ids = keras.Input((7,), dtype="int32")
        x = layers.Embedding(10, 8)(ids) + layers.Embedding(7, 8)(ops.arange(7))
        n = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 4, dropout=0.1)(n, n, use_causal_mask=True)
        n = layers.LayerNormalization()(x)
        x = x + layers.Dense(8)(layers.Dense(16, activation="gelu")(n))
        self.model = keras.Model(ids, layers.Dense(10)(layers.LayerNormalization()(x)))
        self.optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)

    def train_step(self, text):
        inputs, targets = text[:, :-1], text[:, 1:]

        def objective():
            logits = self.model(inputs, training=True)
            ce = ops.sparse_categorical_crossentropy(targets, logits, from_logits=True)
            return pg.mean(ce, weights=ops.not_equal(targets, 0))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    @staticmethod
    def data():
        ids = rng(2).integers(1, 10, (ROWS, 8))
        lengths = rng(3).integers(3, 9, ROWS)
        return np.where(np.arange(8)[None] < lengths[:, None], ids, 0).astype("int32")


class OwnNegatives(pg.Step):
    """InfoNCE in which each row brings its own positive and its own five negatives."""

    def __init__(self):
        self.query, self.document = mlp(6, 16, 8, name="query"), mlp(4, 16, 8, name="document")
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.top1 = keras.metrics.SparseCategoricalAccuracy(name="top1")

    def train_step(self, batch):
        query, positive, negatives = batch

        def objective():
            q = ops.normalize(self.query(query, training=True), axis=-1)
            candidates = ops.concatenate([positive[:, None, :], negatives], axis=1)
            flat = ops.reshape(candidates, (-1, 4))  # rows x 6 documents, as one batch
            d = ops.normalize(self.document(flat, training=True), axis=-1)
            d = ops.reshape(d, (-1, 6, 8))
            logits = ops.einsum("bd,bkd->bk", q, d) / 0.1
            target = ops.zeros_like(logits[:, 0], dtype="int32")
            ce = ops.sparse_categorical_crossentropy(target, logits, from_logits=True)
            return ops.mean(ce), (target, logits)

        loss, (target, logits) = self.minimize(
            objective, self.optimizer, [self.query, self.document]
        )
        self.top1.update_state(target, logits)
        return {"loss": loss}

    @staticmethod
    def data():
        x = features()
        return x, f32(x[:, :4] + 0.1), f32(rng(7).normal(size=(ROWS, 5, 4)))


class Sampling(layers.Layer):
    """The guide's reparameterization, with the KL term as `add_loss` (a mean over rows)."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(11)

    def call(self, inputs):
        mean, log_var = inputs
        kl = -0.5 * (1.0 + log_var - ops.square(mean) - ops.exp(log_var))
        self.add_loss(ops.mean(ops.sum(kl, axis=1)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_var) * noise


class AddLossVAE(pg.Step):
    def __init__(self):
        inputs = keras.Input((8,))
        h = layers.Dense(16, activation="relu")(inputs)
        z = Sampling()([layers.Dense(2)(h), layers.Dense(2)(h)])
        h = layers.Dense(16, activation="relu")(z)
        self.vae = keras.Model(inputs, layers.Dense(8)(h))
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.error = keras.metrics.MeanSquaredError(name="error")

    def train_step(self, x):
        def objective():
            rebuilt = self.vae(x, training=True)
            return ops.mean(ops.sum(ops.square(x - rebuilt), axis=1)), rebuilt

        loss, rebuilt = self.minimize(objective, self.optimizer, self.vae)
        self.error.update_state(x, rebuilt)
        return {"loss": loss}

    @staticmethod
    def data():
        return features(8)


class CriticWithPenalty(pg.Step):
    """WGAN-GP's critic: the penalty is on the gradient of each example by its own inputs."""

    def __init__(self):
        self.generator = mlp(4, 16, 6, name="generator")
        self.generator.trainable = False
        self.critic = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(16),
                layers.LayerNormalization(),
                layers.Activation("silu"),
                layers.Dense(1),
            ],
            name="critic",
        )
        self.seed = keras.random.SeedGenerator(3)
        self.optimizer = keras.optimizers.Adam(1e-4, beta_1=0.5, beta_2=0.9)

    def train_step(self, real):
        n = ops.shape(real)[0]
        fake = self.generator(keras.random.normal((n, 4), seed=self.seed), training=False)
        alpha = keras.random.uniform((n, 1), seed=self.seed)
        between = real + alpha * (fake - real)

        def objective():
            gradient = self.gradients(lambda x: ops.sum(self.critic(x, training=True)), between)
            norm = ops.sqrt(ops.sum(ops.square(gradient), axis=1) + 1e-12)
            penalty = ops.mean(ops.square(norm - 1.0))
            real_score = ops.mean(self.critic(real, training=True))
            fake_score = ops.mean(self.critic(fake, training=True))
            return fake_score - real_score + 10.0 * penalty, (penalty, real_score - fake_score)

        loss, (penalty, gap) = self.minimize(objective, self.optimizer, self.critic)
        return {"d_loss": loss, "gp": penalty, "wasserstein": gap}

    @staticmethod
    def data():
        return features()


class SeveralOutputs(pg.Step):
    """Adapted normalization, dropout, two heads, an auxiliary classifier half way up."""

    def __init__(self):
        normalization = layers.Normalization()
        normalization.adapt(self.data()[0])
        inputs = keras.Input((5,))
        h = layers.Dense(16, activation="relu")(normalization(inputs))
        auxiliary = layers.Dense(3, name="auxiliary")(h)
        h = layers.Dropout(0.3)(layers.Dense(16, activation="relu")(h))
        kind = layers.Dense(3, name="kind", kernel_regularizer="l2")(h)
        price = layers.Dense(1, name="price")(h)
        self.model = keras.Model(inputs, {"kind": kind, "price": price, "auxiliary": auxiliary})
        self.ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.mae = keras.losses.MeanAbsoluteError()
        self.optimizer = keras.optimizers.Nadam(1e-3)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="kind_accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            out = self.model(x, training=True)
            kind, price = self.ce(y["kind"], out["kind"]), self.mae(y["price"], out["price"])
            auxiliary = self.ce(y["kind"], out["auxiliary"])
            return kind + 0.5 * price + 0.3 * auxiliary, (kind, price, auxiliary, out["kind"])

        loss, (kind, price, auxiliary, logits) = self.minimize(
            objective, self.optimizer, self.model
        )
        self.accuracy.update_state(y["kind"], logits)
        return {"loss": loss, "kind": kind, "price": price, "auxiliary": auxiliary}

    @staticmethod
    def data():
        x = features(5)
        return f32(2.0 * x + 1.0), {"kind": classes(x, 3), "price": x[:, :1] + x[:, 1:2]}


class SimSiam(pg.Step):
    """No negatives: each row's prediction meets the stopped projection of its own other view."""

    def __init__(self):
        self.encoder, self.predictor = mlp(6, 16, 8, name="enc"), mlp(8, 4, 8, activation="tanh")
        self.seed = keras.random.SeedGenerator(3)
        self.optimizer = keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-4)

    def train_step(self, x):
        a = x + keras.random.normal(ops.shape(x), stddev=0.2, seed=self.seed)
        b = x * keras.random.uniform((ops.shape(x)[0], 1), 0.8, 1.2, seed=self.seed)

        def objective():
            za, zb = self.encoder(a, training=True), self.encoder(b, training=True)
            pa, pb = self.predictor(za, training=True), self.predictor(zb, training=True)
            cosine = keras.losses.CosineSimilarity(axis=-1)
            za, zb = ops.stop_gradient(za), ops.stop_gradient(zb)
            return 0.5 * cosine(zb, pa) + 0.5 * cosine(za, pb)

        return {"loss": self.minimize(objective, self.optimizer, [self.encoder, self.predictor])}

    @staticmethod
    def data():
        return features()


class Factorization(pg.Step):
    """Users and items by number, rows used repeatedly; activity regularizers, biases."""

    def __init__(self):
        user, item = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
        u = layers.Embedding(10, 6, activity_regularizer=keras.regularizers.L2(1e-2))(user)
        i = layers.Embedding(15, 6, embeddings_regularizer=keras.regularizers.L2(1e-4))(item)
        bias = layers.Embedding(15, 1)(item)[:, 0]
        rating = layers.Dot(axes=1)([u, i])[:, 0] + bias
        self.model = keras.Model([user, item], rating)
        self.optimizer = keras.optimizers.Adam(1e-2)
        self.mae = keras.metrics.MeanAbsoluteError(name="mae")

    def train_step(self, batch):
        (user, item), rating = batch

        def objective():
            predicted = self.model([user, item], training=True)
            return ops.square(rating - predicted), predicted

        loss, predicted = self.minimize(objective, self.optimizer, self.model)
        self.mae.update_state(rating[:, None], predicted[:, None])
        return {"loss": loss}

    @staticmethod
    def data():
        user = rng(2).integers(0, 10, ROWS).astype("int32")
        item = rng(3).integers(0, 15, ROWS).astype("int32")
        return (user, item), f32((user % 3) - (item % 2))


class FrozenBackbone(pg.Step):
    """The transfer-learning guide: a frozen base with BatchNorm in inference mode; focal loss
    with class weights by label, AUC as a metric."""

    def __init__(self):
        self.base = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(16),
                layers.BatchNormalization(),
                layers.ReLU(),
            ],
            name="base",
        )
        self.base.trainable = False
        inputs = keras.Input((6,))
        h = layers.Dropout(0.2)(self.base(inputs, training=False))
        self.model = keras.Model(inputs, layers.Dense(1)(h))
        self.class_weight = f32([0.5, 2.0])
        self.focal = keras.losses.BinaryFocalCrossentropy(
            from_logits=True, label_smoothing=0.05, reduction="none"
        )
        self.auc = keras.metrics.AUC(from_logits=True, name="auc")
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        x, y = batch
        weight = ops.take(self.class_weight, ops.cast(y[:, 0], "int32"))

        def objective():
            logits = self.model(x, training=True)
            return ops.mean(self.focal(y, logits) * weight), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.auc.update_state(y, logits)
        return {"loss": loss}

    @staticmethod
    def data():
        x = features()
        return x, f32(x[:, :1] + x[:, 2:3] > 0.8)


COUPLED = [
    SampledSoftmaxRetrieval,
    BatchHardTriplet,
    RankNet,
    VICReg,
    MoCo,
    Mixup,
    DiscriminatorStdDev,
    SwitchMoE,
    NormalizedAdvantages,
    HardExamples,
]
SEPARATE = [
    MaskedTagging,
    WeightedHuber,
    CausalLanguageModel,
    OwnNegatives,
    AddLossVAE,
    CriticWithPenalty,
    SeveralOutputs,
    SimSiam,
    Factorization,
    FrozenBackbone,
]
