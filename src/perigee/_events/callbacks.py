"""Keras's own callbacks, driven as `fit` drives them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import keras

from perigee._errors import ArgumentError
from perigee._events.kept_callbacks import KeptCallback, matched
from perigee._events.stored_values import Room
from perigee._step.state import restore, snapshot, track
from perigee._step.step import Step, only_model

_TEST_BATCH_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
_TEST_HOOKS = ("on_test_begin", *_TEST_BATCH_HOOKS)
_PREDICT_BATCH_HOOKS = ("on_predict_batch_begin", "on_predict_batch_end")
_TRAIN_BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


_OWN = ("stop_training", "stop_evaluating", "stop_predicting", "history")
"""What callbacks set on a model for the loop."""


class KerasCallbacks:
    """A list of Keras callbacks.

    Args:
        callbacks: The callbacks.
        step: The Step that is trained.
        params: What they find in `params`.
        interval: The number of batches between two calls of a hook of batches.
        is_kept: Whether their state is saved.

    Attributes:
        wants_batches: Whether one of them observes single batches of a training.
        wants_test_batches: The same of a validation; their logs are means since it began.
        wants_predict_batches: The same of a prediction.
        may_change_weights: Whether one of them may change weights between a validation and the next
            save.
        interval: As given.
    """

    def __init__(
        self,
        callbacks: Sequence[Any],
        step: Step,
        params: Mapping[str, Any],
        interval: int = 1,
        is_kept: bool = False,
    ) -> None:
        self._step: Any = step
        # `KerasStep` provides its model itself.
        self._model: Any = getattr(step, "seen_by_callbacks", None) or _Facade(step)
        self._callbacks = list(callbacks)
        self._list = keras.callbacks.CallbackList(list(callbacks), model=self._model, **params)
        self.wants_batches = any(_overrides(c, _TRAIN_BATCH_HOOKS) for c in callbacks)
        self.wants_test_batches = any(_overrides(c, _TEST_BATCH_HOOKS) for c in callbacks)
        self.wants_predict_batches = any(_overrides(c, _PREDICT_BATCH_HOOKS) for c in callbacks)
        self.may_change_weights = any(map(_may_change_weights, callbacks))
        self.interval = interval
        self._swapping = [c for c in callbacks if isinstance(c, keras.callbacks.SwapEMAWeights)]
        for callback in self._swapping:
            # In the last epoch it drops the weights that training continues from, and in an early
            # end keeps these instead of the averages. So none is the last one; see `swap_back`.
            callback.set_params({**params, "epochs": 0})
        tracked = partial(track, step)
        self._kept = [KeptCallback(each, tracked) for each in callbacks] if is_kept else []
        self._saved: Any = None
        self._is_past_stop = False
        self._before_test: dict[KeptCallback, Any] = {}
        self._left: dict[KeptCallback, Any] = {}
        self._said: set[str] = set()

    @property
    def stop_requested(self) -> bool:
        return bool(self._model.stop_training)

    @property
    def stop_evaluating(self) -> bool:
        return bool(self._model.stop_evaluating)

    @property
    def stop_predicting(self) -> bool:
        return bool(self._model.stop_predicting)

    def train_begin(self) -> None:
        emptied = [c for c in self._callbacks if self._saved is not None and _empties_file(c)]
        for callback in emptied:
            callback.append = True
        self._model.stop_training = False  # as `keras.Model.fit` does
        if isinstance(self._model, _Facade):
            _set_modes(self._callbacks, track(self._step).metrics.values())
        self._list.on_train_begin()
        for callback in emptied:
            callback.append = False  # as the program says
        for kept in self._kept:
            kept.begin()
        # Only now: most of them reset themselves when training begins.
        for kept, entry in matched(self._kept, self._saved or ()):
            if not (self._is_past_stop and kept.stops):
                kept.restore(entry)

    def epoch_begin(self, epoch: int) -> None:
        self._list.on_epoch_begin(epoch)

    def train_batch_begin(self, index: int) -> None:
        self._list.on_train_batch_begin(index)

    def train_batch_end(self, index: int, logs: Mapping[str, float]) -> None:
        self._list.on_train_batch_end(index, dict(logs))

    def test_begin(self) -> None:
        self._model.stop_evaluating = False
        room = Room()
        self._before_test = {
            kept: kept.state(room)
            for callback, kept in zip(self._callbacks, self._kept, strict=False)
            if _overrides(callback, _TEST_HOOKS)
        }
        self._list.on_test_begin()

    def test_batch_begin(self, index: int) -> None:
        self._list.on_test_batch_begin(index)

    def test_batch_end(self, index: int, logs: Mapping[str, float]) -> None:
        self._list.on_test_batch_end(index, dict(logs))

    def test_end(self, logs: Mapping[str, float]) -> None:
        self._list.on_test_end(dict(logs))

    def test_left(self) -> None:
        """A validation was left, and runs again when the training is resumed."""
        self._left = self._before_test
        for callback in self._swapping:
            callback.on_test_end()

    def predict_begin(self) -> None:
        self._model.stop_predicting = False
        self._list.on_predict_begin()

    def predict_batch_begin(self, index: int) -> None:
        self._list.on_predict_batch_begin(index)

    def predict_batch_end(self, index: int, outputs: Any) -> None:
        self._list.on_predict_batch_end(index, {"outputs": outputs})

    def predict_end(self) -> None:
        self._list.on_predict_end()

    def epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        self._list.on_epoch_end(epoch, dict(logs))

    def swap_back(self) -> None:
        for callback in self._swapping:
            callback.on_epoch_begin(0)

    def train_end(self, logs: Mapping[str, float]) -> None:
        self._list.on_train_end(dict(logs))

    def state(self) -> list[Any]:
        """Return what of each callback must survive a restart; see `KeptCallback`.

        What a validation that was left has called stands as it did before.
        """
        room = Room()
        left = self._left
        return [left[kept] if kept in left else kept.state(room) for kept in self._kept]

    def load_state(self, state: Sequence[Any], is_past_stop: bool = False) -> None:
        """Restore what `state` returned when training begins, in the callbacks still there.

        Files that were written before the restart are then appended to.

        Args:
            state: What was returned.
            is_past_stop: Whether a callback had stopped the training, which continues nevertheless:
                those that may have done so start from scratch.
        """
        self._saved = state if isinstance(state, list) else []
        self._is_past_stop = is_past_stop

    def stopping(self) -> list[str]:
        """Return the classes of those that may stop a training."""
        return [kept.name for kept in self._kept if kept.stops]

    def left_out(self) -> list[str]:
        """Return which attributes begin afresh when the run is resumed, and why, each once."""
        found = [
            f"{kept.name}.{name}: {why}"
            for kept in self._kept
            for name, why in kept.left_out.items()
        ]
        new = [each for each in dict.fromkeys(found) if each not in self._said]
        self._said.update(new)
        return new


def _set_modes(callbacks: Iterable[Any], metrics: Iterable[keras.metrics.Metric]) -> None:
    """Tell callbacks whether more of the metric that they monitor is better.

    Keras looks for it among compiled metrics only, and raises where it finds none.
    """
    directions = {metric.name: getattr(metric, "_direction", None) for metric in metrics}
    for callback in callbacks:
        name = str(getattr(callback, "monitor", "")).removeprefix("val_")
        if getattr(callback, "mode", None) == "auto" and directions.get(name):
            callback.mode = "max" if directions[name] == "up" else "min"


def _may_change_weights(callback: Any) -> bool:
    """Tell whether a callback may change weights around a validation, as `SwapEMAWeights` does."""
    if _overrides(callback, ("on_test_begin", "on_test_end")):
        return True
    own = callback.on_epoch_end
    of_keras = str(getattr(own, "__module__", "")).partition(".")[0] == "keras"
    return not of_keras  # Keras's own, such as `ModelCheckpoint`, do not


def _empties_file(callback: Any) -> bool:
    """Tell whether a callback empties its file when training begins."""
    return isinstance(callback, keras.callbacks.CSVLogger) and not callback.append


def _overrides(callback: Any, names: Sequence[str]) -> bool:
    """Return whether a callback overrides methods, on its class or on the instance."""
    for name in names:
        own = getattr(callback, name)
        if getattr(own, "__func__", own) is not getattr(keras.callbacks.Callback, name):
            return True
    return False


class _Facade:
    """The model that callbacks see: the Step, with the parts of a `keras.Model` that it has.

    What the user's Step lacks is looked up on its only model, and set there.
    """

    def __init__(self, step: Step) -> None:
        object.__setattr__(self, "_step", step)
        self.stop_training = self.stop_evaluating = self.stop_predicting = False
        self.history: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the Step, if it can be called, or its only model."""
        target = self._step if callable(self._step) else self._only_model("__call__")
        return target(*args, **kwargs)

    @property
    def optimizer(self) -> Any:
        """The only optimizer of the Step."""
        optimizers = track(self._step).optimizers
        if len(optimizers) == 1:
            return next(iter(optimizers.values()))
        raise ArgumentError(
            "callbacks",
            f"<a callback that reads model.optimizer of {list(optimizers)}>",
            "one optimizer for the callback to act on.",
            "write a `pg.Hook` that holds its optimizer.",
        )

    def get_weights(self) -> list[Any]:
        """Return copies of all weights, of all models in order."""
        return snapshot(self._weights())

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all weights, in the order of `get_weights`."""
        restore(self._weights(), list(weights))

    def save_weights(self, filepath: Any, overwrite: bool = True) -> None:
        """Save the weights of the only model as Keras does."""
        self._only_model("save_weights").save_weights(filepath, overwrite=overwrite)

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Save the only model as Keras does."""
        self._only_model("save").save(filepath, overwrite=overwrite, **kwargs)

    def _weights(self) -> list[Any]:
        return track(self._step).of_kind("trainable", "non_trainable")

    def _only_model(self, wanted: str) -> keras.Model:
        model = only_model(self._step)
        if model is None:
            raise ArgumentError(
                "callbacks",
                f"<a callback that uses model.{wanted}>",
                "a Step that holds exactly one model.",
                "write a `pg.Hook` that holds its model.",
            )
        return model

    def __getattr__(self, name: str) -> Any:
        owner = _owner(vars(self)["_step"], name)
        if owner is None:
            raise AttributeError(
                f"The Step {type(vars(self)['_step']).__name__} has no `{name}` for callbacks; "
                "write a `pg.Hook` that holds what it needs."
            )
        return getattr(owner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        owner = None if name in _OWN else _owner(self._step, name)
        if owner is None:
            object.__setattr__(self, name, value)
        else:
            setattr(owner, name, value)


def _owner(step: Step, name: str) -> Any:
    """Return what has an attribute: the Step, by the user's code, its only model, or `None`."""
    if name.startswith("_"):
        return None
    if name in vars(step) or (hasattr(type(step), name) and not hasattr(Step, name)):
        return step
    model = only_model(step)
    return model if hasattr(model, name) else None
