"""Training loops on `tf.GradientTape`, as tutorials and repositories have them, and as Steps."""

import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import perigee as pg
from tests.strangers.corpus import by_loop
from tests.strangers.datasets import cancer, diabetes, digits, sentences, waves, wine

BATCH = 32


def batches(*arrays, size=BATCH):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def mlp(inputs, outputs, hidden=16, **options):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(hidden, activation="relu"),
            layers.Dense(outputs, **options),
        ]
    )


# The tutorial's loop, with a loss that reduces, and metrics reset by hand.


def plain_classifier():
    x, y = wine()
    model = mlp(13, 3)
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(0.01)
    train_acc = keras.metrics.SparseCategoricalAccuracy()

    @tf.function
    def train_one_step(xb, yb):
        with tf.GradientTape() as tape:
            logits = model(xb, training=True)
            loss_value = loss_fn(yb, logits)
        grads = tape.gradient(loss_value, model.trainable_weights)
        optimizer.apply_gradients(zip(grads, model.trainable_weights))
        train_acc.update_state(yb, logits)
        return loss_value

    losses, accuracies = [], []
    for _ in range(3):
        total = seen = 0
        for xb, yb in batches(x, y):
            total += float(train_one_step(xb, yb)) * len(xb)
            seen += len(xb)
        losses.append(total / seen)
        accuracies.append(float(train_acc.result()))
        train_acc.reset_state()
    return {"loss": losses, "acc": accuracies, "weights": model.get_weights()}


@by_loop(plain_classifier, only="tensorflow")
def classifier_with_its_tape():
    class Classifier(pg.Step):
        def __init__(self, model):
            self.model = model
            self.loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.optimizer = keras.optimizers.Adam(0.01)
            self.train_acc = keras.metrics.SparseCategoricalAccuracy(name="acc")

        @tf.function
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                logits = self.model(x, training=True)
                loss_value = self.loss_fn(y, logits)
            grads = tape.gradient(loss_value, self.model.trainable_weights)
            self.optimizer.apply_gradients(zip(grads, self.model.trainable_weights))
            self.train_acc.update_state(y, logits)
            return {"loss": loss_value}

    step = Classifier(mlp(13, 3))
    history = pg.fit(step, batches(*wine()), epochs=3, progress="off")
    return {
        "loss": history.history["loss"],
        "acc": history.history["acc"],
        "weights": step.model.get_weights(),
    }


# Clipping by global norm, with the learning rate set by hand each step.


def plain_clipped():
    x, y = diabetes()
    model = mlp(10, 1)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    seen, shown = keras.metrics.Mean(), []
    for xb, yb in batches(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.squeeze(model(xb, training=True), -1) - yb))
        grads = tape.gradient(loss, model.trainable_variables)
        grads, norm = tf.clip_by_global_norm(grads, 0.5)
        optimizer.learning_rate.assign(0.1 / (1.0 + tf.cast(optimizer.iterations, tf.float32)))
        optimizer.apply(grads, model.trainable_variables)
        seen.update_state(norm, len(xb))
        shown.append(float(seen.result()))
    return {"norm": shown, "weights": model.get_weights()}


@by_loop(plain_clipped, only="tensorflow")
def clipped_gradients_and_a_rate_set_inside():
    class Clipped(pg.Step):
        def __init__(self):
            self.net = mlp(10, 1)
            self.opt = keras.optimizers.SGD(0.1, momentum=0.9)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(tf.squeeze(self.net(x, training=True), -1) - y))
            grads = tape.gradient(loss, self.net.trainable_variables)
            grads, norm = tf.clip_by_global_norm(grads, 0.5)
            self.opt.learning_rate.assign(0.1 / (1.0 + tf.cast(self.opt.iterations, tf.float32)))
            self.opt.apply(grads, self.net.trainable_variables)
            return {"norm": norm}

    norms = []

    class Norms(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            norms.append(logs["norm"])

    step = Clipped()
    pg.fit(step, batches(*diabetes()), epochs=1, callbacks=[Norms()], progress="off")
    return {"norm": norms, "weights": step.net.get_weights()}


# A GAN in the way of the DCGAN tutorial: two tapes at once, two optimizers.

NOISE = 8


def generator_and_discriminator():
    generator = keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(32),
            layers.LeakyReLU(),
            layers.Dense(64, activation="sigmoid"),
        ]
    )
    discriminator = keras.Sequential(
        [keras.Input((64,)), layers.Dense(16), layers.LeakyReLU(), layers.Dense(1)]
    )
    return generator, discriminator


