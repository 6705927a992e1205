"""Figures for a run directory: PNG where matplotlib is installed, else a plain graymap (PGM)."""

from pathlib import Path

import numpy as np


def draw_images(directory, name, images, columns=10):
    """Write images as one picture, row after row.

    Args:
        directory: Where to; `None` writes nothing.
        name: The name of the file, without its extension.
        images: Gray values in [0, 1], `(n, height, width)` or `(n, height, width, 1)`; the rows
            that are not full are left out.
        columns: Images a row.
    """
    if directory is None:
        return
    images = np.asarray(images, "float32")
    images = images.reshape(images.shape[:3])
    images = images[: len(images) // columns * columns]
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)), constant_values=0.5)
    _, height, width = framed.shape
    table = framed.reshape(-1, columns, height, width).transpose(0, 2, 1, 3)
    pixels = np.kron(table.reshape(-1, columns * width), np.ones((6, 6)))
    try:
        from matplotlib.image import imsave
    except ImportError:
        _write_graymap(Path(directory) / f"{name}.pgm", pixels)
    else:
        imsave(_made(Path(directory) / f"{name}.png"), pixels, cmap="gray", vmin=0, vmax=1)


def draw_curves(directory, name, curves):
    """Write curves into one frame.

    Args:
        directory: Where to; `None` writes nothing.
        name: The name of the file, without its extension.
        curves: For each name its values, one an epoch.
    """
    if directory is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: the curves are drawn without names and numbers.")
        _write_graymap(Path(directory) / f"{name}.pgm", _traced(list(curves.values())))
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch")
    for label, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=label)
    axes.legend()
    figure.savefig(_made(Path(directory) / f"{name}.png"), dpi=120)


def _traced(curves, height=240, width=400):
    """Return curves as dark lines on a white frame, all on one scale."""
    low, high = (bound(bound(values) for values in curves) for bound in (min, max))
    frame = np.ones((height, width))
    for values in curves:
        places = np.linspace(0, len(values) - 1, 8 * width)
        heights = np.interp(places, np.arange(len(values)), values)
        rows = (high - heights) / ((high - low) or 1.0) * (height - 1)
        columns = np.linspace(0, width - 1, 8 * width)
        frame[rows.astype(int), columns.astype(int)] = 0.0
    return frame


def _write_graymap(path, pixels):
    height, width = pixels.shape
    gray = (np.clip(pixels, 0, 1) * 255).astype("uint8")
    _made(path).write_bytes(b"P5 %d %d 255\n" % (width, height) + gray.tobytes())


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
