"""What to write instead of the names of Keras's models and of other trainers in a Step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

_LINES = {
    "fit": "write `pg.fit(step, data)`.",
    "evaluate": "write `pg.evaluate(step, data)`.",
    "predict": "write `pg.predict(step, data)`.",
    "train_on_batch": "write `with pg.prepare(step) as trainer:` and `trainer.train_step(batch)`.",
    "test_on_batch": "write `with pg.prepare(step) as trainer:` and `trainer.test_step(batch)`.",
    "predict_on_batch": "write `with pg.prepare(step) as trainer:` and "
    "`trainer.predict_step(batch)`.",
    "compile": "make the optimizer, the losses and the metrics in `__init__`, or write "
    "`step = pg.Supervised(model, optimizer, loss, metrics)`.",
    "call": "call the model: `self.model(x, training=True)`.",
    "optimizer": "make it in `__init__`: `self.optimizer = keras.optimizers.Adam(1e-3)`, and call "
    "`super().__init__(...)` there if a parent class makes it.",
    "model": "set it in `__init__`: `self.model = model`, and call `super().__init__(...)` there "
    "if a parent class sets it.",
    "loss": "make it in `__init__`: `self.loss = keras.losses.MeanSquaredError()`.",
    "metrics": 'leave metrics out of what the step returns: `return {"loss": loss}`. Those that '
    "the Step holds as attributes are logged once they are updated.",
    "add_loss": "add the term to the loss that the objective returns.",
    "add_metric": "hold the metric: `self.accuracy = keras.metrics.SparseCategoricalAccuracy()`.",
    "add_weight": 'hold a variable: `self.scale = keras.Variable(1.0, name="scale")`.',
    "log": 'return the value: `return {"loss": loss}`.',
    "log_dict": 'return the values: `return {"loss": loss}`.',
    "backward": "write `self.minimize(objective, self.optimizer, self.model)`.",
}
"""By name, the fix of an error."""

_OF_LOSSES = ("compute_loss", "compiled_loss", "loss_fn", "criterion")
_OF_METRICS = ("compute_metrics", "compiled_metrics", "loss_tracker", "reset_metrics")
_OF_MODELS = (
    *("weights", "variables", "trainable_variables", "trainable_weights"),
    *("non_trainable_variables", "non_trainable_weights", "trainable", "losses"),
    *("get_weights", "set_weights", "save", "save_weights", "load_weights", "summary", "layers"),
    *("inputs", "outputs", "get_layer", "count_params", "export", "state_dict"),
)


def model_of(given: Any) -> str:
    """Return how to make a compiled model of what was given in place of one."""
    if isinstance(given, keras.Layer):
        return "make a model of it, `model = keras.Sequential([layer])`, and compile it."
    if isinstance(given, type):
        return f"pass an instance: `{given.__name__}(...)`, compiled."
    if hasattr(given, "train_step"):
        return "write `pg.fit(step, data)`."
    return "pass the model first."


def instead_of(name: str, attributes: Mapping[str, Any]) -> str | None:
    """Return what to write instead of a name that a Step does not have; `None` if unknown.

    Args:
        name: The name.
        attributes: The attributes that the Step has.
    """
    if name in _OF_LOSSES:
        return (
            "call a loss that the Step holds: `self.loss(y, y_pred)`, with "
            "`self.loss = keras.losses.MeanSquaredError()` in `__init__`."
        )
    if name in _OF_METRICS:
        return (
            "update metrics that the Step holds: `self.accuracy.update_state(y, y_pred)`, with "
            "`self.accuracy = keras.metrics.SparseCategoricalAccuracy()` in `__init__`. They are "
            "reset and logged automatically."
        )
    if name in _OF_MODELS:
        held = (path for path, value in attributes.items() if isinstance(value, keras.Layer))
        return f"a Step holds models: write `step.{next(held, 'model')}.{name}`."
    return _LINES.get(name)