cross_entropy = keras.losses.BinaryCrossentropy(from_logits=True)


def discriminator_loss(real_output, fake_output):
    real_loss = cross_entropy(tf.ones_like(real_output), real_output)
    return real_loss + cross_entropy(tf.zeros_like(fake_output), fake_output)


def generator_loss(fake_output):
    return cross_entropy(tf.ones_like(fake_output), fake_output)


def images_and_noise():
    x, _ = digits(128)
    noise = np.random.default_rng(0).normal(size=(len(x), NOISE)).astype("float32")
    return x.reshape(-1, 64), noise


def plain_gan():
    generator, discriminator = generator_and_discriminator()
    generator_optimizer = keras.optimizers.Adam(1e-3)
    discriminator_optimizer = keras.optimizers.Adam(1e-3)

    @tf.function
    def train_step(images, noise):
        with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
            generated = generator(noise, training=True)
            real_output = discriminator(images, training=True)
            fake_output = discriminator(generated, training=True)
            gen_loss = generator_loss(fake_output)
            disc_loss = discriminator_loss(real_output, fake_output)
        generator_optimizer.apply_gradients(
            zip(
                gen_tape.gradient(gen_loss, generator.trainable_variables),
                generator.trainable_variables,
            )
        )
        discriminator_optimizer.apply_gradients(
            zip(
                disc_tape.gradient(disc_loss, discriminator.trainable_variables),
                discriminator.trainable_variables,
            )
        )
        return gen_loss, disc_loss

    sums = np.zeros(2)
    for images, noise in batches(*images_and_noise()):
        sums += [float(v) for v in train_step(images, noise)]
    return {
        "losses": sums / 4,
        "weights": generator.get_weights() + discriminator.get_weights(),
    }


@by_loop(plain_gan, only="tensorflow")
def gan_with_two_tapes():
    class GAN(pg.Step):
        def __init__(self):
            self.generator, self.discriminator = generator_and_discriminator()
            self.generator_optimizer = keras.optimizers.Adam(1e-3)
            self.discriminator_optimizer = keras.optimizers.Adam(1e-3)

        def train_step(self, batch):
            images, noise = batch
            with tf.GradientTape() as gen_tape, tf.GradientTape() as disc_tape:
                generated = self.generator(noise, training=True)
                real_output = self.discriminator(images, training=True)
                fake_output = self.discriminator(generated, training=True)
                gen_loss = generator_loss(fake_output)
                disc_loss = discriminator_loss(real_output, fake_output)
            gen_grads = gen_tape.gradient(gen_loss, self.generator.trainable_variables)
            disc_grads = disc_tape.gradient(disc_loss, self.discriminator.trainable_variables)
            self.generator_optimizer.apply_gradients(
                zip(gen_grads, self.generator.trainable_variables)
            )
            self.discriminator_optimizer.apply_gradients(
                zip(disc_grads, self.discriminator.trainable_variables)
            )
            return {"g": gen_loss, "d": disc_loss}

    step = GAN()
    history = pg.fit(step, batches(*images_and_noise()), epochs=1, progress="off")
    return {
        "losses": [history.history["g"][0], history.history["d"][0]],
        "weights": step.generator.get_weights() + step.discriminator.get_weights(),
    }


# Gradient accumulation by hand, in variables.


def plain_accumulated():
    x, y = cancer()
    model = mlp(30, 1)
    optimizer = keras.optimizers.Adam(0.01)
    sums = [tf.zeros_like(v) for v in model.trainable_variables]
    for index, (xb, yb) in enumerate(batches(x, y)):
        with tf.GradientTape() as tape:
            loss = keras.losses.BinaryCrossentropy(from_logits=True)(
                yb[:, None], model(xb, training=True)
            )
        grads = tape.gradient(loss, model.trainable_variables)
        sums = [a + g / 2 for a, g in zip(sums, grads, strict=True)]
        if index % 2:
            optimizer.apply(sums, model.trainable_variables)
            sums = [tf.zeros_like(v) for v in sums]
    return {"weights": model.get_weights()}


