"""Images and texts that a step logged, on the host, for hooks and writers."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_GAP = 1
"""Pixels between the images of a grid."""
_BINS = 30


@dataclass(frozen=True, slots=True)
class Images:
    """Some images that a step logged.

    Attributes:
        pixels: Shape `(images, height, width, channels)`, uint8, with 1 (gray), 3 (RGB) or 4 (RGBA)
            channels.
    """

    pixels: np.ndarray
    is_image = True
    suffix = ".png"

    @property
    def grid(self) -> np.ndarray:
        """All images as one, in about as many rows as columns."""
        count, height, width, channels = self.pixels.shape
        columns = int(np.ceil(np.sqrt(count)))
        rows = -(-count // columns)
        shape = rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels
        grid = np.full(shape, 128, np.uint8)
        if channels == 4:
            grid[..., 3] = 0
        for index, image in enumerate(self.pixels):
            top = index // columns * (height + _GAP)
            left = index % columns * (width + _GAP)
            grid[top : top + height, left : left + width] = image
        return grid

    def content(self) -> bytes:
        """Return the grid as a PNG file."""
        grid = self.grid
        height, width, channels = grid.shape
        color_type = {1: 0, 3: 2, 4: 6}[channels]
        head = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
        # Each line of pixels begins with the number of its filter; 0 is none.
        lines = np.concatenate(
            [np.zeros((height, 1), np.uint8), grid.reshape(height, width * channels)], axis=1
        )
        parts = [(b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts that a step logged.

    Attributes:
        texts: At least one.
    """

    texts: tuple[str, ...]
    is_image = False
    suffix = ".json"

    def content(self) -> bytes:
        """Return them as a list in JSON."""
        return json.dumps(list(self.texts)).encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class Histograms:
    """Histograms of the values of some tensors.

    Attributes:
        bins: For each tensor by name: the edges of the bins, shape `(bins + 1,)`, and how many
            values are in each, shape `(bins,)`. Values that are not finite are dropped.
    """

    bins: Mapping[str, tuple[np.ndarray, np.ndarray]]
    is_image = False
    suffix = ".histograms"

    @classmethod
    def of(cls, tensors: Mapping[str, np.ndarray]) -> Histograms:
        """Count the values of tensors on the host."""
        finite = {
            name: values[np.isfinite(values)].astype("float64") for name, values in tensors.items()
        }
        counted = {name: np.histogram(values, bins=_BINS) for name, values in finite.items()}
        return cls({name: (edges, counts) for name, (counts, edges) in counted.items()})

    def content(self) -> bytes:
        """Return them as an object in JSON."""
        plain = {
            name: {"edges": edges.tolist(), "counts": counts.tolist()}
            for name, (edges, counts) in self.bins.items()
        }
        return json.dumps(plain).encode("ascii") + b"\n"


Shown = Images | Texts | Histograms
"""What a step logged as `pg.sample`, or a hook requested."""
