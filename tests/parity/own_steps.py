"""Models whose `train_step` is their own, as Keras's guides write it for each framework."""

from __future__ import annotations

from typing import Any

import keras

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    class Tape(keras.Model):
        """The guide's step: a tape, `compute_loss`, `apply`, metrics one by one."""

        def train_step(self, data: Any) -> Any:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred, sample_weight=sample_weight)
            return {metric.name: metric.result() for metric in self.metrics}

    class Zipped(keras.Model):
        """The same with `apply_gradients` and `compute_metrics`, as older code has it."""

        def train_step(self, data: Any) -> Any:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred, sample_weight)
            self._loss_tracker.update_state(loss, sample_weight=tf.shape(y_pred)[0])
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            return self.compute_metrics(x, y, y_pred, sample_weight)

elif BACKEND == "torch":
    import torch

    class Tape(keras.Model):  # type: ignore[no-redef]
        """The guide's step: `backward`, then `apply` without recording."""

        def train_step(self, data: Any) -> Any:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            self.zero_grad()
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
            loss.backward()
            trainable_weights = list(self.trainable_weights)
            gradients = [v.value.grad for v in trainable_weights]
            with torch.no_grad():
                self.optimizer.apply(gradients, trainable_weights)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred, sample_weight=sample_weight)
            return {metric.name: metric.result() for metric in self.metrics}

    Zipped = Tape  # type: ignore[misc]

else:
    import jax

    class Tape(keras.Model):  # type: ignore[no-redef]
        """The guide's step: stateless calls, and the state in and out."""

        def loss_and_updates(
            self, trainable: Any, non_trainable: Any, x: Any, y: Any, sample_weight: Any
        ) -> Any:
            y_pred, non_trainable = self.stateless_call(trainable, non_trainable, x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight)
            return loss, (y_pred, non_trainable)

        def train_step(self, state: Any, data: Any) -> Any:
            trainable, non_trainable, optimizer, metrics = state
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            differentiated = jax.value_and_grad(self.loss_and_updates, has_aux=True)
            (loss, (y_pred, non_trainable)), gradients = differentiated(
                trainable, non_trainable, x, y, sample_weight
            )
            trainable, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trainable)
            logs, new_metrics = {}, []
            for metric in self.metrics:
                own = metrics[len(new_metrics) : len(new_metrics) + len(metric.variables)]
                if metric.name == "loss":
                    own = metric.stateless_update_state(own, loss)
                else:
                    own = metric.stateless_update_state(own, y, y_pred, sample_weight)
                logs[metric.name] = metric.stateless_result(own)
                new_metrics += own
            return logs, (trainable, non_trainable, optimizer, new_metrics)

    Zipped = Tape  # type: ignore[misc]
