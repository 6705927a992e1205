"""What every test begins with: one framework a process, quiet, and seeded."""

import os
from collections.abc import Iterator

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# torch's threads wait for each other for far longer than these small models compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed Python, NumPy and Keras alike, so that no test depends on another."""
    keras.utils.set_random_seed(7)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep plans that tests measure out of the user's cache, and those of the user out of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: images `(1797, 64)` in [0, 1], and labels `(1797,)`."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels.astype("int32")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out, with the reason, what one framework alone can run."""
    running = keras.backend.backend()
    for item in items:
        for name in ("tensorflow", "jax", "torch"):
            if item.get_closest_marker(f"only_{name}") and running != name:
                item.add_marker(pytest.mark.skip(reason=f"needs {name}; {running} runs"))