@by_loop(plain_accumulated, only="tensorflow")
def accumulation_by_hand_with_tf_cond():
    class Accumulated(pg.Step):
        def __init__(self):
            self.model = mlp(30, 1)
            self.optimizer = keras.optimizers.Adam(0.01)
            self.optimizer.build(self.model.trainable_variables)
            self.sums = [
                tf.Variable(tf.zeros(v.shape), trainable=False)
                for v in self.model.trainable_variables
            ]
            self.count = tf.Variable(0, trainable=False)

        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as tape:
                loss = keras.losses.BinaryCrossentropy(from_logits=True)(
                    y[:, None], self.model(x, training=True)
                )
            grads = tape.gradient(loss, self.model.trainable_variables)
            for total, grad in zip(self.sums, grads):
                total.assign_add(grad / 2)
            self.count.assign_add(1)
            if self.count % 2 == 0:
                self.optimizer.apply([s.value() for s in self.sums], self.model.trainable_variables)
                for total in self.sums:
                    total.assign(tf.zeros_like(total))
            return {"loss": loss}

    step = Accumulated()
    pg.fit(step, batches(*cancer()), epochs=1, progress="off")
    return {"weights": step.model.get_weights()}


# A variational autoencoder with its own draws from TensorFlow's stateless functions.


class Sampling(layers.Layer):
    def call(self, inputs):
        mean, log_var = inputs
        noise = tf.random.stateless_normal(tf.shape(mean), seed=[1, 2])
        return mean + tf.exp(0.5 * log_var) * noise


def encoder_and_decoder():
    inputs = keras.Input((64,))
    hidden = layers.Dense(16, activation="relu")(inputs)
    mean, log_var = layers.Dense(2, name="mean")(hidden), layers.Dense(2, name="log_var")(hidden)
    encoder = keras.Model(inputs, [mean, log_var, Sampling()([mean, log_var])])
    decoder = keras.Sequential(
        [keras.Input((2,)), layers.Dense(16, activation="relu"), layers.Dense(64)]
    )
    return encoder, decoder


def elbo(x, encoder, decoder):
    mean, log_var, z = encoder(x, training=True)
    bits = tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=decoder(z, training=True))
    kl = -0.5 * (1 + log_var - tf.square(mean) - tf.exp(log_var))
    return tf.reduce_sum(bits, axis=1), tf.reduce_sum(kl, axis=1)


def plain_vae():
    x = images_and_noise()[0]
    encoder, decoder = encoder_and_decoder()
    optimizer = keras.optimizers.Adam(1e-3)
    total = keras.metrics.Mean()
    for (xb,) in batches(x):
        with tf.GradientTape() as tape:
            reconstruction, kl = elbo(xb, encoder, decoder)
            loss = tf.reduce_mean(reconstruction + kl)
        weights = encoder.trainable_weights + decoder.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        total.update_state(loss)
    return {
        "loss": [float(total.result())],
        "weights": encoder.get_weights() + decoder.get_weights(),
    }


@by_loop(plain_vae, only="tensorflow")
def variational_autoencoder_fed_with_x_alone():
    class VAE(pg.Step):
        def __init__(self):
            self.encoder, self.decoder = encoder_and_decoder()
            self.optimizer = keras.optimizers.Adam(1e-3)

        def train_step(self, x):
            with tf.GradientTape() as tape:
                reconstruction, kl = elbo(x, self.encoder, self.decoder)
                loss = tf.reduce_mean(reconstruction + kl)
            weights = self.encoder.trainable_weights + self.decoder.trainable_weights
            grads = tape.gradient(loss, weights)
            self.optimizer.apply_gradients(zip(grads, weights))
            return {"loss": loss, "kl": tf.reduce_mean(kl)}

    step = VAE()
    x = images_and_noise()[0]
    history = pg.fit(step, x, epochs=1, batch_size=BATCH, shuffle=False, progress="off")
    return {
        "loss": history.history["loss"],
        "weights": step.encoder.get_weights() + step.decoder.get_weights(),
    }


