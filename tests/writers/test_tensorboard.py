"""TensorBoard's events: read back with its own reader, also after a crash, without TensorFlow."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perigee._errors import MissingPackageError
from perigee._events.clock import Clock
from perigee._events.events import Recorded, Started
from perigee.writers import TensorBoard
from tests.writers import reading

SOURCE = Path(__file__).parents[2] / "src"


def started(clock=None):
    return Started(None, clock or Clock(), 2, None, 10, 0.0)


def record(clock, scope, values):
    return Recorded(clock, scope, values, lambda reason: None, 0.0)


def write(directory, *records, **arguments):
    writer = TensorBoard(directory, **arguments)
    writer.on_start(started())
    for each in records:
        writer.on_record(each)
    writer.on_end(None)


def test_values_have_the_places_tags_and_steps_that_the_callback_of_keras_gives_them(tmp_path):
    whole = {"loss": 0.5, "learning_rate": 0.25, "val_loss": 2.0}
    write(
        tmp_path,
        record(
            Clock(4, 0, 4),
            "steps",
            {"loss": 1.5, "learning_rate": 0.125, "running/accuracy": 0.75},
        ),
        record(Clock(6, 0, 6), "validation", {"val_loss": 3.0}),
        record(Clock(10, 1, 0), "epoch", whole),
        record(Clock(17, 1, 7), "epoch", {"loss": 0.25}),
    )
    assert reading.scalars(tmp_path) == {
        ("train", "batch_loss"): [(4, 1.5)],
        ("train", "batch_learning_rate"): [(4, 0.125)],
        ("train", "batch_running/accuracy"): [(4, 0.75)],
        ("train", "epoch_loss"): [(0, 0.5), (1, 0.25)],
        ("train", "epoch_learning_rate"): [(0, 0.25)],
        ("validation", "evaluation_loss_vs_iterations"): [(6, 3.0)],
        ("validation", "epoch_loss"): [(0, 2.0)],
    }


@pytest.mark.only_tensorflow
def test_epochs_are_tagged_as_the_callback_of_keras_tags_them(tmp_path):
    import keras
    import numpy as np
    import tensorflow as tf

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.25), "mse")
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    callback = keras.callbacks.TensorBoard(str(tmp_path / "keras"))
    history = model.fit(
        x, y, validation_data=(x, y), epochs=2, verbose=0, callbacks=[callback]
    ).history
    epochs = [
        {name: values[epoch] for name, values in history.items()} | {"learning_rate": 0.25}
        for epoch in range(2)
    ]
    write(
        tmp_path,
        *(record(Clock(n, n, 0), "epoch", values) for n, values in enumerate(epochs, 1)),
    )
    theirs = {}
    for place in ("train", "validation"):
        reader = reading.accumulator(tmp_path / "keras" / place)
        for tag in reader.Tags()["tensors"]:
            if tag.startswith("epoch"):
                theirs[place, tag] = [
                    (event.step, float(tf.make_ndarray(event.tensor_proto)))
                    for event in reader.Tensors(tag)
                ]
    assert reading.scalars(tmp_path) == theirs


def test_any_name_and_value_is_taken(tmp_path):
    values = {"": 1.0, "lone \udcff": 2.0, "two\nlines": float("inf"), "huge": 1e300}
    write(tmp_path, record(Clock(1, 0, 1), "steps", values))
    assert [points[0][1] for points in reading.scalars(tmp_path).values()] == [
        1.0,
        2.0,
        float("inf"),
        float("inf"),
    ]


def test_the_configuration_is_a_text(tmp_path):
    write(tmp_path, configuration={"seed": 7, "path": Path("data")})
    (event,) = reading.accumulator(tmp_path / "events" / "train").Tensors("configuration")
    (text,) = event.tensor_proto.string_val
    for fact in (b'"seed": 7', b'"path": "data"', b'"epochs": 2'):
        assert fact in text


def run(code, *, killed=False):
    head = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
    done = subprocess.run([sys.executable, "-c", head + code], check=False)
    assert done.returncode == (-signal.SIGKILL if killed else 0)


WRITING = """
from perigee._events.clock import Clock
from perigee._events.events import Recorded, Started
from perigee.writers import TensorBoard
writer = TensorBoard({directory!r})
writer.on_start(Started(None, Clock(), 1, None, None, 0.0))
for step in range(1, {steps} + 1):
    clock = Clock(step, 0, step)
    writer.on_record(Recorded(clock, "steps", {{"loss": step / 7}}, print, 0.0))
    writer.on_record(Recorded(clock, "validation", {{"val_loss": step / 3}}, print, 0.0))
