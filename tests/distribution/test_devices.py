"""`keras.distribution` on JAX: several devices train as one does, and nothing is copied about."""

import functools

import jax
import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _backends
from perigee._backends.jax import placement
from perigee._step.state import track
from perigee.checkpoints import Checkpoints

pytestmark = pytest.mark.only_jax

ROWS, BATCH, INPUTS, UNITS = 44, 16, 8, 12
"""The last of three batches has 12 rows, which divide over 2 and 4 devices and not over 8."""
RAGGED_ROWS = 39
"""With these, the last batch has 7 rows."""


class Regression(pg.Step):
    """Everything that a step may hold: statistics, random draws, a metric."""

    def __init__(self):
        layers = [
            keras.layers.Dense(UNITS, use_bias=False, name="wide"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.25, seed=3),
            keras.layers.Dense(1),
        ]
        self.model = keras.Sequential([keras.Input((INPUTS,)), *layers])
        self.optimizer = keras.optimizers.SGD(0.05, momentum=0.9, clipnorm=0.5)
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.model(x, training=True)
            return ops.square(y - y_pred)[:, 0], y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(y, y_pred)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        return {"loss": ops.square(y - self.model(x, training=False))[:, 0]}

    def predict_step(self, batch):
        return self.model(batch[0], training=False)


def data(rows=ROWS):
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, INPUTS)).astype("float32")
    return x, np.sin(x[:, :1])


def data_parallel(devices):
    return keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:devices])


def model_parallel():
    mesh = keras.distribution.DeviceMesh(
        (2, 2), ("batch", "model"), keras.distribution.list_devices()
    )
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*wide/kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


DISTRIBUTIONS = {
    "none": lambda: None,
    "2 devices": functools.partial(data_parallel, 2),
    "4 devices": functools.partial(data_parallel, 4),
    "a kernel over 2 of 4": model_parallel,
}


@pytest.fixture(autouse=True)
def undistributed():
    yield
    keras.distribution.set_distribution(None)


def step_on(distribution):
    """Return a Step whose variables lie as a distribution says, which is then set."""
    keras.utils.clear_session()
    keras.distribution.set_distribution(DISTRIBUTIONS[distribution]())
    keras.utils.set_random_seed(7)
    return Regression()


def fit(step, rows=ROWS, *, steps_per_call=8, epochs=3, **arguments):
    execution = pg.Execution(steps_per_call=steps_per_call)
    return pg.fit(
        step,
        data(rows),
        epochs=epochs,
        batch_size=BATCH,
        seed=5,
        progress="off",
        execution=execution,
        **arguments,
    )


def values_of(step):
    return {e.key: np.array(e.variable) for e in track(step).entries}


def is_everywhere(array, devices):
    return array.sharding.is_fully_replicated and len(array.sharding.device_set) == devices


@functools.cache
def on_one_device(steps_per_call):
    step = step_on("none")
    history = fit(step, validation=data(RAGGED_ROWS), steps_per_call=steps_per_call)
    return history.history, values_of(step), pg.predict(step, data(RAGGED_ROWS))


@pytest.mark.tried(
    "the updates and logs of one device, ragged batches included",
    data_parallel="works",
    model_parallel="works",
)
@pytest.mark.parametrize(
    ("distribution", "steps_per_call"),
    [("2 devices", 1), ("4 devices", 1), ("4 devices", 8), ("a kernel over 2 of 4", 8)],
)
@pytest.mark.slow
def test_several_devices_train_measure_and_predict_as_one(distribution, steps_per_call):
    expected, weights, predictions = on_one_device(steps_per_call)
    step = step_on(distribution)

    history = fit(step, validation=data(RAGGED_ROWS), steps_per_call=steps_per_call)

    assert history.history.keys() == expected.keys()
    for name, means in history.history.items():
        np.testing.assert_allclose(means, expected[name], rtol=1e-5, err_msg=name)
    for key, value in values_of(step).items():  # seeds too: the masks of Dropout are the same
        np.testing.assert_allclose(value, weights[key], rtol=1e-4, atol=1e-6, err_msg=key)
    np.testing.assert_allclose(
        pg.predict(step, data(RAGGED_ROWS)), predictions, rtol=1e-4, atol=1e-6
    )


