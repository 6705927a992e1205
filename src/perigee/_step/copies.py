"""Exact copies of models: for averaged weights, target networks and teachers."""

from __future__ import annotations

from types import FunctionType
from typing import Any, TypeVar

import keras

from perigee._errors import ArgumentError, ModelCopyError, door
from perigee._step.state import nested_layers, restore, snapshot, variables_of

_L = TypeVar("_L", bound=keras.Layer)

_NO_SETTINGS = {
    *("name", "seed", "built", "training", "loss"),
    *("stop_training", "stop_evaluating", "stop_predicting"),
    *("train_function", "test_function", "predict_function"),
}
"""Keras attributes that may differ: seeds are copied as state, the rest affects no result."""


@door
def copy_of(model: _L) -> _L:
    """Return an exact copy of a model.

    `keras.models.clone_model` initializes new random weights; this copy has the same weights,
    statistics, seeds and `trainable` flags. The two share nothing.

    >>> average = pg.copy_of(model)
    >>> average.trainable = False

    Args:
        model: A built model or layer that Keras can recreate from its config.

    Returns:
        The copy, of the same class, built.

    Raises:
        ModelCopyError: If there is no exact copy.
        ArgumentError: If `model` is neither a model nor a layer.
    """
    if not isinstance(model, keras.Layer):
        raise ArgumentError(
            "model", type(model).__name__, "a `keras.Model` or a layer.", "pass the model itself."
        )
    if not model.built:
        raise _error(model, "it is not built yet, so it has no weights to copy")
    try:
        copy: Any = keras.models.clone_model(model)
    except Exception as error:  # constructors of user classes run here
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise _error(model, f"Keras cannot recreate it ({reason})") from error
    _refuse_unlike(model, copy)
    _copy_trainable(model, copy)
    values = snapshot(variables_of(model))  # waits for the device
    copied = variables_of(copy)
    restore(copied, values)
    for variable, value in zip(copied, values, strict=True):
        if snapshot([variable])[0].tobytes() != value.tobytes():
            raise _error(model, f"{variable.path!r} does not hold the value that was assigned")
    return copy


def _error(model: keras.Layer, why: str) -> ModelCopyError:
    return ModelCopyError(f"{type(model).__name__} {model.name!r}", why)


def _refuse_unlike(model: keras.Layer, copy: Any) -> None:
    """Refuse a copy that differs from the model, or shares variables with it."""
    if type(copy) is not type(model):
        raise _error(model, f"Keras recreates it as a {type(copy).__name__}")
    ours, theirs = variables_of(model), variables_of(copy)
    if {id(v) for v in ours} & {id(v) for v in theirs}:
        raise _error(model, "the copy would share its variables")
    if len(ours) != len(theirs):
        why = f"recreated, it has {len(theirs)} variables instead of {len(ours)}"
        raise _error(model, f"{why}, so its config does not describe how they are built")
    for a, b in zip(ours, theirs, strict=True):
        if (tuple(a.shape), a.dtype) != (tuple(b.shape), b.dtype):
            raise _error(model, f"recreated, its {a.path!r} has shape {tuple(b.shape)}, {b.dtype}")
    for layer, other in _pairs(model, copy):
        settings, others = _settings(layer), _settings(other)
        unlike = [k for k in settings if k not in others or settings[k] != others[k]]
        if unlike:
            name, given = unlike[0], others.get(unlike[0])
            why = f"recreated, its {layer.name!r} has {name}={given!r}"
            raise _error(model, f"{why} instead of {settings[name]!r}")


def _pairs(model: keras.Layer, copy: keras.Layer) -> list[tuple[keras.Layer, keras.Layer]]:
    """Return each layer inside a model with its counterpart in the copy."""
    layers, others = list(nested_layers(model)), list(nested_layers(copy))
    if [type(layer) for layer in layers] != [type(layer) for layer in others]:
        raise _error(model, "recreated, it has other layers")
    return list(zip(layers, others, strict=True))


def _settings(layer: keras.Layer) -> dict[str, Any]:
    """Return the numbers, strings and functions that a layer holds besides its weights.

    The config that Keras derives for a subclass of `keras.Model` holds the defaults of its
    constructor, whatever the actual arguments were.
    """
    found: dict[str, Any] = {}
    for name, value in vars(layer).items():
        if name.startswith("_") or name in _NO_SETTINGS:
            continue
        if isinstance(value, int | float | str | None):
            found[name] = value
        elif isinstance(value, FunctionType):  # a function defined in a constructor is new in each
            found[name] = f"{value.__module__}.{value.__qualname__}"
    return found


def _copy_trainable(model: keras.Layer, copy: keras.Layer) -> None:
    """Set `trainable` as in the model: the config of a subclass omits it for inner layers."""
    # Setting it on a layer sets it on all layers inside, so the outer ones come first.
    pairs = sorted(_pairs(model, copy), key=lambda pair: -sum(1 for _ in nested_layers(pair[0])))
    for theirs, ours in [*pairs, *zip(model.variables, copy.variables, strict=True)]:
        if ours.trainable != theirs.trainable:
            ours.trainable = theirs.trainable
