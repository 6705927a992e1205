"""Which of two logged values is better, derived from their name."""

from typing import Literal

Mode = Literal["min", "max"]

_BETTER_LOW = {"error", "loss", "mae", "mse", "rmse"}
_BETTER_HIGH = {"acc", "accuracy", "auc", "f1", "iou", "precision", "r2", "recall"}


def better_mode(name: str) -> Mode | None:
    """Return whether low (`"min"`) or high values are better; `None` if the name does not say."""
    words = set(name.split("_"))
    is_low, is_high = bool(words & _BETTER_LOW), bool(words & _BETTER_HIGH)
    return None if is_low == is_high else "min" if is_low else "max"