@pytest.mark.tried(
    "state keeps its layout, and its memory is reused",
    data_parallel="works",
    model_parallel="works",
)
@pytest.mark.parametrize(
    ("distribution", "steps_per_call"), [("4 devices", 1), ("a kernel over 2 of 4", 8)]
)
def test_state_stays_where_it_is_and_gives_up_its_memory(monkeypatch, distribution, steps_per_call):
    step = step_on(distribution)
    fit(step, 2 * BATCH, steps_per_call=steps_per_call)
    variables = track(step).variables
    before = [variable.value for variable in variables]
    layouts = [value.sharding for value in before]
    moved = []
    device_put = jax.device_put

    def watched(value, *args, **kwargs):
        if isinstance(value, jax.Array):
            moved.append(value.shape)
        return device_put(value, *args, **kwargs)

    monkeypatch.setattr(jax, "device_put", watched)
    epochs = 2
    fit(step, 2 * BATCH, steps_per_call=steps_per_call, epochs=epochs)

    metric_variables = len(step.error.variables)
    assert moved == [()] * metric_variables * epochs  # metrics begin anew in each epoch
    assert [variable.value.sharding for variable in variables] == layouts
    trained = [value for v, value in zip(variables, before, strict=True) if v.trainable]
    assert all(value.is_deleted() for value in trained)


@pytest.mark.parametrize(("rows", "share"), [(16, 4), (12, 3), (7, 7), (2, 2)])
def test_a_batch_that_divides_is_split_and_any_other_lies_on_each_device(rows, share):
    keras.distribution.set_distribution(data_parallel(4))
    run = _backends.current().compile(lambda batch: batch * 2, [], "graph")
    placed = placement.placed(np.ones((rows, 3), "float32"))

    doubled = run(np.ones((rows, 3), "float32"))

    assert {shard.data.shape for shard in placed.addressable_shards} == {(share, 3)}
    np.testing.assert_array_equal(doubled, np.full((rows, 3), 2.0))


def test_each_device_is_given_its_rows_of_every_batch_of_a_pass():
    keras.distribution.set_distribution(data_parallel(4))
    rows, batch_size = 22, 8
    array, order = np.arange(rows), np.random.default_rng(0).permutation(rows)

    spread = _backends.current().spread({"ids": array}, order, batch_size)["ids"]

    expected = order[:16].reshape(2, 4, 2)  # batches, devices, rows
    shards = sorted(spread.addressable_shards, key=lambda shard: shard.device.id)
    for device, shard in enumerate(shards):
        np.testing.assert_array_equal(shard.data, expected[:, device])


