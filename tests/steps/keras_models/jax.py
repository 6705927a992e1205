"""Keras's documented patterns of custom steps, as its guides write them for JAX."""

import jax
import keras
from keras import ops


class Stateless(keras.Model):
    """What the guide's models for JAX share: the loss as a pure function of the variables."""

    def loss_and_updates(
        self, trainable, non_trainable, metrics, x, y, sample_weight=None, training=False
    ):
        y_pred, non_trainable = self.stateless_call(trainable, non_trainable, x, training=training)
        # `compute_loss` would take the penalties of weights that are not those of the state.
        loss, _ = self.stateless_compute_loss(
            trainable, non_trainable, metrics, x, y, y_pred, sample_weight, training
        )
        return loss, (y_pred, non_trainable)

    def differentiated(self, state, x, y, sample_weight=None):
        grad_fn = jax.value_and_grad(self.loss_and_updates, has_aux=True)
        (loss, (y_pred, non_trainable)), grads = grad_fn(
            state[0], state[1], state[3], x, y, sample_weight, training=True
        )
        trainable, optimizer = self.optimizer.stateless_apply(state[2], grads, state[0])
        return loss, y_pred, (trainable, non_trainable, optimizer)

    def measured(self, metrics, loss, y, y_pred, **weights):
        after, logs = [], {}
        for metric in self.metrics:
            own = metrics[len(after) : len(after) + len(metric.variables)]
            if metric.name == "loss":
                own = metric.stateless_update_state(own, loss)
            else:
                own = metric.stateless_update_state(own, y, y_pred, **weights)
            logs[metric.name] = metric.stateless_result(own)
            after += own
        return logs, after


class Plain(Stateless):
    def train_step(self, state, data):
        x, y = data
        loss, y_pred, after = self.differentiated(state, x, y)
        logs, metrics = self.measured(state[3], loss, y, y_pred)
        return logs, (*after, metrics)


class OwnTracker(Stateless):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.mae_metric = keras.metrics.MeanAbsoluteError(name="mae")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(keras.losses.mean_squared_error(y, y_pred))

    def train_step(self, state, data):
        x, y = data
        loss, y_pred, after = self.differentiated(state, x, y)
        logs, metrics = self.measured(state[3], loss, y, y_pred)
        return logs, (*after, metrics)

    @property
    def metrics(self):
        return [self.loss_tracker, self.mae_metric]


class Weighted(Stateless):
    def train_step(self, state, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        loss, y_pred, after = self.differentiated(state, x, y, sample_weight)
        logs, metrics = self.measured(state[3], loss, y, y_pred, sample_weight=sample_weight)
        return logs, (*after, metrics)


class WithTestStep(Stateless):
    def test_step(self, state, data):
        x, y = data
        trainable, non_trainable, metrics = state
        loss, (y_pred, non_trainable) = self.loss_and_updates(
            trainable, non_trainable, metrics, x, y
        )
        logs, metrics = self.measured(metrics, loss, y, y_pred)
        return logs, (trainable, non_trainable, metrics)


class ReturnsLoss(Stateless):
    """Returns the loss itself, under the name of a tracker that it leaves alone."""

    name_of_loss = "loss"

    def train_step(self, state, data):
        x, y = data
        loss, _, after = self.differentiated(state, x, y)
        return {self.name_of_loss: loss}, (*after, state[3])


class ScalesLoss(Stateless):
    def train_step(self, state, data):
        x, y = data

        def scaled(trainable, non_trainable):
            loss, (_, non_trainable) = self.loss_and_updates(
                trainable, non_trainable, state[3], x, y, training=True
            )
            mapping = zip(self.optimizer.variables, state[2], strict=True)
            with keras.StatelessScope(mapping):
                return self.optimizer.scale_loss(loss), (loss, non_trainable)

        (_, (loss, non_trainable)), grads = jax.value_and_grad(scaled, has_aux=True)(
            state[0], state[1]
        )
        trainable, optimizer = self.optimizer.stateless_apply(state[2], grads, state[0])
        return {"loss": loss}, (trainable, non_trainable, optimizer, state[3])


class Both:
    """Two optimizers as one: JAX's state has a place for the variables of one."""

    def __init__(self, first, second):
        self.first, self.second, self.built = first, second, False

    @property
    def variables(self):
        return [*self.first.variables, *self.second.variables]

    def build(self, variables):
        count = len(variables) // 2
        self.first.build(variables[:count])
        self.second.build(variables[count:])
        self.built = True


class GAN(keras.Model):
    def __init__(self, discriminator, generator, latent_dim):
        super().__init__()
        self.discriminator, self.generator = discriminator, generator
        self.latent_dim = latent_dim
        self.seed_generator = keras.random.SeedGenerator(1337)
        self.d_loss_tracker = keras.metrics.Mean(name="d_loss")
        self.g_loss_tracker = keras.metrics.Mean(name="g_loss")
        self.built = True

    @property
    def metrics(self):
        return [self.d_loss_tracker, self.g_loss_tracker]

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer
        self.optimizer = Both(d_optimizer, g_optimizer)
        self.loss_fn = loss_fn

    def train_step(self, state, real_images):
        if isinstance(real_images, tuple):
            real_images = real_images[0]
        trainable, non_trainable, optimizers, metrics = state
        count = len(self.discriminator.trainable_variables)
        d_weights, g_weights = trainable[:count], trainable[count:]
        slots = len(self.d_optimizer.variables)
        d_slots, g_slots = optimizers[:slots], optimizers[slots:]
        batch_size = real_images.shape[0]
        mapping = zip(self.non_trainable_variables, non_trainable, strict=True)
        with keras.StatelessScope(mapping) as scope:
            first, second = (
                keras.random.normal((batch_size, self.latent_dim), seed=self.seed_generator)
                for _ in range(2)
            )
        non_trainable = [scope.get_current_value(v) for v in self.non_trainable_variables]

        def generated(weights, latent):
            return self.generator.stateless_call(weights, [], latent)[0]

        def judged(weights, images):
            return self.discriminator.stateless_call(weights, [], images)[0]

        combined = ops.concatenate([generated(g_weights, first), real_images], axis=0)
        labels = ops.concatenate([ops.ones((batch_size, 1)), ops.zeros((batch_size, 1))], axis=0)
        d_loss, grads = jax.value_and_grad(lambda w: self.loss_fn(labels, judged(w, combined)))(
            d_weights
        )
        d_weights, d_slots = self.d_optimizer.stateless_apply(d_slots, grads, d_weights)

        misleading = ops.zeros((batch_size, 1))
        g_loss, grads = jax.value_and_grad(
            lambda w: self.loss_fn(misleading, judged(d_weights, generated(w, second)))
        )(g_weights)
        g_weights, g_slots = self.g_optimizer.stateless_apply(g_slots, grads, g_weights)

        trackers = self.d_loss_tracker, self.g_loss_tracker
        size = len(trackers[0].variables)
        d_mean = trackers[0].stateless_update_state(metrics[:size], d_loss)
        g_mean = trackers[1].stateless_update_state(metrics[size:], g_loss)
        logs = {
            "d_loss": trackers[0].stateless_result(d_mean),
            "g_loss": trackers[1].stateless_result(g_mean),
        }
        after = [*d_weights, *g_weights], non_trainable, [*d_slots, *g_slots], [*d_mean, *g_mean]
        return logs, after
