"""What a step shows of itself: the last of each epoch, on every backend, in blocks and out."""

import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import LogValueError, SampleError
from perigee._events.clock import Clock
from perigee._events.events import Recorded, Started
from perigee._step.samples import Slot
from perigee._step.shown import Images, Texts
from perigee.checkpoints import Checkpoints
from perigee.writers.samples import MOST_KEPT, SampleFiles

ROWS, SIZE, BATCH = 22, 5, 4
LAST = ROWS % BATCH  # rows of the last batch


class Showing(pg.Step):
    """Shows the images of each batch, how far they are from black, and their first pixels."""

    def __init__(self):
        self.model = keras.Sequential([keras.Input((SIZE, SIZE)), keras.layers.Flatten()])
        self.model.add(keras.layers.Dense(1))
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, images):
        loss = self.minimize(
            lambda: ops.square(self.model(images, training=True) - 1.0)[:, 0],
            self.optimizer,
            self.model,
        )
        ids = ops.cast(ops.round(images[:, 0] * 255), "int32")
        return {"loss": loss, "seen": pg.sample(image=images), "ids": pg.sample(text=ids)}

    def test_step(self, images):
        return {
            "loss": ops.mean(self.model(images)),
            "seen": pg.sample(image=1.0 - images),
            "first": pg.sample(text=ops.arange(3), decode=lambda ids: "abc"[len(ids) - 1]),
        }


class Heard(pg.Hook):
    """Keeps the samples of each record."""

    def __init__(self):
        self.records = []

    def on_record(self, event):
        self.records.append((event.scope, event.clock.step, dict(event.samples)))


def pictures():
    """Gray images whose value says which row they are, `(ROWS, SIZE, SIZE)`."""
    return np.repeat(np.arange(ROWS) * 8 / 255, SIZE * SIZE).reshape(-1, SIZE, SIZE).astype("f4")


def pixels_of(images):
    return np.round(images * 255).astype("uint8")[..., None]


@pytest.mark.spread(2)
@pytest.mark.parametrize(
    ("execution", "kind"),
    [
        ("auto", "arrays"),
        ("auto", "list"),
        (pg.Execution(steps_per_call=1), "list"),
        pytest.param(pg.Execution("eager", 1), "arrays", marks=pytest.mark.only_tensorflow),
        pytest.param("xla", "arrays", marks=pytest.mark.only_tensorflow),
    ],
    ids=["blocks", "blocks of a list", "single", "eager", "xla"],
)
def test_the_last_sample_of_each_epoch_is_kept(execution, kind):
    images, heard = pictures(), Heard()
    batches = [images[i : i + BATCH] for i in range(0, ROWS, BATCH)]

    pg.fit(
        Showing(),
        images if kind == "arrays" else batches,
        epochs=2,
        batch_size=BATCH if kind == "arrays" else None,
        shuffle=False if kind == "arrays" else None,
        validation=images[:3],
        callbacks=[heard],
        execution=execution,
        progress="off",
    )

    assert [scope for scope, _, _ in heard.records] == ["epoch", "epoch"]
    for _, _, samples in heard.records:
        assert set(samples) == {"seen", "ids", "val_seen", "val_first"}
        np.testing.assert_array_equal(samples["seen"].pixels, pixels_of(images[-LAST:]))
        np.testing.assert_array_equal(samples["val_seen"].pixels, pixels_of(1 - images[:3]))
        expected = tuple(" ".join([str(8 * row)] * SIZE) for row in range(ROWS - LAST, ROWS))
        assert samples["ids"] == Texts(expected)
        assert samples["val_first"] == Texts(("c",))


def test_samples_change_no_number():
    images = pictures()

    class Silent(Showing):
        def train_step(self, images):
            return {"loss": super().train_step(images)["loss"]}

    losses = []
    for kind in (Showing, Silent):
        keras.utils.set_random_seed(3)
        history = pg.fit(kind(), images, epochs=3, batch_size=BATCH, seed=1, progress="off")
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]


@pytest.mark.only_tensorflow
def test_they_come_out_of_a_stream_too():
    import tensorflow as tf

    images, heard = pictures(), Heard()
    data = tf.data.Dataset.from_tensor_slices(images).batch(BATCH)

    pg.fit(Showing(), data, epochs=1, callbacks=[heard], progress="off")

    ((_, _, samples),) = heard.records
    np.testing.assert_array_equal(samples["seen"].pixels, pixels_of(images[-LAST:]))


