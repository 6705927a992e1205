"""The examples of the gallery learn, and train like the loops by hand that stand beside them."""

import importlib
import re
import runpy
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import perigee as pg

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "examples" / "gallery"
sys.path.insert(0, str(GALLERY))  # as for a script, which imports what stands beside it

SEED = 5
BATCH_SIZE = 16
BATCHES = 7
SHORT_BATCH_SIZE = 5
EPOCHS = 2  # of seven batches, the last one short: 14 steps
SAME = 1e-5
"""Relative difference of values, where both compute the same float32 sums in another order."""


def example(name):
    return importlib.import_module(f"examples.gallery.{name}")


def by_hand(name):
    return importlib.import_module(f"examples.gallery.by_hand.{name}")


NAMES = {path.stem for path in GALLERY.glob("*.py")} - {"figures"}


# Each learns.

slow = pytest.mark.slow


def learns(name, epochs, value, most=None, least=None, marks=()):
    return pytest.param(name, epochs, value, most, least, id=name, marks=marks)


LEARNS = [
    learns("accumulation", 6, "val_loss", most=0.6),
    learns("activation_maximization", 4, "probability", least=0.9),
    learns("actor_critic", 4, "episode_length", least=60, marks=slow),
    learns("adversarial_training", 8, "val_attacked_accuracy", least=0.5),
    learns("classifier", 5, "val_accuracy", least=0.85),
    learns("diffusion", 4, "val_loss", most=0.45, marks=slow),
    learns("distillation", 12, "val_accuracy", least=0.8),
    learns("ema", 6, "val_average_accuracy", least=0.8),
    learns("fixmatch", 8, "val_accuracy", least=0.7, marks=slow),
    learns("gan", 34, "gap", most=0.055, marks=slow),
    learns("inner_loop", 2, "val_loss", most=0.6, marks=slow),
    learns("language_model", 1, "val_loss", most=2.8, marks=slow),
    learns("mixed_precision", 8, "val_loss", most=0.7),
    learns("multi_output", 5, "val_digit_accuracy", least=0.8),
    learns("simclr", 6, "recognized", least=0.17, marks=slow),
    learns("vae", 8, "loss", most=30.0),
    learns("wgan_gp", 8, "gap", most=0.03, marks=slow),
]


@pytest.mark.spread(5)
@pytest.mark.parametrize(("name", "epochs", "value", "most", "least"), LEARNS)
def test_an_example_learns(name, epochs, value, most, least):
    if keras.backend.backend() != "tensorflow":  # frameworks agree; the example runs on each
        epochs, most, least = 1, None, None
    history = example(name).main(epochs=epochs)

    curve = history.history[value]
    assert len(curve) <= epochs
    assert most is None or (curve[-1] < most and curve[-1] <= curve[0]), curve
    assert least is None or (curve[-1] > least and curve[-1] >= curve[0]), curve
    assert history.findings == []


def test_every_example_is_trained():
    assert {param.id for param in LEARNS} == NAMES


def test_float16_trains_as_float32_does():
    module, rows = example("mixed_precision"), 640
    images, labels = module.make_data()[0]
    losses = {}
    for policy in ("mixed_float16", "float32"):
        keras.utils.set_random_seed(SEED)
        history = pg.fit(
            module.make_step(policy), (images[:rows], labels[:rows]), epochs=3, progress="off"
        )
        losses[policy] = history.history["loss"]

    assert losses["mixed_float16"] == pytest.approx(losses["float32"], rel=0.01)


# Each trains like a loop by hand.

PARTS = {
    "accumulation": ("model",),
    "adversarial_training": ("model",),
    "classifier": ("model",),
    "diffusion": ("model",),
    "distillation": ("student", "teacher"),
    "ema": ("model", "average"),
    "fixmatch": ("model", "weak", "strong"),
    "gan": ("generator", "discriminator"),
    "inner_loop": ("model",),
    "language_model": ("model",),
    "multi_output": ("model",),
    "simclr": ("encoder", "head", "view"),
    "vae": ("encoder", "decoder"),
    "wgan_gp": ("generator", "critic"),
}
"""What of a Step each loop by hand is given."""
WITHOUT_VALIDATION = {"gan", "simclr", "vae", "wgan_gp"}
OPTIONS = {"accumulation": {"accumulate": 4}}
"""How `fit` is told what the loop by hand does."""


class EachStep(pg.Hook):
    """Collect the values of each step: windows of one step."""

    def __init__(self):
        self.rows = []

    def on_record(self, event):
        if event.scope == "steps":
            self.rows.append(dict(event.values))


def make_step(name):
    """Return the Step of an example; two calls return equal ones."""
    keras.utils.set_random_seed(SEED)
    return example(name).make_step()


