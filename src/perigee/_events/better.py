"""Which of two logged values is the better one, as far as their name tells."""

from typing import Literal

Mode = Literal["min", "max"]

_BETTER_LOW = {"error", "loss", "mae", "mse", "rmse"}
_BETTER_HIGH = {"acc", "accuracy", "auc", "f1", "iou", "precision", "r2", "recall"}


def better_mode(name: str) -> Mode | None:
    """Tell whether low (`"min"`) or high values are better; `None` where the name does not."""
    words = set(name.split("_"))
    is_low, is_high = bool(words & _BETTER_LOW), bool(words & _BETTER_HIGH)
    return None if is_low == is_high else "min" if is_low else "max"
