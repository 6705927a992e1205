"""`KerasStep`: the unchanged steps of a compiled `keras.Model`."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import keras
from keras import ops

from perigee import _backends
from perigee._errors import (
    ArgumentError,
    FrozenSinceBuiltError,
    OutputsError,
    door,
)
from perigee._listening import Call, Returned, Talk, listening
from perigee._rehearsal.recorder import StepRecorder
from perigee._step.frame import Method, current_frame
from perigee._step.keras_names import model_of
from perigee._step.state import nested_layers, unlisted_state
from perigee._step.step import Step
from perigee._typing import Batch, Tensor, Tree

_plain = _backends.current().plain

_STATE: Mapping[Method, Sequence[str]] = {
    "train_step": ("trainable", "non_trainable", "optimizer", "metrics"),
    "test_step": ("trainable", "non_trainable", "metrics"),
    "predict_step": ("trainable", "non_trainable"),
}
"""The parts of `state` of each stateless method, in order."""

_CHANGED_BY_KERAS = frozenset({"built", "stop_evaluating", "stop_predicting", "stop_training"})


class KerasStep(Step):
    """A compiled `keras.Model`, with or without overridden steps, trained unchanged.

    The model's own `train_step`, `test_step` and `predict_step` run: on TensorFlow and torch
    `train_step(self, data)`, on JAX the stateless `train_step(self, state, data)`. What they return
    is logged. Results of metrics are read at the end of an epoch; any other value becomes the exact
    mean over the epoch, where Keras's `fit` keeps that of the last batch, or 0.0. A value returned
    under the name of a metric that the step updates is replaced by the metric, as in `fit`.

    `model.compile` may be called again between two calls of `pg.fit`.

    >>> model.compile("adam", "mse")
    >>> history = pg.fit(pg.KerasStep(model), (x, y), epochs=3)

    Args:
        model: A compiled model, trained in place; `predict` takes one that is not compiled, too.
        class_weight: As in `fit`: weights by class id, which `train_step` gets as sample weights.
            Other classes have weight 1.

    Raises:
        ArgumentError: If `model` is not a `keras.Model`; when it is trained or measured, if it is
            not compiled.
        OutputsError: If several losses are given for the only output: Keras drops all but one.
    """

    @door
    def __init__(
        self, model: keras.Model, *, class_weight: Mapping[int, float] | None = None
    ) -> None:
        if not isinstance(model, keras.Model):
            raise ArgumentError("model", type(model).__name__, "a `keras.Model`.", model_of(model))
        _refuse_dropped_losses(model)
        self.model = model
        self.parts: _Parts = _Parts(model)
        self.class_weight: dict[int, float] | None = (
            None if class_weight is None else dict(class_weight)
        )

    @property
    def _keras_model(self) -> keras.Model:
        """The model whose own steps run."""
        return self.model

    @_plain
    def train_step(self, batch: Batch) -> dict[str, Any]:
        """Run the model's `train_step`.

        Args:
            batch: The `data` of the model's `train_step`.

        Returns:
            Its result, flattened.
        """
        if self.class_weight is not None:
            batch = _weighted(batch, self.class_weight)
        logs = self._logs("train_step", batch)
        if _recorder() is not None and keras.backend.backend() == "torch":
            self.model.zero_grad()  # type: ignore[attr-defined]  # a rehearsal leaves no trace
        return logs

    @_plain
    def test_step(self, batch: Batch) -> dict[str, Any]:
        """Run the model's `test_step`.

        Args:
            batch: The `data` of the model's `test_step`.

        Returns:
            Its result, flattened.
        """
        return self._logs("test_step", batch)

    @_plain
    def predict_step(self, batch: Batch) -> Tree:
        """Run the model's `predict_step`.

        Args:
            batch: The `data` of the model's `predict_step`.

        Returns:
            Its result.
        """
        return self._run("predict_step", batch)

    @_plain
    def num_examples(self, batch: Batch) -> Tensor | int | None:
        """Return the first size of the first input that is an array, as Keras does."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        arrays = (leaf for leaf in keras.tree.flatten(x) if len(getattr(leaf, "shape", ())) > 0)
        return next((ops.shape(array)[0] for array in arrays), None)

    @property
    def is_compiled_eager(self) -> bool:
        """Whether the model runs op by op in Keras.

        On JAX it also does with `jit_compile=False`, and where a layer does not support `jit`.
        """
        is_jax = keras.backend.backend() == "jax"
        return self.model.run_eagerly or (is_jax and not self.model.jit_compile)

    @property
    def seen_by_callbacks(self) -> keras.Model:
        """The model that callbacks get."""
        return self.model

    def _before_rehearsal(self, method: Method, batch: Batch) -> None:
        """Build the state of the stateless methods on JAX, as `fit` does."""
        if method != "predict_step":
            check_compiled(self.model)
        model: Any = self.model
        if keras.backend.backend() != "jax":
            if method == "train_step":
                _build_as_fit(model)
            return
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        layers = nested_layers(model)
        is_new = not all(layer.built for layer in layers)
        has_new_metrics = any(not getattr(metric, "built", True) for metric in model.metrics)
        trackers = [value for value in vars(model).values() if _has_trackers(value)]

        def build() -> None:
            # Assignments within a scope are dropped; created variables stay.
            with _backends.current().watch(listening, layers), keras.StatelessScope():
                y_pred = model(x, training=False)
            weights = [(variable, variable.value) for variable in model.trainable_variables]
            with keras.StatelessScope(weights):  # penalties are computed from these
                if model.loss is not None and method != "predict_step":
                    _compute_loss(model, x, y, y_pred, sample_weight, method == "train_step")
                if has_new_metrics and method != "predict_step":
                    model.compute_metrics(x, y, y_pred, sample_weight)

        if is_new or not all(getattr(tracker, "built", True) for tracker in trackers):
            # Traced, since JAX compiles each operation that runs on its own.
            _backends.current().rehearse(build, [], computes=False)
        if method == "train_step" and model.optimizer is not None and not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)

    def _logs(self, method: Method, batch: Batch) -> dict[str, Any]:
        """Run `train_step` or `test_step`, and return what to log, flattened."""
        metrics = list({id(m): m for m in (*self.model.metrics, *self.parts.metrics())}.values())
        with _watched_metrics(metrics, self.num_examples(batch)) as (updated, results):
            returned = self._run(method, batch)
            if not isinstance(returned, Mapping):
                return returned
            # A metric that was not updated returns a meaningless 0.0.
            logs = {
                name: value
                for name, value in _flat(returned)
                if id(value) not in results or _is_in(results[id(value)], updated.values())
            }
            for name, metric in updated.items():
                if name in logs and id(logs[name]) not in results:
                    logs[name] = metric.result()
            # Results with several values, such as a score for each class.
            for name in list(logs):
                value = logs[name]
                if id(value) in results and len(value.shape) == 1:
                    del logs[name]
                    logs |= {f"{name}/{i}": value[i] for i in range(value.shape[0])}
        recorder = _recorder()
        if recorder is not None:
            recorder.metrics.clear()  # the model itself returns what is logged
        return logs

    def _run(self, method: Method, batch: Batch) -> Any:
        """Run a method of the model as the framework requires."""
        backend = keras.backend.backend()
        model: Any = self.model
        if backend == "jax":
            with _all_state_listed(self.model):
                return self._run_stateless(method, batch)
        if backend == "torch":
            is_training = method == "train_step"
            if model.training != is_training:
                model.train(is_training)
            if is_training:
                return _backends.current().recorded(model.train_step, batch)
        function = getattr(model, method)
        inlined = _backends.current().inlined(function)
        if inlined is not function:
            return _backends.current().user_code(inlined)(batch)
        return function(batch)

    def _run_stateless(self, method: Method, batch: Batch) -> Any:
        groups = [self._variables(group) for group in _STATE[method]]
        state = tuple([variable.value for variable in group] for group in groups)
        try:
            returned, after = getattr(self.model, method)(state, batch)
        except ValueError as error:
            if "stateless_apply" in str(error) or "corresponding 1:1" in str(error):
                raise FrozenSinceBuiltError(len(state[0])) from error
            raise
        if method == "predict_step":
            after = state[0], after
        for group, old, new in zip(groups, state, after, strict=True):
            for variable, before, value in zip(group, old, new, strict=True):
                if value is not before:
                    variable.assign(value)
        return returned

    def _variables(self, group: str) -> list[Any]:
        if group == "optimizer":
            return [] if self.model.optimizer is None else list(self.model.optimizer.variables)
        return list(getattr(self.model, f"{group}_variables"))


