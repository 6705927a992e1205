"""Samples: images and texts, the only log values that are not numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._errors import SampleError
from perigee._step.shown import Images, Shown, Texts
from perigee._typing import Tensor

_MOST_IMAGES, _MOST_TEXTS = 16, 8
_LEAST_LENGTH, _MOST_LENGTH = 256, 1024
"""The most ids kept of a text."""
_PADDING = -1

Decode = Callable[[np.ndarray], str]


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of `sample`: tensors to be shown.

    Attributes:
        values: Images `(images, height, width, channels)`, uint8, or ids `(texts, length)`, int32.
        decode: Converts a row of ids to text; `None` shows the ids, or images.
    """

    values: Tensor
    is_image: bool
    decode: Decode | None = None


@_backends.current().plain
def sample(*, image: Any = None, text: Any = None, decode: Decode | None = None) -> Sample:
    """Return images or texts for a step to log beside its numbers.

    >>> return {"loss": loss, "drawn": pg.sample(image=images)}
    >>> return {"loss": loss, "said": pg.sample(text=ids, decode=vocabulary.decode)}

    It works in compiled steps, in blocks and on every backend. The sample of the last step is kept
    at the end of each epoch and at each validation: in `samples/` of a run directory, in its report
    and in TensorBoard. Each step computes it, so an expensive sample belongs in `test_step`.

    Args:
        image: One image `(height, width)` or `(height, width, channels)`, or a batch of them with
            one more axis in front; the first 16 are kept. Channels come last: 1 (gray), 3 or 4.
            Three axes are one image if the last has that many channels. Floats are from 0 to 1,
            integers from 0 to 255; values beyond are clipped.
        text: Token ids, `(length,)` or `(batch, length)`, integers; the first 8 rows and 1,024 ids
            are kept. Negative ids are padding and dropped.
        decode: Converts the ids of one text, a NumPy array `(length,)`, to the text. It runs on the
            host, when the sample is written. `None` shows the ids.

    Returns:
        A value for the dict that a step returns.

    Raises:
        SampleError: Unless exactly one is given, with such a shape and dtype.
    """
    if (image is None) == (text is None):
        raise SampleError("both of them" if image is not None else "neither of them")
    if image is not None:
        return Sample(_pixels(image), is_image=True)
    return Sample(_ids(text), is_image=False, decode=decode)


def _pixels(image: Any) -> Tensor:
    dtype = _dtype(image, "image")
    image = ops.convert_to_tensor(image)
    rank, channels = len(image.shape), image.shape[-1] if len(image.shape) else None
    if rank == 2 or (rank == 3 and channels not in (1, 3, 4)):
        image, rank = ops.expand_dims(image, -1), rank + 1
    if rank == 3:
        image, rank = ops.expand_dims(image, 0), 4
    if rank != 4 or image.shape[-1] not in (1, 3, 4):
        raise SampleError(f"an image of shape {tuple(image.shape)}")
    image = ops.stop_gradient(image[:_MOST_IMAGES])
    if dtype == "bool":
        image = ops.cast(image, "float32")
    if dtype == "bool" or "float" in dtype:
        # Add half a step, since a cast truncates.
        image = ops.nan_to_num(ops.cast(image, "float32")) * 255.0 + 0.5
    return ops.cast(ops.clip(image, 0, 255), "uint8")


def _ids(text: Any) -> Tensor:
    dtype = _dtype(text, "text")
    if "int" not in dtype:
        raise SampleError(f"a text of {dtype}")
    text = ops.convert_to_tensor(text)
    if len(text.shape) == 1:
        text = ops.expand_dims(text, 0)
    if len(text.shape) != 2:
        raise SampleError(f"a text of shape {tuple(text.shape)}")
    return ops.cast(text[:_MOST_TEXTS, :_MOST_LENGTH], "int32")


def _dtype(value: Any, name: str) -> str:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        raise SampleError(f"{name}={value!r:.60}")
    try:
        return keras.backend.standardize_dtype(dtype)
    except ValueError:
        raise SampleError(f"{name}= with values of {dtype}") from None


class Slot:
    """Storage where compiled code leaves the last sample of a name, for the host to fetch.

    It is not part of the Step's state: nothing depends on it, and no checkpoint holds it.

    Args:
        sample: A sample of the same structure, from a rehearsal.
    """

    def __init__(self, sample: Sample) -> None:
        rows, *rest = sample.values.shape
        self._is_image, self._decode = sample.is_image, sample.decode
        if not sample.is_image:
            rest = [min(max(rest[0] or 0, _LEAST_LENGTH), _MOST_LENGTH)]
        most = _MOST_IMAGES if sample.is_image else _MOST_TEXTS
        self._shape = (min(rows or most, most), *rest)
        dtype = "uint8" if sample.is_image else "int32"
        self._values = _variable(self._shape, dtype, "sample")
        self._count = _variable((), "int32", "sample_count")

    @property
    def variables(self) -> list[Any]:
        """The variables that compiled code writes."""
        return [self._values, self._count]

    def write(self, sample: Sample) -> None:
        """Replace the sample; if it has fewer rows, the other rows are cleared."""
        values = sample.values
        rows = ops.minimum(ops.shape(values)[0], self._shape[0])
        self._count.assign(ops.cast(rows, "int32"))
        fill = 0 if self._is_image else _PADDING
        self._values.assign(_fitted(values, self._shape, fill))

    def take(self) -> Shown | None:
        """Return the sample kept since the last call, or `None`. It waits for the device."""
        count = int(ops.convert_to_numpy(self._count))
        if count == 0:
            return None
        values = np.array(ops.convert_to_numpy(self._values))[:count]
        self._count.assign(0)
        if self._is_image:
            return Images(values)
        return Texts(tuple(self._text(row[row >= 0]) for row in values))

    def _text(self, ids: np.ndarray) -> str:
        return str(self._decode(ids)) if self._decode else " ".join(str(each) for each in ids)


def _fitted(values: Tensor, shape: Sequence[int], fill: int) -> Tensor:
    """Crop and pad a tensor to a shape; its size may be known only when it runs."""
    for axis, size in enumerate(shape):
        if values.shape[axis] == size:
            continue
        values = values[(slice(None),) * axis + (slice(size),)]
        missing = [*ops.shape(values)]
        missing[axis] = size - missing[axis]
        values = ops.concatenate([values, ops.full(missing, fill, dtype=values.dtype)], axis=axis)
    return ops.reshape(values, shape)


def _variable(shape: tuple[int, ...], dtype: str, name: str) -> Any:
    return keras.Variable(
        np.zeros(shape, dtype), dtype=dtype, trainable=False, autocast=False, name=name
    )
