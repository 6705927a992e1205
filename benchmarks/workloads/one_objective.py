"""Workloads with one model, one loss and one optimizer, and how they are trained by hand."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import keras

from benchmarks.workloads._workload import Workload


class OneObjective(Workload):
    """A workload whose step minimizes one loss of one model."""

    @abstractmethod
    def model(self) -> keras.Model:
        """Return the model, built."""

    @abstractmethod
    def inputs(self, batch: Any) -> Any:
        """Return what of a batch the model takes."""

    @abstractmethod
    def objective(self, batch: Any, outputs: Any) -> tuple[Any, Any]:
        """Return the loss, a scalar, and whatever the metrics need of it."""

    @abstractmethod
    def metrics(self) -> list[keras.Metric]:
        """Return what a loop by hand logs."""

    @abstractmethod
    def updates(self, batch: Any, loss: Any, aux: Any) -> list[tuple[Any, ...]]:
        """Return the arguments of each metric's `update_state`, in the order of `metrics`."""

    def optimizer(self, **settings: Any) -> keras.optimizers.Optimizer:
        """Return the optimizer, unbuilt."""
        return keras.optimizers.Adam(1e-3, **settings)

    def tensorflow_step(self) -> TensorFlowByHand:
        return TensorFlowByHand(self)

    def jax_step(self) -> JaxByHand:
        return JaxByHand(self)

    def torch_step(self) -> TorchByHand:
        return TorchByHand(self)


class _Imperative:
    """A step that changes variables. Micro-batches come as one large batch, taken one by one."""

    def __init__(self, workload: OneObjective) -> None:
        self.workload = workload
        self.model, self.optimizer = workload.model(), workload.optimizer()
        self.optimizer.build(self.model.trainable_variables)
        self.metrics = workload.metrics()

    def update(self, batch: Any) -> list[list[tuple[Any, ...]]]:
        variables = self.model.trainable_variables
        count = self.workload.micro_batches
        recorded = []
        sums: list[Any] = []
        for micro in _split(batch, count):
            gradients, values = self.gradients(micro)
            sums = [a + b for a, b in zip(sums, gradients, strict=True)] if sums else gradients
            recorded.append(values)
        if count > 1:
            sums = [total / count for total in sums]
        self.optimizer.apply(sums, variables)
        return recorded

    def record(self, values: list[list[tuple[Any, ...]]]) -> None:
        for micro in values:
            for metric, arguments in zip(self.metrics, micro, strict=True):
                metric.update_state(*arguments)

    def gradients(self, batch: Any) -> tuple[list[Any], list[tuple[Any, ...]]]:
        """Return gradients, and the arguments of the metrics."""
        raise NotImplementedError


class TensorFlowByHand(_Imperative):
    """The tutorials' step."""

    def gradients(self, batch: Any) -> tuple[list[Any], list[tuple[Any, ...]]]:
        import tensorflow as tf

        workload = self.workload
        with tf.GradientTape() as tape:
            outputs = self.model(workload.inputs(batch), training=True)
            loss, aux = workload.objective(batch, outputs)
        watched = [variable.value for variable in self.model.trainable_variables]
        return tape.gradient(loss, watched), workload.updates(batch, loss, aux)


class TorchByHand(_Imperative):
    """The guides' step."""

    def update(self, batch: Any) -> list[list[tuple[Any, ...]]]:
        import torch

        variables = self.model.trainable_variables
        self.model.zero_grad()
        recorded = []
        count = self.workload.micro_batches
        for micro in _split(batch, count):
            outputs = self.model(self.workload.inputs(micro), training=True)
            loss, aux = self.workload.objective(micro, outputs)
            (loss / count).backward()
            aux = keras.tree.map_structure(lambda tensor: tensor.detach(), aux)
            recorded.append(self.workload.updates(micro, loss.detach(), aux))
        with torch.no_grad():
            self.optimizer.apply([v.value.grad for v in variables], variables)
        return recorded


class JaxByHand:
    """The guides' step. Micro-batches come as one large batch and are taken one by one."""

    def __init__(self, workload: OneObjective) -> None:
        self.workload = workload
        self.model, self.optimizer = workload.model(), workload.optimizer()
        self.optimizer.build(self.model.trainable_variables)
        self.metrics = workload.metrics()

    def state(self) -> dict[str, Any]:
        return {
            "weights": [v.value for v in self.model.trainable_variables],
            "rest": [v.value for v in self.model.non_trainable_variables],
            "slots": [v.value for v in self.optimizer.variables],
            "metrics": [[v.value for v in metric.variables] for metric in self.metrics],
        }

    def update(self, state: dict[str, Any], batch: Any, records: bool = True) -> dict[str, Any]:
        import jax

        weights, rest, metrics = state["weights"], state["rest"], state["metrics"]
        count = self.workload.micro_batches
        sums = None
        for micro in _split(batch, count):
            gradients, rest, values = self._gradients(weights, rest, micro)
            sums = gradients if sums is None else jax.tree.map(lambda a, b: a + b, sums, gradients)
            if records:
                metrics = [
                    metric.stateless_update_state(variables, *arguments)
                    for metric, variables, arguments in zip(
                        self.metrics, metrics, values, strict=True
                    )
                ]
        if count > 1:
            sums = jax.tree.map(lambda total: total / count, sums)
        weights, slots = self.optimizer.stateless_apply(state["slots"], sums, weights)
        return {"weights": weights, "rest": rest, "slots": slots, "metrics": metrics}

    def _gradients(self, weights: Any, rest: Any, batch: Any) -> tuple[Any, Any, Any]:
        import jax

        workload = self.workload

        def objective(weights: Any) -> tuple[Any, Any]:
            outputs, changed = self.model.stateless_call(
                weights, rest, workload.inputs(batch), training=True
            )
            loss, aux = workload.objective(batch, outputs)
            return loss, (changed, workload.updates(batch, loss, aux))

        gradients, (changed, values) = jax.grad(objective, has_aux=True)(weights)
        return gradients, changed, values


def _split(batch: Any, count: int) -> list[Any]:
    """Return the micro-batches of a batch, one after another."""
    if count == 1:
        return [batch]
    parts = [keras.ops.split(leaf, count) for leaf in batch]
    return list(zip(*parts, strict=True))