def _build_as_fit(model: Any) -> None:
    """Build what `fit` builds before its first step: a step may rely on it.

    On torch it also lists variables made since the model was built, such as those of
    `enable_lora`: what `zero_grad` does not know keeps its gradients.
    """
    if not all(layer.built for layer in nested_layers(model)):
        return
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if keras.backend.backend() == "torch":
        listed = model.torch_params
        for variable in model.trainable_variables:
            if variable.path not in listed:
                listed[variable.path] = variable.value


def _compute_loss(
    model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool
) -> None:
    """Compute the loss of a model, whose own method may have no argument `training`."""
    takes_training = "training" in inspect.signature(model.compute_loss).parameters
    more = {"training": training} if takes_training else {}
    model.compute_loss(x, y, y_pred, sample_weight, **more)


@contextmanager
def _all_state_listed(model: keras.Model) -> Generator[None]:
    """Make Keras list state that it omits, so that its stateless methods pass it in and out.

    Each layer lists its own, since a step may split the variables of a model by layers.
    """
    unlisted = unlisted_state(model)
    if not unlisted:
        yield
        return

    def lists_all(original: Any, layer: keras.Layer) -> Talk:
        listed = yield
        known = {id(variable) for variable in listed}
        own = (v for v in unlisted.get(id(layer), ()) if id(v) not in known)
        return Returned([*listed, *own])

    # Keras does not train variables that it does not list.
    trainable = [v for own in unlisted.values() for v in own if v.trainable]
    for variable in trainable:
        variable.trainable = False
    try:
        with listening(keras.Layer, "variables", lists_all):
            yield
    finally:
        for variable in trainable:
            variable.trainable = True