def make_batches(name):
    """Return batches to train on and to validate on, the last one short where it can be."""
    data = example(name).make_data()
    train, valid = data[:2] if isinstance(data, tuple) else (data, None)
    sizes = [BATCH_SIZE] * (BATCHES - 1) + [SHORT_BATCH_SIZE]
    if name == "inner_loop":
        sizes = [example(name).TASKS] * BATCHES  # of no other size
    stops = np.cumsum(sizes)
    slices = [slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    cut = lambda data: [keras.tree.map_structure(lambda a, s=s: a[s], data) for s in slices]  # noqa: E731
    return cut(train), None if name in WITHOUT_VALIDATION else cut(valid)


@pytest.mark.spread(3)
@pytest.mark.only_tensorflow
@pytest.mark.parametrize("name", sorted(PARTS))
def test_an_example_trains_like_the_loop_by_hand(name, tmp_path):
    batches, valid = make_batches(name)
    twin, step, each = make_step(name), make_step(name), EachStep()
    parts = [getattr(twin, part) for part in PARTS[name]]
    data = (batches,) if valid is None else (batches, valid)

    theirs = by_hand(name).train(*parts, *data, epochs=EPOCHS)
    pg.fit(
        step,
        batches,
        validation=valid,
        epochs=EPOCHS,
        run=pg.Run(tmp_path, record_every=pg.Every(steps=1)),
        callbacks=[each],
        execution="graph",
        progress="off",
        **OPTIONS.get(name, {}),
    )

    assert len(theirs) == len(each.rows) == EPOCHS * BATCHES
    for number, (ours, expected) in enumerate(zip(each.rows, theirs, strict=True)):
        values = {key: ours.get(key) for key in expected}
        assert values == pytest.approx(expected, rel=SAME, abs=1e-6), f"step {number}"
    for part, model in zip(PARTS[name], parts, strict=True):
        for weight, other in zip(getattr(step, part).weights, model.weights, strict=True):
            np.testing.assert_allclose(weight, other, rtol=1e-3, atol=1e-4, err_msg=weight.path)


@pytest.mark.once
def test_every_loop_by_hand_is_compared():
    assert {path.stem for path in (GALLERY / "by_hand").glob("*.py")} == set(PARTS)


# Figures.


def test_drawn_digits_lie_in_the_run_directory(tmp_path):
    example("gan").main(epochs=1, directory=tmp_path)

    [figure] = tmp_path.glob("drawn.*")
    assert figure.suffix in (".png", ".pgm")
    assert figure.stat().st_size > 1000
    assert (tmp_path / "run.json").exists()


@pytest.mark.once
@pytest.mark.parametrize("has_matplotlib", [False, True])
def test_figures_are_drawn_with_matplotlib_or_without(has_matplotlib, tmp_path, monkeypatch):
    from figures import draw_curves, draw_images

    if has_matplotlib:
        pytest.importorskip("matplotlib")
    else:
        for module in ("matplotlib", "matplotlib.figure", "matplotlib.image"):
            monkeypatch.setitem(sys.modules, module, None)
    suffix, beginning = (".png", b"\x89PNG") if has_matplotlib else (".pgm", b"P5 ")

    draw_images(tmp_path, "images", np.random.uniform(size=(23, 8, 8, 1)))
    draw_curves(tmp_path / "deeper", "curves", {"loss": [3.0, 2.0, 1.5], "flat": [2.0, 2.0, 2.0]})

    for figure in (tmp_path / f"images{suffix}", tmp_path / "deeper" / f"curves{suffix}"):
        assert figure.read_bytes().startswith(beginning)


@pytest.mark.once
def test_a_graymap_holds_the_images_row_after_row(tmp_path, monkeypatch):
    from figures import draw_images

    monkeypatch.setitem(sys.modules, "matplotlib.image", None)
    images = np.zeros((20, 8, 8))
    images[13] = 1.0  # second row, fourth column

    draw_images(tmp_path, "images", images)

    head, _, pixels = (tmp_path / "images.pgm").read_bytes().partition(b"\n")
    side = (8 + 2) * 6
    assert head == b"P5 %d %d 255" % (10 * side, 2 * side)
    picture = np.frombuffer(pixels, "uint8").reshape(2, side, 10, side)
    inner = picture[:, 6:-6, :, 6:-6]
    assert (inner[1, :, 3] == 255).all()
    assert inner.sum(dtype=int) == 255 * 48**2


# The page.

PAGE = ROOT / "docs" / "gallery.md"


@pytest.mark.once
def test_the_table_of_lines_is_current():
    render = runpy.run_path(str(ROOT / "docs" / "count_loop_lines.py"))["render"]

    written = PAGE.read_text(encoding="utf-8")
    assert written == render(written), "run `python docs/count_loop_lines.py`"


@pytest.mark.once
def test_only_the_lines_of_the_loop_count():
    count = runpy.run_path(str(ROOT / "docs" / "count_loop_lines.py"))["count"]
    source = '''"""About it."""

import keras

RATE = 0.1
"""Of learning."""


class Noise(keras.layers.Layer):
    def call(self, x):
        return x


class Train(pg.Step):
    """Not this."""

    def train_step(self, batch):
        # Nor this.
        return self.minimize(
            batch
        )


def make_model():
    return keras.Sequential()


def make_step():
    return Train()


def main():
    data = make_data()
    history = pg.fit(
        make_step(), data
    )
    draw(history)


if __name__ == "__main__":
    main()
'''
    counted = ["RATE", "class Train", "def train_step", "return self", "batch", ")"]
    counted += ["def make_step", "return Train", "history", "make_step(), data", ")"]

    assert count(source) == len(counted)


@pytest.mark.once
def test_the_page_shows_every_example():
    linked = re.findall(r"\]\(\.\./examples/gallery/(\w+)\.py\)", PAGE.read_text(encoding="utf-8"))

    assert set(linked) == NAMES
