"""Several processes: the numbers of one device, one writer, and an end for all."""

import functools
import json
import time

import keras
import numpy as np
import pytest

from perigee.writers.json_lines import read_json_lines
from tests.backends.problems import PROBLEMS
from tests.backends.trajectories import Results, are_identical, distance
from tests.distribution import trainings
from tests.distribution.problems import SOLVED
from tests.distribution.processes import PROCESSES, TIMEOUT_SECS, Together

FRAMEWORK = keras.backend.backend()
IS_JAX = FRAMEWORK == "jax"

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(FRAMEWORK == "torch", reason="Keras joins no processes of torch"),
]

MOST_SECS_TO_END = 60
KILLS = [("1", 6), ("0", 10)]
"""Which process dies, and after which step."""
TOLD = [
    "problems",
    "in_blocks",
    "for_one_epoch",
    "goes_on",
    "skipped",
    "scaled",
    "masks",
    "signaled_in_one",
    "other_batches",
    "own_loop",
    "never_killed",
]
TOLD_OF_JAX = ["shares", "no_distribution", "split_kernels"]
RANDOM = [name for name, problem in PROBLEMS.items() if problem.is_random]

together = functools.partial(Together, framework=FRAMEWORK)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def alone(folder):
    """Return where one device trains."""
    return trainings.Place(folder)


@pytest.fixture(scope="module")
def told(folder, alone):
    """Return a function that says what each process returned."""
    trainings.for_one_epoch(alone)
    with together(folder, *TOLD, *(TOLD_OF_JAX if IS_JAX else ())) as processes:
        processes.wait()
        yield processes.returned


@pytest.fixture(scope="module")
def solved(told, folder):
    """Return what each process found of the problems."""
    told("problems")
    paths = [folder / f"problems-{i}-of-{PROCESSES}.npz" for i in range(PROCESSES)]
    return [Results.load(path).trajectories for path in paths]


def numbers(found):
    """Return everything that a training came to, by name."""
    parts = {**found["history"], **found["values"], **found.get("later", {})}
    return {name: np.array(values, "float64") for name, values in parts.items()}


def assert_alike(ours, theirs, places=1e-6):
    """Compare what two trainings came to, up to the order in which floats are added."""
    assert ours.keys() == theirs.keys()
    for key, values in theirs.items():
        rtol = 1e-5 if key.endswith("loss") else 1e-4
        np.testing.assert_allclose(ours[key], values, rtol=rtol, atol=places, err_msg=key)


@pytest.mark.tried(
    "the updates and logs of one device, ragged batches included",
    workers="works",
    jax_processes="works",
)
@pytest.mark.tried(
    "gradients for variables inside another objective", workers="works", jax_processes="works"
)
@pytest.mark.tried("regularizers and `add_loss`", workers="works", jax_processes="works")
@pytest.mark.tried("clipping of the reduced gradient", workers="works", jax_processes="works")
@pytest.mark.tried("embeddings", workers="works", jax_processes="works")
@pytest.mark.tried("`accumulate`", workers="works", jax_processes="works")
@pytest.mark.tried("`apply(when=...)`", workers="works", jax_processes="works")
@pytest.mark.parametrize("name", SOLVED)
def test_e12_processes_solve_each_problem_as_one_device_does(solved, alone, name):
    first, other = (results[name]["ours"] for results in solved)
    problem = SOLVED[name]

    expected = trainings.solved(alone, problem, trainings.QUICKLY)

    found = distance(expected, first)
    assert are_identical(first, other)
    assert found.first <= problem.tolerance.first, found.places
    assert found.later <= problem.tolerance.later, found.places
    assert found.weights <= problem.tolerance.weights, found.places


@pytest.mark.tried(
    "Dropout: other masks on each replica, the same in each run",
    workers="works",
    jax_processes="works",
)
@pytest.mark.parametrize("name", RANDOM)
def test_e10_random_layers_repeat_themselves_bit_for_bit(solved, name):
    first, other = (results[name] for results in solved)

    assert are_identical(first["ours"], first["again"])
    assert are_identical(first["ours"], other["ours"])


def test_e10_masks_differ_between_processes(told):
    first, other = map(np.array, told("masks"))

    share = trainings.BATCH // PROCESSES
    np.testing.assert_array_equal(first, other)
    assert {0.0, 2.0} == set(first.ravel())
    assert not np.array_equal(first[:share], first[share:])


@pytest.mark.tried("many steps in one call", workers="works", jax_processes="works")
@pytest.mark.tried("`evaluate` and `predict`", workers="works", jax_processes="works")
def test_processes_train_in_blocks_measure_and_predict_as_one(told, tmp_path):
    """As one device on JAX, and as two replicas of one process on TensorFlow."""
    strategy = None
    if not IS_JAX:
        from tests.distribution.strategies import mirrored

        strategy = mirrored(PROCESSES)
    place = trainings.Place(tmp_path, strategy=strategy)

    expected = numbers(trainings.in_blocks(place))

    first, other = map(numbers, told("in_blocks"))
    assert_alike(first, expected)
    for key, values in first.items():
        np.testing.assert_array_equal(other[key], values, err_msg=key)


