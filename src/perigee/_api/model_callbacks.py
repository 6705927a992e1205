"""Keras's callbacks, called with what Keras passes to those of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from perigee._events.callbacks import KerasCallbacks


class CallbacksOfModel(KerasCallbacks):
    """Keras callbacks, with what a metric computes as one value, such as a score for each class."""

    def test_batch_end(self, index: int, logs: Mapping[str, Any]) -> None:
        super().test_batch_end(index, self.joined(logs))

    def test_end(self, logs: Mapping[str, Any]) -> None:
        super().test_end(self.joined(logs))

    def joined(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        """Return logs with the values of one metric as an array."""
        parts: dict[str, list[Any]] = {}
        for name, value in logs.items():
            base, _, index = name.rpartition("/")
            if index == str(len(parts.get(base, ()))):
                parts.setdefault(base, []).append(value)
        if not parts:
            return dict(logs)
        # Metrics of one output among several have its name before theirs.
        names = {metric.name for metric in self._step.parts.metrics()}
        is_metric = {base: any(base.endswith(name) for name in names) for base in parts}
        joined: dict[str, Any] = {}
        for name, value in logs.items():
            base = name.rpartition("/")[0]
            if is_metric.get(base):
                joined[base] = np.array(parts[base], keras.backend.floatx())
            else:
                joined[name] = value
        return joined
