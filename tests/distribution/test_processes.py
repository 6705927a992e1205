"""Several processes of JAX: the numbers of one, one writer, and an end for all."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from perigee._cli.launching import environments
from perigee.writers.json_lines import read_json_lines

if keras.backend.backend() == "jax":
    from tests.distribution import train_together

pytestmark = [pytest.mark.only_jax, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PROCESSES = 2
TIMEOUT_SECS = 600
MOST_SECS_TO_END = 60

COMPARED = ["in_blocks", "step_by_step"]
TOLD = [
    *COMPARED,
    "shares",
    "signaled_in_one",
    "other_batches",
    "no_distribution",
    "split_kernels",
    "never_killed",
]


class Together:
    """Processes that train together; to be used with `with`."""

    def __init__(self, folder, *names):
        self._outputs = [folder / f"output-{time.monotonic_ns()}-{i}" for i in range(PROCESSES)]
        settings = {
            "KERAS_BACKEND": "jax",
            # With several threads, two starts of the same processes may part by a rounding.
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "OMP_NUM_THREADS": "1",
            # The same programs are compiled again and again.
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.distribution.train_together", str(folder), *names],
                cwd=ROOT,
                env={**os.environ, **settings, **variables},
                stdout=output.open("w"),
                stderr=subprocess.STDOUT,
            )
            for output, variables in zip(self._outputs, environments(PROCESSES), strict=True)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()  # one that has ended is left alone
            process.wait()

    def outputs(self):
        return [output.read_text() for output in self._outputs]

    def returned(self, folder, name):
        """Return what each process wrote down; all must have come to their end."""
        codes = [process.wait(TIMEOUT_SECS) for process in self.processes]
        assert codes == [0] * PROCESSES, self.outputs()
        paths = [folder / f"{name}-{i}-of-{PROCESSES}.json" for i in range(PROCESSES)]
        return [json.loads(path.read_text()) for path in paths]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def told(folder):
    """Return a function that says what each process returned."""
    with Together(folder, *TOLD) as processes:
        for process in processes.processes:
            process.wait(TIMEOUT_SECS)
        yield lambda name: processes.returned(folder, name)


def numbers(found):
    """Return everything that a training came to, by name."""
    parts = {**found["history"], **found["values"]}
    return {name: np.array(values, "float64") for name, values in parts.items()}


@pytest.mark.tried(
    "the updates and logs of one device, ragged batches included", jax_processes="works"
)
@pytest.mark.parametrize("name", COMPARED)
def test_processes_train_measure_and_predict_as_one(told, tmp_path, name):
    expected = numbers(getattr(train_together, name)(tmp_path))

    first, other = map(numbers, told(name))

    assert first.keys() == other.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(first[key], other[key], err_msg=key)
        np.testing.assert_allclose(first[key], values, rtol=1e-4, atol=1e-6, err_msg=key)
        if key.endswith("loss"):
            np.testing.assert_allclose(first[key], values, rtol=1e-5, err_msg=key)


def test_each_process_is_given_its_rows_of_every_batch(told):
    batch, share = train_together.BATCH, train_together.BATCH // PROCESSES

    expected = [
        [start + row for start in (0, batch) for row in range(i * share, (i + 1) * share)]
        for i in range(PROCESSES)
    ]

    assert told("shares") == expected


@pytest.mark.tried("the chief alone writes the run", jax_processes="works")
def test_one_process_writes_the_run(told, folder):
    told("in_blocks")
    run = folder / "in_blocks"

    records = read_json_lines(run / "metrics.jsonl")
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert len(epochs) == train_together.EPOCHS
    assert json.loads((run / "run.json").read_text())["stop_reason"] == "epochs"


@pytest.mark.tried("a signal to one process stops all at the same step", jax_processes="works")
def test_a_signal_to_one_process_stops_all_at_one_step(told):
    first, other = told("signaled_in_one")

    assert first == other
    assert 5 <= first < 10


@pytest.mark.tried("processes with different data", jax_processes="refused")
def test_processes_with_other_data_are_refused(told):
    for code, message in told("other_batches"):
        assert code == "PG454"
        assert "first batch" in message


@pytest.mark.tried("processes without a distribution", jax_processes="refused")
def test_processes_without_a_distribution_are_refused(told):
    for code, message in told("no_distribution"):
        assert code == "PG753"
        assert "set_distribution" in message


@pytest.mark.tried("a variable that is split over processes", jax_processes="refused")
def test_kernels_that_are_split_over_processes_are_refused(told):
    for code, message in told("split_kernels"):
        assert code == "PG754"
        assert "dense/kernel" in message


@pytest.mark.tried(
    "a killed process ends the others; all go on from the run, to the bit", jax_processes="works"
)
def test_a_killed_process_ends_the_other_and_both_go_on_to_the_bit(told, folder):
    straight = told("never_killed")
    kills = [(1, 6), (0, 10)]  # which process, and after which step
    for index, at_step in kills:
        plan = folder / f"kill-{index}"
        plan.write_text(str(at_step))
        with Together(folder, "to_be_killed") as processes:
            killed = processes.processes[index]
            killed.wait(TIMEOUT_SECS)
            began = time.monotonic()
            other = processes.processes[1 - index]
            code = other.wait(TIMEOUT_SECS)
            seconds = time.monotonic() - began
            output = processes.outputs()[1 - index]
        plan.unlink()
        assert killed.returncode == -9
        assert seconds < MOST_SECS_TO_END
        assert code not in (0, -9), output
        assert "WorkerLostError [PG453]" in output or "JAX distributed service" in output

    with Together(folder, "to_be_killed") as processes:
        resumed = processes.returned(folder, "to_be_killed")

    assert [each["values"] for each in resumed] == [each["values"] for each in straight]
    assert [each["history"] for each in resumed] == [each["history"] for each in straight]