class Turns(Showing):
    """Two phases, each with a sample of its own and one of a common name."""

    train_step = pg.alternate(bright_step=2, dark_step=1)

    def bright_step(self, images):
        found = Showing.train_step.__get__(self)(images)
        return {"loss": found["loss"], "bright": found["seen"], "both": found["seen"]}

    def dark_step(self, images):
        return {"dark": pg.sample(image=1 - images), "both": pg.sample(image=images)}


def test_phases_that_take_turns_keep_their_own():
    images, heard = pictures(), Heard()

    pg.fit(Turns(), images, epochs=1, batch_size=BATCH, shuffle=False, callbacks=[heard],
           progress="off")  # fmt: skip

    # Six steps: bright, bright, dark, bright, bright, dark.
    ((_, _, samples),) = heard.records
    before = images[4 * BATCH : 5 * BATCH]
    np.testing.assert_array_equal(samples["bright"].pixels, pixels_of(before))
    np.testing.assert_array_equal(samples["dark"].pixels, pixels_of(1 - images[-LAST:]))
    np.testing.assert_array_equal(samples["dark_step/both"].pixels, pixels_of(images[-LAST:]))
    np.testing.assert_array_equal(samples["bright_step/both"].pixels, pixels_of(before))


def test_a_loop_of_ones_own_shows_them_as_well():
    images, heard = pictures(), Heard()

    with pg.prepare(Showing(), steps_per_epoch=2, callbacks=[heard], progress="off") as trainer:
        while trainer.goes_on(steps=4):
            logs = trainer.train_step(images[:BATCH])
    assert list(logs) == ["loss"]
    assert [set(samples) for _, _, samples in heard.records] == [{"seen", "ids"}] * 2


def train(path, epochs, **more):
    keras.utils.set_random_seed(5)
    run = pg.Run(path, tensorboard=more.pop("tensorboard", False))
    return pg.fit(Showing(), pictures(), epochs=epochs, batch_size=BATCH, shuffle=False,
                  validation=pictures()[:3], run=run, seed=1, progress="off", **more)  # fmt: skip


def files(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted((path / "samples").rglob("*"))
        if file.is_file()
    }


def test_a_run_keeps_them_as_files_also_when_it_goes_on(tmp_path):
    steps = -(-ROWS // BATCH)
    train(tmp_path / "straight", 2)
    train(tmp_path / "resumed", 1)
    stray = tmp_path / "resumed" / "samples" / "seen" / "step-00000099.png"
    stray.write_bytes(b"of steps that a killed process had gone further")
    train(tmp_path / "resumed", 2)

    kept = files(tmp_path / "straight")
    expected = {
        f"samples/{name}/step-{steps * epoch:08d}{suffix}"
        for name, suffix in (
            ("seen", ".png"), ("val_seen", ".png"), ("ids", ".json"), ("val_first", ".json"),
        )
        for epoch in (1, 2)
    }  # fmt: skip
    assert set(kept) == expected
    assert files(tmp_path / "resumed") == kept
    assert json.loads(kept[f"samples/val_first/step-{steps:08d}.json"]) == ["c"]
    page = (tmp_path / "straight" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "val_first" in page


def test_no_checkpoint_holds_them(tmp_path):
    train(tmp_path / "run", 1)

    saved = Checkpoints(tmp_path / "run" / "checkpoints").load().content.arrays
    assert any(key.startswith("model") for key in saved)
    assert not [key for key in saved if "sample" in key]


def test_tensorboard_shows_them(tmp_path):
    from tests.writers.reading import accumulator

    train(tmp_path / "run", 2, tensorboard=True)

    reader = accumulator(tmp_path / "run" / "events" / "train")
    assert [event.step for event in reader.Images("seen")] == [0, 1]
    assert (reader.Images("seen")[0].width, reader.Images("seen")[0].height) == (2 * SIZE + 1, SIZE)
    kept = files(tmp_path / "run")
    steps = -(-ROWS // BATCH)
    for event, step in zip(reader.Images("seen"), (steps, 2 * steps), strict=True):
        assert event.encoded_image_string == kept[f"samples/seen/step-{step:08d}.png"]
    said = [event.tensor_proto.string_val[0].decode() for event in reader.Tensors("ids")]
    assert [text.split("\n\n") for text in said] == [
        json.loads(kept[f"samples/ids/step-{step:08d}.json"]) for step in (steps, 2 * steps)
    ]
    reader = accumulator(tmp_path / "run" / "events" / "validation")
    assert reader.Images("seen")[0].encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither"),
        ({"image": np.zeros((2, 2)), "text": np.zeros(2, "int32")}, "both"),
        ({"image": np.zeros(3)}, "shape (3,)"),
        ({"image": np.zeros((2, 3, 3, 5))}, "shape (2, 3, 3, 5)"),
        ({"image": "a.png"}, "'a.png'"),
        ({"text": "words"}, "'words'"),
        ({"text": np.zeros((2, 3))}, "float"),
        ({"text": np.zeros((2, 3, 4), "int32")}, "shape (2, 3, 4)"),
        ({"text": np.array(["words"])}, "<U5"),
    ],
)
def test_what_is_no_image_and_no_ids_is_refused(given, said):
    with pytest.raises(SampleError) as caught:
        pg.sample(**given)
    assert said in caught.value.happened


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3), (2, 5, 6), (2, 5, 6, 4), (40, 5, 6, 1)])
def test_images_of_any_number_and_colors_are_taken(shape):
    kept = pg.sample(image=np.full(shape, 0.5, "float32")).values

    assert len(kept.shape) == 4 and kept.shape[0] <= 16
    assert np.all(ops.convert_to_numpy(kept) == 128)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[-1.0, 0.0, 1.0, 2.0, np.nan]], "float32"), [0, 0, 255, 255, 0]),
        (np.array([[-1, 0, 255, 256, 7]], "int32"), [0, 0, 255, 255, 7]),
        (np.array([[True, False]]), [255, 0]),
        (np.array([[3, 200]], "uint8"), [3, 200]),
    ],
    ids=["float", "int", "bool", "uint8"],
)
def test_pixels_are_cut_off_where_there_are_no_more_shades(values, expected):
    kept = ops.convert_to_numpy(pg.sample(image=values).values)

    assert kept.ravel().tolist() == expected