@pytest.mark.tried(
    "a run resumes with another number of devices", workers="works", jax_processes="works"
)
def test_a_run_goes_on_with_more_processes_and_with_fewer(told, alone):
    """All draw the same batches, so there is one position in the data for any number of them."""
    told("for_one_epoch")
    expected = numbers(trainings.at_once(alone))

    fewer = numbers(trainings.goes_on(alone))

    assert_alike(fewer, expected)
    for more in map(numbers, told("goes_on")):
        assert_alike(more, expected)


@pytest.mark.skipif(not IS_JAX, reason="on TensorFlow each process cuts its rows in the step")
def test_each_process_is_given_its_rows_of_every_batch(told):
    batch, share = trainings.BATCH, trainings.BATCH // PROCESSES

    expected = [
        [start + row for start in (0, batch) for row in range(i * share, (i + 1) * share)]
        for i in range(PROCESSES)
    ]

    assert told("shares") == expected


@pytest.mark.tried('`nonfinite="skip"`', workers="works", jax_processes="works")
def test_nan_in_the_share_of_one_process_leaves_all_as_they_were(told):
    """To the bit, and training goes on from there."""
    first, other = told("skipped")

    assert first == other
    assert first["skipped_steps"] == [1.0]
    assert len(first["before"]) > 20
    assert first["after"] == first["before"]
    changed = {key for key, digest in first["later"].items() if digest != first["after"][key]}
    assert {"model/0/kernel", "optimizer/0/iteration"} <= changed


@pytest.mark.tried("loss scaling", workers="works", jax_processes="works")
def test_e4_an_infinite_share_of_one_process_lowers_the_scale_of_all(told):
    first, other = told("scaled")

    assert first == other
    assert first["scale"] == trainings.FIRST_SCALE / 2
    assert [key for key in first["changed"] if "loss_scale" not in key] == []


@pytest.mark.tried("the chief alone writes the run", workers="works", jax_processes="works")
def test_one_process_writes_the_run(told, folder):
    told("in_blocks")
    run = folder / f"in_blocks-{PROCESSES}"

    records = read_json_lines(run / "metrics.jsonl")
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert len(epochs) == trainings.EPOCHS
    whole = [r["values"] for r in records if r["kind"] == "steps" and r["step"] % 3 == 0]
    assert [values["running/accuracy"] for values in whole] == [
        record["values"]["accuracy"] for record, _ in zip(epochs[1::2], whole, strict=True)
    ]
    assert json.loads((run / "run.json").read_text())["stop_reason"] == "epochs"


@pytest.mark.tried(
    "a signal to one process stops all at the same step", workers="works", jax_processes="works"
)
def test_a_signal_to_one_process_stops_all_at_one_step(told):
    first, other = told("signaled_in_one")

    assert first == other
    assert 5 <= first < 15


@pytest.mark.tried("processes with different data", workers="refused", jax_processes="refused")
def test_processes_with_other_data_are_refused(told):
    for code, message in told("other_batches"):
        assert code == "PG454"
        assert "first batch" in message


@pytest.mark.tried("a custom loop, by `prepare`", workers="refused", jax_processes="refused")
def test_loops_of_ones_own_in_several_processes_are_refused(told):
    for code, message in told("own_loop"):
        assert code == "PG601"
        assert "2 processes" in message


@pytest.mark.only_jax
@pytest.mark.tried("processes without a distribution", jax_processes="refused")
def test_processes_without_a_distribution_are_refused(told):
    for code, message in told("no_distribution"):
        assert code == "PG753"
        assert "set_distribution" in message


@pytest.mark.only_jax
@pytest.mark.tried("a variable that is split over processes", jax_processes="refused")
def test_kernels_that_are_split_over_processes_are_refused(told):
    for code, message in told("split_kernels"):
        assert code == "PG754"
        assert "dense/kernel" in message


@pytest.mark.tried(
    "a killed process ends the others; all resume from the run, to the bit",
    workers="works",
    jax_processes="works",
)
def test_a_killed_process_ends_the_other_and_both_go_on_to_the_bit(told, folder):
    straight = told("never_killed")
    for dying, at_step in KILLS:
        (folder / "settings.json").write_text(json.dumps({"dies": {dying: at_step}}))
        with together(folder, "to_be_killed") as processes:
            killed, other = (processes.processes[i] for i in (int(dying), 1 - int(dying)))
            killed.wait(TIMEOUT_SECS)
            began = time.monotonic()
            code = other.wait(TIMEOUT_SECS)
            seconds = time.monotonic() - began
            output = processes.outputs()[1 - int(dying)]
        assert killed.returncode == -9
        assert seconds < MOST_SECS_TO_END
        assert code not in (0, -9), output
        assert "WorkerLostError [PG453]" in output or "JAX distributed service" in output
    (folder / "settings.json").unlink()

    with together(folder, "to_be_killed") as processes:
        resumed = processes.returned("to_be_killed")

    assert resumed == straight
