"""What every test begins with: one framework a process, quiet, and seeded."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# torch's threads wait for each other for far longer than these small models compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if os.environ["KERAS_BACKEND"] == "jax":
    # Several devices for the tests that lay arrays over them; all others use the first one.
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import keras
import numpy as np
import pytest

if keras.backend.backend() == "tensorflow":
    # Before TensorFlow starts: replicas are tested on them, all else runs on the first one.
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )

# A shell that starts the tests in its background has it ignored, and so would their processes.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed Python, NumPy and Keras alike, so that no test depends on another."""
    keras.utils.set_random_seed(7)


def _raised(rule: str, error: Exception) -> None:
    error.add_note(f"This is a rule of Perigee's that failed: {rule}.")
    raise error


@pytest.fixture(autouse=True)
def rules_must_not_fail(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a rule that fails end the test, which a user's program survives.

    Tests of just that ask for the fixture `fenced`.
    """
    from perigee.diagnostics import fence  # not above: it would start TensorFlow

    if "fenced" not in request.fixturenames:
        monkeypatch.setattr(fence, "failed", _raised)


@pytest.fixture
def fenced() -> None:
    """Let rules fail as they do for users: behind a fence."""


_started: list[str] = []
"""The processes of Python that the running test has started."""


def _note_process(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.fork":
        _started.append("a fork")
    elif event == "subprocess.Popen" and sys.executable in map(str, arguments[1]):
        _started.append(" ".join(map(str, arguments[1]))[:80])


sys.addaudithook(_note_process)


@pytest.fixture(autouse=True)
def processes_are_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts Python and does not carry `process`, which `make test` goes by."""
    _started.clear()
    yield
    if request.node.get_closest_marker("process") is None:
        assert _started == [], "mark it `process`"


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep plans that tests measure out of the user's cache, and those of the user out of tests.

    What JAX compiles for one test is there for all, for the other worker of pytest-xdist too, and
    for the processes that they start.
    """
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        if keras.backend.backend() == "jax":
            import jax

            if "PYTEST_XDIST_WORKER" in os.environ:
                folder = tmp_path_factory.getbasetemp().parent  # of all workers
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
            patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        yield


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: images `(1797, 64)` in [0, 1], and labels `(1797,)`."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels.astype("int32")


_OF_NO_FRAMEWORK = (
    "tests/checkpoints/test_damage.py",
    "tests/checkpoints/test_directory.py",
    "tests/checkpoints/test_faults.py",
    "tests/checkpoints/test_hostile.py",
    "tests/checkpoints/test_kills.py",
    "tests/checkpoints/test_lock.py",
    "tests/checkpoints/test_nothing_executes.py",
    "tests/cli/",
    "tests/data/test_order.py",
    "tests/data/test_pydataset.py",
    "tests/data/test_resume.py",
    "tests/data/test_spec.py",
    "tests/data/test_tf_resume.py",
    "tests/errors/test_argument_errors.py",
    "tests/reliability/test_finished_runs.py",
    "tests/reliability/test_interrupted_runs.py",
    "tests/report/",
    "tests/project/test_benchmarks.py",
    "tests/project/test_docs.py",
    "tests/project/test_house.py",
    "tests/project/test_manifests.py",
    "tests/events/test_deadlines.py",
    "tests/project/test_reference.py",
    "tests/events/test_signals.py",
    "tests/project/test_tutorial.py",
    "tests/writers/",
)
"""Tests of code that knows no framework, or of TensorFlow's: `make test` runs them with its first
one only."""

_OF_HARDLY_ANY = (
    "tests/diagnostics/test_check.py",
    "tests/diagnostics/test_fence.py",
    "tests/diagnostics/test_odd.py",
    "tests/diagnostics/test_trials.py",
    "tests/errors/test_data_errors.py",
    "tests/errors/test_label_errors.py",
    "tests/errors/test_refusals.py",
    "tests/errors/test_user_exceptions.py",
    "tests/events/test_callbacks.py",
    "tests/examples/",
    "tests/execution/test_planning.py",
    "tests/testing/",
    "tests/tools/",
)
"""Tests of what is the same on all frameworks but for what they compute, which others test: they
are `mostly_once`."""


_COMPILED_AS_EVER = (
    "tests/backends/",
    "tests/distribution/",
    "tests/examples/",
    "tests/execution/test_ahead.py",
    "tests/execution/test_equality.py",
    "tests/facts/test_precision.py",
    "tests/parity/",
    "tests/reliability/",
    "tests/project/test_benchmarks.py",
)
"""Tests of numbers that optimizing may change, or of how fast something runs: JAX compiles for
them, and for every process that tests start, as it does for users."""


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name what is told apart by its address alone: the workers of a run must agree on names."""
    is_named_by_address = isinstance(val, str | int) or " at 0x" not in repr(val)
    return None if is_named_by_address else str(getattr(val, "__name__", type(val).__name__))


def _spread(items: list[pytest.Item]) -> None:
    """Leave so many cases of a test quick as its mark `spread` says, evenly spread."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("spread"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for alike in cases.values():
        mark = alike[0].get_closest_marker("spread")
        assert mark is not None
        quick = {round(i * len(alike) / mark.args[0]) for i in range(mark.args[0])}
        for index, item in enumerate(alike):
            if index not in quick:
                item.add_marker(pytest.mark.slow)
                if mark.kwargs.get("once"):
                    item.add_marker(pytest.mark.once)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what no framework runs; leave out, with the reason, what one alone can run.

    Files with slow tests come first: quick ones then fill the time until both workers are done.
    """
    running = keras.backend.backend()
    _spread(items)
    for item in items:
        if item.nodeid.startswith(_OF_NO_FRAMEWORK):
            item.add_marker(pytest.mark.once)
        elif item.nodeid.startswith(_OF_HARDLY_ANY):
            item.add_marker(pytest.mark.mostly_once)
        for name in ("tensorflow", "jax", "torch"):
            if item.get_closest_marker(f"only_{name}") and running != name:
                item.add_marker(pytest.mark.skip(reason=f"needs {name}; {running} runs"))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Spare the collector what frameworks hold: each full collection would look through it."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have JAX compile what a test runs a few times soon, not well."""
    if keras.backend.backend() == "jax":
        import jax

        is_brief = not item.nodeid.startswith(_COMPILED_AS_EVER)
        jax.config.update("jax_disable_most_optimizations", is_brief)
