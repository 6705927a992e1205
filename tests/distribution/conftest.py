"""What tests of distribution share."""

from collections.abc import Iterator

import keras
import pytest


@pytest.fixture(autouse=True, scope="package")
def quickly_compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let JAX compile each program once, and with little effort: most of the time goes there."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("programs")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