def test_texts_of_varying_lengths_are_cut_and_padding_is_left_out():
    slot = Slot(pg.sample(text=np.array([[1, 2]], "int32")))
    for length in (3, 700):
        slot.write(pg.sample(text=np.arange(length, dtype="int32")))
        (text,) = slot.take().texts
        assert text.split() == [str(i) for i in range(min(length, 256))]
    slot.write(pg.sample(text=np.array([[4, -1, 5, -1]], "int32")))
    assert slot.take() == Texts(("4 5",))
    assert slot.take() is None


def test_other_strings_are_still_refused():
    class Wordy(Showing):
        def train_step(self, images):
            return {"loss": super().train_step(images)["loss"], "said": "hello"}

    with pytest.raises(LogValueError):
        pg.fit(Wordy(), pictures(), batch_size=BATCH, progress="off")


def test_the_png_is_one_that_others_read(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        pixels = np.random.default_rng(1).integers(0, 256, (3, 5, 4, channels)).astype("uint8")
        path = Path(tmp_path / f"{mode}.png")
        path.write_bytes(Images(pixels).content())

        with image.open(path) as read:
            assert (read.mode, read.size) == (mode, (9, 11))
            found = np.asarray(read).reshape(11, 9, channels)
        np.testing.assert_array_equal(found[:5, :4], pixels[0])
        np.testing.assert_array_equal(found[:5, 5:], pixels[1])
        np.testing.assert_array_equal(found[6:, :4], pixels[2])


def recorded(number):
    clock = Clock(number, number, 0)
    shown = {"a/../b": Texts((f"of {number}",))}
    return Recorded(clock, "epoch", {}, print, 0.0, shown)


def test_of_many_files_some_are_kept_and_always_the_last(tmp_path):
    straight, first = SampleFiles(tmp_path / "straight"), SampleFiles(tmp_path / "resumed")
    for number in range(1, 131):
        straight.on_record(recorded(number))
        if number <= 90:
            first.on_record(recorded(number))
        if number == 70:
            state = first.state()  # of a checkpoint, after which it went on, and was killed
    again = SampleFiles(tmp_path / "resumed")
    again.load_state(state)
    again.on_start(Started(None, Clock(70, 70, 0), None, None, None, 0.0, None))
    for number in range(71, 131):
        again.on_record(recorded(number))

    kept = files(tmp_path / "straight")
    assert len(kept) <= MOST_KEPT
    numbers = [int(name[-13:-5]) for name in kept]
    assert numbers[0] == 1 and numbers[-1] == 130
    assert max(b - a for a, b in itertools.pairwise(numbers)) <= 4
    assert {Path(name).parts[1] for name in kept} == {"a%2F..%2Fb"}
    assert files(tmp_path / "resumed") == kept