# A loop that clips values, decays weights by hand, and evaluates with another tf.function.


def plain_decayed():
    x, y = diabetes()
    model = mlp(10, 1)
    optimizer = keras.optimizers.RMSprop(1e-3)
    validated = []
    for _ in range(2):
        for xb, yb in batches(x[:320], y[:320]):
            with tf.GradientTape() as tape:
                tape.watch(model.trainable_variables[0].value)
                error = keras.losses.huber(yb[:, None], model(xb, training=True))
                loss = tf.reduce_mean(error) + 1e-3 * tf.add_n(
                    [tf.nn.l2_loss(w) for w in model.trainable_weights if "kernel" in w.path]
                )
            grads = tape.gradient(loss, model.trainable_weights)
            grads = [tf.clip_by_value(g, -0.1, 0.1) for g in grads]
            optimizer.apply_gradients(zip(grads, model.trainable_weights))
        validated.append(float(np.mean(np.square(y[320:] - model(x[320:])[:, 0]))))
    return {"val": validated, "weights": model.get_weights()}


@by_loop(plain_decayed, only="tensorflow")
def weight_decay_by_hand_and_a_test_step():
    class Decayed(pg.Step):
        def __init__(self):
            self.model = mlp(10, 1)
            self.optimizer = keras.optimizers.RMSprop(1e-3)

        def train_step(self, batch):
            x, y = batch
            kernels = [w for w in self.model.trainable_weights if "kernel" in w.path]
            with tf.GradientTape() as tape:
                error = keras.losses.huber(y[:, None], self.model(x, training=True))
                loss = tf.reduce_mean(error) + 1e-3 * tf.add_n([tf.nn.l2_loss(w) for w in kernels])
            grads = tape.gradient(loss, self.model.trainable_weights)
            grads = [tf.clip_by_value(g, -0.1, 0.1) for g in grads]
            self.optimizer.apply_gradients(zip(grads, self.model.trainable_weights))
            return {"loss": loss}

        def test_step(self, batch):
            x, y = batch
            y_pred = tf.squeeze(self.model(x, training=False), axis=1)
            return {"mse": tf.square(y - y_pred)}

    x, y = diabetes()
    step = Decayed()
    history = pg.fit(
        step,
        batches(x[:320], y[:320]),
        epochs=2,
        validation=batches(x[320:], y[320:], size=50),
        progress="off",
    )
    return {"val": history.history["val_mse"], "weights": step.model.get_weights()}


# Adversarial training: the gradient with respect to the inputs, in a tape within the step.


def adversarial_loss(model, x, y):
    loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with tf.GradientTape() as inner:
        inner.watch(x)
        clean = loss_fn(y, model(x, training=True))
    signed = tf.sign(inner.gradient(clean, x))
    return clean, loss_fn(y, model(tf.stop_gradient(x + 0.1 * signed), training=True))


def plain_fgsm():
    model = mlp(13, 3)
    optimizer = keras.optimizers.Adam()
    for x, y in batches(*wine()):
        with tf.GradientTape() as tape:
            clean, attacked = adversarial_loss(model, x, y)
            loss = 0.5 * clean + 0.5 * attacked
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        )
    return {"weights": model.get_weights()}


@by_loop(plain_fgsm, only="tensorflow")
def adversarial_examples_by_a_tape_inside_the_objective():
    class Fgsm(pg.Step):
        def __init__(self):
            self.model = mlp(13, 3)
            self.optimizer = keras.optimizers.Adam()

        def train_step(self, batch):
            x, y = batch

            def objective():
                clean, attacked = adversarial_loss(self.model, x, y)
                return 0.5 * clean + 0.5 * attacked

            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    step = Fgsm()
    pg.fit(step, batches(*wine()), epochs=1, progress="off")
    return {"weights": step.model.get_weights()}


# A sequence model whose loss is masked by hand, with a loop over time in Python.


class CharModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(50, 8)
        self.cell = layers.GRUCell(8)
        self.readout = layers.Dense(50)

    def call(self, ids, training=False):
        vectors = self.embedding(ids)
        state = [tf.zeros((tf.shape(ids)[0], 8))]
        outputs = []
        for t in range(ids.shape[1]):
            output, state = self.cell(vectors[:, t], state, training=training)
            outputs.append(self.readout(output))
        return tf.stack(outputs, axis=1)


def masked_loss(real, pred):
    mask = tf.cast(tf.not_equal(real, 0), tf.float32)
    loss = keras.losses.sparse_categorical_crossentropy(real, pred, from_logits=True)
    return tf.reduce_sum(loss * mask) / tf.reduce_sum(mask)


def plain_char_model():
    ids = sentences(96, 6)[0]
    model, optimizer = CharModel(), keras.optimizers.Adam(0.01)
    for (batch,) in batches(ids):
        with tf.GradientTape() as tape:
            loss = masked_loss(batch[:, 1:], model(batch[:, :-1], training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        )
    return {"weights": model.get_weights()}


@by_loop(plain_char_model, only="tensorflow")
def characters_with_a_masked_loss_and_a_python_loop_over_time():
    class Characters(pg.Step):
        def __init__(self):
            self.model, self.optimizer = CharModel(), keras.optimizers.Adam(0.01)

        def train_step(self, batch):
            inputs, targets = batch[:, :-1], batch[:, 1:]
            with tf.GradientTape() as tape:
                loss = masked_loss(targets, self.model(inputs, training=True))
            variables = self.model.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
            return {"loss": loss}

    ids = sentences(96, 6)[0]
    step = Characters()
    pg.fit(step, ids, epochs=1, batch_size=BATCH, shuffle=False, progress="off")
    return {"weights": step.model.get_weights()}


# A persistent tape, a teacher by moving averages, and a decorator around the step.


def traced(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with tf.name_scope(function.__name__):
            return function(*args, **kwargs)

    return wrapper


def plain_mean_teacher():
    x, y = waves()
    student, teacher = mlp(20, 1), mlp(20, 1)
    teacher.set_weights(student.get_weights())
    head, body = keras.optimizers.SGD(0.05), keras.optimizers.Adam(0.01)
    for xb, yb in batches(x[..., 0], y):
        with tf.GradientTape(persistent=True) as tape:
            out = student(xb, training=True)
            task = tf.reduce_mean((out - yb) ** 2)
            consistency = tf.reduce_mean((out - teacher(xb)) ** 2)
            loss = task + 0.1 * consistency
        below, above = student.trainable_variables[:2], student.trainable_variables[2:]
        g_below, g_above = tape.gradient(loss, below), tape.gradient(loss, above)
        body.apply_gradients(zip(g_below, below))
        head.apply_gradients(zip(g_above, above))
        for t, s in zip(teacher.weights, student.weights):
            t.assign(0.9 * t + 0.1 * s)
    return {"weights": student.get_weights() + teacher.get_weights()}


@by_loop(plain_mean_teacher, only="tensorflow")
def mean_teacher_with_a_persistent_tape():
    class MeanTeacher(pg.Step):
        def __init__(self):
            self.student, self.teacher = mlp(20, 1), mlp(20, 1)
            self.teacher.set_weights(self.student.get_weights())
            self.head, self.body = keras.optimizers.SGD(0.05), keras.optimizers.Adam(0.01)

        @traced
        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape(persistent=True) as tape:
                out = self.student(x, training=True)
                task = tf.reduce_mean((out - y) ** 2)
                consistency = tf.reduce_mean((out - self.teacher(x)) ** 2)
                loss = task + 0.1 * consistency
            below = self.student.trainable_variables[:2]
            above = self.student.trainable_variables[2:]
            g_below, g_above = tape.gradient(loss, below), tape.gradient(loss, above)
            self.body.apply_gradients(zip(g_below, below))
            self.head.apply_gradients(zip(g_above, above))
            for t, s in zip(self.teacher.weights, self.student.weights):
                t.assign(0.9 * t + 0.1 * s)
            return {"task": task, "consistency": consistency}

    x, y = waves()
    step = MeanTeacher()
    pg.fit(step, batches(x[..., 0], y), epochs=1, progress="off")
    return {"weights": step.student.get_weights() + step.teacher.get_weights()}


# Deep Q learning on a buffer: a target network that is copied every few steps.


def transitions():
    rng = np.random.default_rng(4)
    state = rng.normal(size=(160, 4)).astype("float32")
    action = rng.integers(0, 2, 160).astype("int32")
    reward = rng.normal(size=160).astype("float32")
    following = rng.normal(size=(160, 4)).astype("float32")
    done = (rng.random(160) < 0.1).astype("float32")
    return {"s": state, "a": action, "r": reward, "s2": following, "done": done}


def td_loss(model, target, batch):
    future = tf.reduce_max(target(batch["s2"]), axis=1)
    updated = batch["r"] + 0.9 * future * (1 - batch["done"])
    masks = tf.one_hot(batch["a"], 2)
    q_action = tf.reduce_sum(tf.multiply(model(batch["s"]), masks), axis=1)
    return keras.losses.Huber()(updated, q_action)


def plain_dqn():
    model, target = mlp(4, 2), mlp(4, 2)
    optimizer = keras.optimizers.Adam(learning_rate=0.00025, clipnorm=1.0)
    count = 0
    for batch in tf.data.Dataset.from_tensor_slices(transitions()).batch(16):
        with tf.GradientTape() as tape:
            loss = td_loss(model, target, batch)
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables))
        count += 1
        if count % 4 == 0:
            target.set_weights(model.get_weights())
    return {"weights": model.get_weights() + target.get_weights()}