def test_a_kernel_that_is_split_is_split_in_its_slots_too():
    step = step_on("a kernel over 2 of 4")
    fit(step, epochs=1)

    kernels = [v for v in track(step).variables if "wide" in v.path]
    assert len(kernels) == 2  # itself and its momentum
    for kernel in kernels:
        assert {s.data.shape for s in kernel.value.addressable_shards} == {(INPUTS, UNITS // 2)}
    assert is_everywhere(step.optimizer.iterations.value, 4)


@pytest.mark.tried(
    "checkpoints of another number of devices, to the bit",
    data_parallel="works",
    model_parallel="works",
)
@pytest.mark.parametrize(
    ("saved_on", "restored_on"),
    [("4 devices", "none"), ("none", "2 devices"), ("a kernel over 2 of 4", "4 devices")],
)
def test_what_one_distribution_saves_another_one_loads_to_the_bit(tmp_path, saved_on, restored_on):
    run = pg.Run(tmp_path / "run")
    trained = step_on(saved_on)
    fit(trained, run=run)
    saved = values_of(trained)
    restored = step_on(restored_on)
    restored.optimizer.build(restored.model.trainable_variables)

    run.restore(restored, strict=False)

    for key, value in values_of(restored).items():
        np.testing.assert_array_equal(value, saved[key], err_msg=key)


@pytest.mark.tried("a run resumes, to the bit", data_parallel="works", model_parallel="works")
@pytest.mark.parametrize("distribution", ["4 devices", "a kernel over 2 of 4"])
def test_a_run_goes_on_to_the_bit(tmp_path, distribution):
    straight = step_on(distribution)
    history = fit(straight, epochs=3)
    fit(step_on(distribution), epochs=1, run=tmp_path / "run")
    resumed = step_on(distribution)

    again = fit(resumed, epochs=3, run=tmp_path / "run")

    assert again.history["loss"][-1] == history.history["loss"][-1]
    expected = values_of(straight)
    for key, value in values_of(resumed).items():
        np.testing.assert_array_equal(value, expected[key], err_msg=key)


@pytest.mark.tried("a run resumes with another number of devices", data_parallel="works")
def test_a_run_goes_on_with_other_devices(tmp_path):
    expected, weights, _ = on_one_device(8)
    fit(step_on("4 devices"), epochs=1, run=tmp_path / "run")
    resumed = step_on("2 devices")

    again = fit(resumed, epochs=3, run=tmp_path / "run")

    [told] = [finding for finding in again.findings if finding.code == "PG430"]
    assert told.items == ("the devices, 4 then and 2 now: sums are rounded in another order",)
    np.testing.assert_allclose(again.history["loss"][-1], expected["loss"][-1], rtol=1e-5)
    for key, value in values_of(resumed).items():
        np.testing.assert_allclose(value, weights[key], rtol=1e-4, atol=1e-6, err_msg=key)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()


@pytest.mark.tried('`nonfinite="skip"`', data_parallel="works")
def test_a_step_that_is_skipped_changes_nothing_on_any_device():
    x, y = data(BATCH)
    y[3] = np.nan  # of one device's share
    step = step_on("4 devices")
    step.optimizer.build(step.model.trainable_variables)
    before = {key: v for key, v in values_of(step).items() if not key.startswith("error")}

    history = pg.fit(
        step, (x, y), batch_size=BATCH, nonfinite="skip", shuffle=False, progress="off"
    )

    assert history.history["skipped_steps"] == [1.0]
    for key, value in before.items():
        np.testing.assert_array_equal(values_of(step)[key], value, err_msg=key)
    for variable in track(step).variables:
        first, *others = (np.asarray(s.data) for s in variable.value.addressable_shards)
        for other in others:
            np.testing.assert_array_equal(other, first)


@pytest.mark.tried("eager steps", data_parallel="works")
@pytest.mark.slow
def test_eager_steps_run_on_several_devices_too():
    step = step_on("4 devices")

    history = pg.fit(
        step, data(), batch_size=BATCH, execution="eager", seed=5, epochs=2, progress="off"
    )

    np.testing.assert_allclose(history.history["loss"], on_one_device(1)[0]["loss"][:2], rtol=1e-5)
    assert is_everywhere(step.optimizer.iterations.value, 4)


def test_batches_of_an_iterable_are_split_too():
    x, y = data(3 * BATCH)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(x), BATCH)]
    histories = []
    for distribution in ("none", "4 devices"):
        step = step_on(distribution)
        execution = pg.Execution(steps_per_call=2)
        histories.append(pg.fit(step, batches, epochs=2, execution=execution, progress="off"))

    one, four = (history.history["loss"] for history in histories)
    np.testing.assert_allclose(four, one, rtol=1e-5)


def test_batches_that_do_not_divide_are_reported_once():
    rows = 30
    step = step_on("4 devices")

    with pytest.warns(pg.PerigeeWarning, match="PG761"):
        history = pg.fit(step, data(2 * rows), batch_size=rows, progress="off")

    (finding,) = history.findings
    assert finding.code == "PG761"
    assert "use 28 rows" in finding.fix


@pytest.mark.tried("a Step and its parts made in different scopes", data_parallel="refused")
@pytest.mark.parametrize(
    ("made_on", "trained_on", "seen"),
    [
        ("none", "4 devices", "on 1 device"),
        ("4 devices", "none", "on 4 devices"),
        ("4 devices", "2 devices", "on 4 devices"),
    ],
)
def test_variables_made_under_another_distribution_are_refused(made_on, trained_on, seen):
    step = step_on(made_on)
    keras.distribution.set_distribution(DISTRIBUTIONS[trained_on]())

    with pytest.raises(pg.PerigeeError, match=r"\[PG751\]") as caught:
        fit(step)

    assert seen in caught.value.variables[0]
    assert "set_distribution" in str(caught.value)


def test_a_step_that_was_trained_already_is_refused_under_another_distribution():
    step = step_on("4 devices")
    fit(step, epochs=1)
    keras.distribution.set_distribution(data_parallel(2))

    with pytest.raises(pg.PerigeeError, match=r"\[PG751\]"):
        fit(step, epochs=1)
