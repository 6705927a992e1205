"""The states of all global random generators, as plain numbers."""

import random
import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from perigee._errors import RandomStateError
from perigee._listening import Talk, listening
from perigee._step.state import snapshot

_TWISTER_WORDS = 624


def random_state() -> dict[str, Any]:
    """Return the states of the global generators: Python's, NumPy's, Keras's and torch's.

    Nothing is drawn, with one exception: Keras creates its global generator at its first use, and
    seeds it from Python's, so the first call does what that use would have done. Call it before the
    first step of every run, so that no number depends on the time of the first save.

    Returns:
        Numbers and strings in dicts and lists. Torch's are hexadecimal strings, one for the host
        and one for each device; they are omitted if torch is not imported.

    Raises:
        RandomStateError: If NumPy's global generator was replaced by one of another kind.
    """
    generator = _keras_generator()  # first: it may draw from Python's
    keras_state = snapshot([generator.state])[0]  # waits for the device
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    if numpy["bit_generator"] != "MT19937":
        raise RandomStateError("NumPy", f"one of {numpy['bit_generator']}")
    return {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "words": numpy["state"]["key"].tolist(),
            "position": int(numpy["state"]["pos"]),
            "gauss": float(numpy["gauss"]) if numpy["has_gauss"] else None,
        },
        "keras": keras_state.tolist(),
        "torch": [np.asarray(tensor).tobytes().hex() for tensor in _torch_tensors(_torch_state())],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Set all global generators to the states that `random_state` returned.

    Args:
        state: What `random_state` returned, here or in another process.

    Raises:
        RandomStateError: If it is not such a state. Nothing is changed then.
    """
    # Everything is checked before anything is set. NumPy accepts a position beyond its words, and
    # would read the memory after them.
    try:
        python = state["python"]
        python_words = tuple(_integer(word, 2**32) for word in python["words"])
        python_state = (python["version"], python_words, _gauss(python["gauss"]))
        random.Random().setstate(python_state)
        numpy = state["numpy"]
        words = [_integer(word, 2**32) for word in numpy["words"]]
        if len(words) != _TWISTER_WORDS:
            raise ValueError(f"{len(words)} words")
        position = _integer(numpy["position"], _TWISTER_WORDS + 1)
        gauss = _gauss(numpy["gauss"])
        generator = _keras_generator()
        dtype = snapshot([generator.state])[0].dtype
        first, second = state["keras"]
        keras_state = [_integer(number, np.iinfo(dtype).max + 1) for number in (first, second)]
        _set_torch_state(state["torch"])  # torch itself checks before it sets
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise RandomStateError("the global generators", f"none ({error})") from error
    random.setstate(python_state)
    legacy = ("MT19937", np.array(words, np.uint32), position, int(gauss is not None), gauss or 0.0)
    np.random.set_state(legacy)
    generator.state.assign(np.array(keras_state, dtype))


def _keras_generator() -> keras.random.SeedGenerator:
    """Return the generator from which Keras draws if no seed is given.

    It has no public name. It is found by an unseeded draw that ends at the call of
    `SeedGenerator.next`, a public method, so that nothing is drawn and no operation runs.
    """

    def ended(original: Any, generator: Any, ordered: bool = True) -> Talk:
        raise _Found(generator)
        yield  # what makes it a generator

    try:
        with listening(keras.random.SeedGenerator, "next", ended):
            keras.random.uniform((), seed=None)
    except _Found as found:
        return found.generator
    raise RandomStateError("Keras", "not found: an unseeded draw asks no generator")


class _Found(Exception):
    def __init__(self, generator: keras.random.SeedGenerator) -> None:
        self.generator = generator


def _torch_state() -> Any:
    """Return the states of torch's generators, on the host; `None` if torch is not imported.

    A feed may draw from them on every backend.
    """
    if "torch" not in sys.modules:
        return None
    from perigee._backends.torch import tensors

    return tensors.random_state()


def _torch_tensors(state: Any) -> list[Any]:
    return [] if state is None else [state[0], *state[1]]


def _set_torch_state(stored: Any) -> None:
    state = _torch_state()
    if state is None or not stored:
        return
    # With other devices than before, their draws cannot be the same anyway.
    for tensor, digits in zip(_torch_tensors(state), stored, strict=False):
        array = np.asarray(tensor)  # shares the memory of the tensor
        content = np.frombuffer(bytes.fromhex(digits), np.uint8)
        if content.shape != array.shape:
            raise ValueError("torch's has a wrong length")
        array[...] = content
    from perigee._backends.torch import tensors

    tensors.set_random_state(state)


def _integer(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r} is not a valid number for it")
    return value


def _gauss(value: Any) -> float | None:
    if value is not None and type(value) is not float:
        raise ValueError(f"{value!r} is not a valid number for it")
    return value