"""


@pytest.mark.process
@pytest.mark.parametrize("is_installed", [True, False])
def test_no_tensorflow_is_needed_or_imported(tmp_path, is_installed):
    steps = 5
    writing = WRITING.format(directory=str(tmp_path), steps=steps)
    if is_installed:
        run(f"{writing}\nassert 'tensorflow' not in sys.modules")
    else:
        run(f"sys.modules['tensorflow'] = None\n{writing}")
    points = reading.scalars(tmp_path)[("train", "batch_loss")]
    assert [step for step, _ in points] == list(range(1, steps + 1))


@pytest.mark.process
def test_a_killed_process_leaves_every_event_that_was_recorded(tmp_path):
    steps = 50
    code = WRITING.format(directory=str(tmp_path), steps=steps)
    run(f"{code}\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)", killed=True)
    expected = list(range(1, steps + 1))
    assert {
        tag: [step for step, _ in points] for tag, points in reading.scalars(tmp_path).items()
    } == {
        ("train", "batch_loss"): expected,
        ("validation", "evaluation_loss_vs_iterations"): expected,
    }


def test_a_file_torn_at_any_byte_reads_as_its_whole_events(tmp_path):
    write(tmp_path, *(record(Clock(s, 0, s), "steps", {"loss": 1.0}) for s in (1, 2)))
    (file,) = (tmp_path / "events" / "train").iterdir()
    content = file.read_bytes()
    counts = []
    for size in range(len(content)):
        file.write_bytes(content[:size])
        counts.append(len(reading.scalars(tmp_path).get(("train", "batch_loss"), [])))
    assert counts == sorted(counts)
    assert set(counts) == {0, 1}  # the second is whole with its last byte only


def test_a_reader_that_is_running_forgets_what_a_resumed_run_writes_again(tmp_path):
    first = TensorBoard(tmp_path)
    first.on_start(started())
    for step in (1, 2):
        first.on_record(record(Clock(step, 0, step), "steps", {"loss": 1.0}))
    state = first.state()
    first.on_record(record(Clock(3, 0, 3), "steps", {"loss": 1.0}))
    reader = reading.accumulator(tmp_path / "events" / "train")
    assert [event.step for event in reader.Scalars("batch_loss")] == [1, 2, 3]

    again = TensorBoard(tmp_path)
    again.load_state(state)
    again.on_start(started(Clock(2, 0, 2)))
    again.on_record(record(Clock(3, 0, 3), "steps", {"loss": 2.0}))
    again.on_end(None)
    reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("batch_loss")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
    ]


def test_a_record_that_was_half_written_is_finished_when_it_is_given_again(tmp_path, monkeypatch):
    writer = TensorBoard(tmp_path)
    writer.on_start(started())
    both = record(Clock(10, 1, 0), "epoch", {"loss": 1.0, "val_loss": 2.0})
    make = writer._package.header
    for _ in range(3):
        with monkeypatch.context() as broken, pytest.raises(OSError, match="full"):

            def full(first_step):
                raise OSError("full")

            broken.setattr(writer._package, "header", full)  # of the file of the validation
            writer.on_record(both)
    assert writer._package.header == make
    writer.on_record(both)
    writer.on_end(None)
    assert reading.scalars(tmp_path) == {
        ("train", "epoch_loss"): [(0, 1.0)],
        ("validation", "epoch_loss"): [(0, 2.0)],
    }
    assert len(list((tmp_path / "events" / "validation").iterdir())) == 1


def test_resumed_often_the_text_is_there_once_and_the_files_are_in_order(tmp_path):
    resumes = 12
    writer = TensorBoard(tmp_path)
    writer.on_start(started())
    for step in range(1, resumes + 1):
        writer.on_record(record(Clock(step, 0, step), "steps", {"loss": 1.0}))
        state = writer.state()
        writer = TensorBoard(tmp_path)
        writer.load_state(state)
        writer.on_start(started(Clock(step, 0, step)))
    writer.on_end(None)
    reader = reading.accumulator(tmp_path / "events" / "train")
    assert len(reader.Tensors("configuration")) == 1
    assert [event.step for event in reader.Scalars("batch_loss")] == list(range(1, resumes + 1))
    assert len(list((tmp_path / "events" / "train").iterdir())) == resumes + 1


@pytest.mark.parametrize(
    "module", ["tensorboard", "tensorboard.summary.writer.record_writer", "google.protobuf"]
)
def test_a_missing_package_is_said_before_anything_is_made(tmp_path, monkeypatch, module):
    for name in [name for name in sys.modules if name.startswith(("tensorboard", module))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=r"perigee\[tensorboard\]"):
        TensorBoard(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_to_is_known_at_the_start(tmp_path):
    (tmp_path / "events").write_text("")
    with pytest.raises(OSError):
        TensorBoard(tmp_path).on_start(started())