@by_loop(plain_dqn, only="tensorflow")
def deep_q_learning_with_a_hook_that_copies_the_target():
    class DQN(pg.Step):
        def __init__(self):
            self.model, self.target = mlp(4, 2), mlp(4, 2)
            self.optimizer = keras.optimizers.Adam(learning_rate=0.00025, clipnorm=1.0)

        def train_step(self, batch):
            with tf.GradientTape() as tape:
                loss = td_loss(self.model, self.target, batch)
            grads = tape.gradient(loss, self.model.trainable_variables)
            self.optimizer.apply_gradients(zip(grads, self.model.trainable_variables))
            return {"loss": loss}

    class CopyTarget(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if (batch + 1) % 4 == 0:
                step.target.set_weights(step.model.get_weights())

    step = DQN()
    data = tf.data.Dataset.from_tensor_slices(transitions()).batch(16)
    pg.fit(step, data, callbacks=[CopyTarget()], progress="off")
    return {"weights": step.model.get_weights() + step.target.get_weights()}


# Regression with a loss that is never reduced by its author, and tf.Module for a model.


class Line(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.zeros((10, 1)), name="w")
        self.b = tf.Variable(0.0, name="b")

    def __call__(self, x):
        return x @ self.w + self.b


def plain_line():
    x, y = diabetes()
    line = Line()
    for xb, yb in batches(x, y):
        with tf.GradientTape() as t:
            loss = tf.reduce_mean(tf.square(yb[:, None] - line(xb)))
        dw, db = t.gradient(loss, [line.w, line.b])
        line.w.assign_sub(0.1 * dw)
        line.b.assign_sub(0.1 * db)
    return {"w": line.w.numpy(), "b": line.b.numpy()}


@by_loop(plain_line, only="tensorflow")
def a_tf_module_trained_by_assign_sub():
    class Linear(pg.Step):
        def __init__(self):
            self.line = Line()

        def train_step(self, batch):
            x, y = batch
            with tf.GradientTape() as t:
                loss = tf.reduce_mean(tf.square(y[:, None] - self.line(x)))
            dw, db = t.gradient(loss, [self.line.w, self.line.b])
            self.line.w.assign_sub(0.1 * dw)
            self.line.b.assign_sub(0.1 * db)
            return {"loss": loss}

    step = Linear()
    pg.fit(step, diabetes(), epochs=1, batch_size=BATCH, shuffle=False, progress="off")
    return {"w": step.line.w.numpy(), "b": step.line.b.numpy()}
