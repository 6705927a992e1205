"""A profile: a trace that can be opened, and numbers that were counted by hand."""

import gzip
import json

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._execution import Program
from perigee.report.profile import profile_lines
from perigee.tools import Profile

BACKEND = keras.backend.backend()
BATCH, INPUTS, HIDDEN = 16, 8, 32


def data(batches=40):
    x = np.random.default_rng(0).normal(size=(BATCH * batches, INPUTS)).astype("float32")
    return x, x[:, :1]


def make():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((INPUTS,)), keras.layers.Dense(HIDDEN, "relu"), keras.layers.Dense(1)]
    )
    return pg.Supervised(model, keras.optimizers.Adam(), keras.losses.MeanSquaredError())


def fit(step, **arguments):
    given = {"batch_size": BATCH, "seed": 0, "progress": "off", **arguments}
    return pg.fit(step, data(), **given)


def events_in(folder):
    """The names of what happened, from files that Perfetto opens."""
    names = set()
    for path in [*folder.rglob("perfetto_trace.json.gz"), *folder.rglob("*.pt.trace.json")]:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        names |= {event.get("name", "") for event in json.loads(content)["traceEvents"]}
    return names


def test_the_trace_is_there_and_tells_of_the_steps(tmp_path):
    steps = 4
    profile = Profile(tmp_path / "profile", steps=steps)

    fit(make(), epochs=2, run=tmp_path / "run", callbacks=[profile])

    assert profile.found.traced == (steps + 1, 2 * steps)
    if BACKEND != "torch":  # which writes for Perfetto alone
        (content,) = [p.read_bytes() for p in tmp_path.rglob("plugins/profile/*/*.xplane.pb")]
        assert b"MatMul" in content or b"dot" in content
    if BACKEND != "tensorflow":  # which writes for TensorBoard alone
        shown = " ".join(events_in(tmp_path / "profile"))
        assert ("aten::mm" if BACKEND == "torch" else "dot") in shown


@pytest.mark.slow
def test_a_profile_changes_no_number(tmp_path):
    plain, profiled = make(), make()
    fit(plain, epochs=2, execution="graph" if BACKEND != "torch" else "auto")
    fit(
        profiled,
        epochs=2,
        execution="graph" if BACKEND != "torch" else "auto",
        callbacks=[Profile(tmp_path)],
    )

    for left, right in zip(plain.model.get_weights(), profiled.model.get_weights(), strict=True):
        assert left.tobytes() == right.tobytes()
    optimizers = [step.optimizer.iterations for step in (plain, profiled)]
    assert len({int(keras.ops.convert_to_numpy(each)) for each in optimizers}) == 1


def test_what_was_measured_is_said_and_kept(tmp_path):
    profile = Profile(tmp_path / "run" / "profile", steps=2)

    history = fit(make(), epochs=2, run=tmp_path / "run", callbacks=[profile])

    found = profile.found
    forward = 2 * BATCH * (INPUTS * HIDDEN + HIDDEN)
    backward = forward + 2 * BATCH * HIDDEN  # the inputs need no gradient
    assert found.operations == forward + backward
    assert found.spent == history.spent
    assert 0 < found.step_seconds < found.first_step_seconds < sum(found.spent.values())
    reached = found.operations / found.step_seconds / found.matrix_rate.per_second
    assert found.utilization == pytest.approx(reached)
    assert 0 < found.utilization < 1
    kept = json.loads((tmp_path / "run" / "profile" / "profile.json").read_text())
    assert kept == found.facts()
    table = str(found).splitlines()
    assert [line.split("  ")[0] for line in table] == list(profile_lines(kept))
    page = (tmp_path / "run" / "report.html").read_text()
    assert profile_lines(kept)["utilization"] in page


def test_convolutions_are_counted_with_their_gradients():
    size, channels, filters, width, strides = 9, 2, 4, 3, 2
    out = (size - width) // strides + 1
    model = keras.Sequential(
        [
            keras.Input((size, size, channels)),
            keras.layers.Conv2D(filters, width, strides=strides),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    step = pg.Supervised(model, keras.optimizers.SGD(), keras.losses.MeanSquaredError())
    images = np.zeros((BATCH, size, size, channels), "float32")
    pg.fit(step, (images, np.zeros((BATCH, filters), "float32")), batch_size=BATCH, progress="off")

    once = 2 * BATCH * out * out * filters * width * width * channels
    assert Program.last(step, "train_step").operations() == 2 * once


@pytest.mark.only_tensorflow
def test_a_depthwise_convolution_counts_each_channel_once():
    size, channels, width = 9, 2, 3
    out = size - width + 1
    model = keras.Sequential(
        [
            keras.Input((size, size, channels)),
            keras.layers.DepthwiseConv2D(width),
            keras.layers.GlobalAveragePooling2D(),
        ]
    )
    step = pg.Supervised(model, keras.optimizers.SGD(), keras.losses.MeanSquaredError())
    rows = np.zeros((BATCH, size, size, channels)), np.zeros((BATCH, channels))
    pg.fit(step, rows, batch_size=BATCH, progress="off")

    once = 2 * BATCH * out * out * channels * width * width
    assert Program.last(step, "train_step").operations() == 2 * once


@pytest.mark.slow
def test_the_turns_of_a_loop_are_counted_or_it_is_not_known():
    length, units = 5, 3
    model = keras.Sequential([keras.Input((length, INPUTS)), keras.layers.SimpleRNN(units)])
    step = pg.Supervised(model, keras.optimizers.SGD(), keras.losses.MeanSquaredError())
    rows = np.zeros((BATCH, length, INPUTS), "float32"), np.zeros((BATCH, units), "float32")
    pg.fit(step, rows, batch_size=BATCH, progress="off")

    found = Program.last(step, "train_step").operations()

    forward = 2 * BATCH * units * length * (INPUTS + units)
    if BACKEND == "tensorflow":  # whose loops do not say how often they turn
        assert found is None
    else:
        # Besides, the gradients of states, of which the first one may be left out.
        assert 2 * forward <= found <= 3 * forward


@pytest.mark.spread(1)
@pytest.mark.parametrize(("steps", "traced"), [(1, None), (2, None), (3, (3, 3)), (7, (4, 6))])
def test_short_trainings_are_traced_as_far_as_they_go(tmp_path, steps, traced):
    profile = Profile(tmp_path)

    history = fit(make(), steps=steps, callbacks=[profile])

    assert history.clock.step == steps
    assert profile.found.traced == traced
    assert ("too short" in str(profile.found)) == (traced is None)


@pytest.mark.slow
def test_no_trace_goes_on_after_an_error(tmp_path):
    class Fails(pg.Hook):
        every = pg.Every(steps=3)

        def on_steps(self, event):
            raise RuntimeError("a hook")

    failing = Profile(tmp_path / "a", steps=2)
    with pytest.raises(RuntimeError, match="a hook"):
        fit(make(), callbacks=[failing, Fails()])
    again = Profile(tmp_path / "b", steps=2)
    fit(make(), callbacks=[again])

    assert failing.found is None
    assert again.found.traced == (3, 4)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_are_a_whole_number(tmp_path, steps):
    with pytest.raises(pg.PerigeeError, match="a positive integer"):
        Profile(tmp_path, steps=steps)