class _Parts(Mapping[str, Any]):
    """What a model holds besides its layers, looked up each time.

    Optimizers and metrics, also in lists and dicts, and plain values that its compiled steps may
    depend on. They change when `model.compile` is called again.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model

    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in vars(self._model).items():
            if name.startswith("_"):
                # Keras's own trackers, which an overridden `metrics` may hide.
                hidden = [value, *getattr(value, "metrics", ())] if _has_trackers(value) else ()
                found |= {f"{name}/{i}": m for i, m in enumerate(hidden) if _is_part(m)}
                continue
            if name in _CHANGED_BY_KERAS:
                continue
            if isinstance(value, int | float | str) or any(_is_part(v) for v in _members(value)):
                found[name] = value
        optimizer: Any = getattr(self._model, "optimizer", None)  # absent until it is compiled
        if optimizer is not None and not _is_part(optimizer):
            found["optimizer"] = list(optimizer.variables)  # a user's own class
        return found

    def metrics(self) -> list[keras.Metric]:
        """Return the metrics that the model itself holds, without those of its layers."""
        members = [member for value in self._found().values() for member in _members(value)]
        return [m for m in members if isinstance(m, keras.Metric)]

    def __getitem__(self, name: str) -> Any:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


def _has_trackers(value: Any) -> bool:
    return isinstance(value, keras.Metric | keras.losses.Loss)


def _is_part(value: Any) -> bool:
    return isinstance(value, keras.optimizers.Optimizer | keras.Metric)


def _members(value: Any) -> list[Any]:
    """Return the optimizers, metrics and others in a value, including items of lists and dicts."""
    if isinstance(value, Mapping):
        return [member for item in value.values() for member in _members(item)]
    if isinstance(value, list | tuple):
        return [member for item in value for member in _members(item)]
    return [value]


def check_compiled(model: keras.Model) -> None:
    """Refuse a model that is not compiled."""
    if not model.compiled:
        raise ArgumentError(
            "model",
            f"<{model.name!r}, not compiled>",
            "a compiled model.",
            "call `model.compile(...)` first.",
        )
    _refuse_metrics_as_weights(model)


def _refuse_metrics_as_weights(model: keras.Model) -> None:
    """Refuse metrics in place of the weights of losses, which is what `compile` takes third."""
    try:
        weights = (model.get_compile_config() or {}).get("loss_weights")
    except Exception:  # of an object of the user's that has no config
        return
    named = weights if isinstance(weights, list | tuple) else []  # Keras refuses a name itself
    metrics = [each for each in named if isinstance(each, str) or _is_metric(each)]
    if metrics:
        raise ArgumentError(
            "loss_weights",
            f"{[each if isinstance(each, str) else each['class_name'] for each in metrics]}",
            "numbers, one for each loss; the third argument of `compile` is `loss_weights`.",
            "name the argument: `model.compile(optimizer, loss, metrics=[...])`.",
        )


def _is_metric(config: Any) -> bool:
    """Return whether a part of a compiled model's configuration is a metric of Keras's."""
    return isinstance(config, dict) and config.get("module") == "keras.metrics"


# What a step does.


@contextmanager
def _watched_metrics(
    metrics: Sequence[keras.Metric], examples: Any
) -> Generator[tuple[dict[str, keras.Metric], dict[int, keras.Metric]]]:
    """Observe which metrics are updated, by name, and whose results are read, by identity.

    Trackers of the losses of single outputs are weighted by the number of examples: Keras weights
    them by a size that is not known inside compiled code.
    """
    updated: dict[str, keras.Metric] = {}
    results: dict[int, keras.Metric] = {}
    kept: list[Any] = []  # so that no other value reuses an id

    def updates(metric: keras.Metric, original: Any, *args: Any, **kwargs: Any) -> Talk:
        updated[metric.name] = metric
        if kwargs.get("sample_weight", 0) is None and _is_mean_of_one(metric, args):
            kwargs["sample_weight"] = examples
        yield Call(original, args, kwargs)

    def reads(metric: keras.Metric, original: Any, *args: Any, **kwargs: Any) -> Talk:
        value = yield
        kept.append(value)
        results.update((id(leaf), metric) for leaf in keras.tree.flatten(value))

    with ExitStack() as stack:
        for metric in metrics:
            stack.enter_context(listening(metric, "update_state", partial(updates, metric)))
            stack.enter_context(listening(metric, "result", partial(reads, metric)))
        yield updated, results


def _is_in(metric: keras.Metric, metrics: Iterable[keras.Metric]) -> bool:
    return any(metric is other for other in metrics)


def _is_mean_of_one(metric: keras.Metric, args: Sequence[Any]) -> bool:
    return type(metric) is keras.metrics.Mean and len(args) == 1 and not ops.shape(args[0])


def _recorder() -> StepRecorder | None:
    """Return the recorder, during a rehearsal."""
    frame = current_frame()
    recorder = None if frame is None else frame.recorder
    return recorder if isinstance(recorder, StepRecorder) else None


def _flat(logs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what a step returned, with nested dicts flattened, as `fit` does."""
    for name, value in logs.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, value


