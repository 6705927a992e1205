"""What rules compute with the loss objects of a step, as they are configured there."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


def mean_value(loss: Any, y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the mean of what a loss says, whatever it reduces its values to.

    Args:
        loss: A loss object; all that it was made with counts, as the classes that it ignores.
        y_true: Labels.
        y_pred: Predictions.
    """
    # Keras copies by configs, and these leave things out, such as the `delta` of `Huber`.
    same = object.__new__(type(loss))
    vars(same).update(vars(loss))
    same.reduction = "sum_over_batch_size"
    return float(np.mean(keras.ops.convert_to_numpy(same(y_true, y_pred)), dtype="float64"))