# Arguments.


def _weighted(batch: Batch, class_weight: Mapping[int, float]) -> Batch:
    """Return a batch with the weight of each label's class as its sample weight."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    if sample_weight is not None:
        raise ArgumentError(
            "class_weight",
            repr(dict(class_weight)),
            "class weights or sample weights, not both, as in Keras's `fit`.",
            "multiply the sample weights by the class weights.",
        )
    if y is None or keras.tree.is_nested(y):
        raise ArgumentError(
            "class_weight",
            repr(dict(class_weight)),
            "one array of labels.",
            "put weights into the batch, one array for each output.",
        )
    classes = y
    if len(y.shape) > 1:
        classes = ops.argmax(y, axis=-1) if y.shape[-1] != 1 else ops.squeeze(y, axis=-1)
    classes = ops.cast(ops.round(ops.cast(classes, keras.backend.floatx())), "int32")
    weights = ops.ones_like(classes, dtype=keras.backend.floatx())
    for number, weight in class_weight.items():
        weights = ops.where(ops.equal(classes, int(number)), float(weight), weights)
    return x, y, ops.cast(weights, keras.backend.floatx())


def _refuse_dropped_losses(model: keras.Model) -> None:
    outputs = keras.tree.flatten(getattr(model, "outputs", None) or [])
    losses: Any = model.loss
    if len(outputs) == 1 and isinstance(losses, list | tuple) and len(losses) > 1:
        raise OutputsError("loss", [str(loss) for loss in losses], list(model.output_names))
