"""What the programs share: small data in a fixed order, and results by name."""

import importlib
from pathlib import Path
from types import ModuleType

import keras
import numpy as np


def modules(framework: str) -> dict[str, ModuleType]:
    """The programs of a framework, by name."""
    names = sorted(path.stem for path in (Path(__file__).parent / framework).glob("*.py"))
    return {name: importlib.import_module(f"tests.idioms.{framework}.{name}") for name in names}


def trained(function, **fit) -> dict[str, np.ndarray]:
    """What `plain` or `perigee` returns, from the seed from which both begin."""
    keras.utils.clear_session()  # names of variables decide their order in `parameters()`
    keras.utils.set_random_seed(11)
    return {name: np.asarray(value) for name, value in function(**fit).items()}


def different(expected, got, within: float) -> list[str]:
    """The names whose values differ, and by how much; `within` is relative to the largest."""
    lines = [f"{name}: on one side only" for name in sorted(expected.keys() ^ got.keys())]
    for name in sorted(expected.keys() & got.keys()):
        one, other = expected[name].astype("float64"), got[name].astype("float64")
        if one.shape != other.shape:
            lines.append(f"{name}: shapes {one.shape} and {other.shape}")
        elif not np.allclose(other, one, rtol=within, atol=within * np.abs(one).max(initial=0)):
            lines.append(f"{name}: {one.ravel()[:3]} and {other.ravel()[:3]}")
    return lines


def points(rows: int = 48, width: int = 6, classes: int = 3, seed: int = 0):
    """Points around centers, `(rows, width)` float32, and their labels, `(rows,)` int64."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, rows)
    centers = draw.normal(size=(classes, width))
    return (centers[labels] + draw.normal(size=(rows, width))).astype("float32"), labels


def curve(rows: int = 48, width: int = 4, seed: int = 0):
    """Points `(rows, width)` and a smooth function of them, `(rows, 1)`, both float32."""
    x = np.random.default_rng(seed).normal(size=(rows, width)).astype("float32")
    return x, np.sin(x.sum(axis=-1, keepdims=True)).astype("float32")


def mean(values, rows) -> float:
    """The mean over examples of one value a batch."""
    return float(np.average(np.asarray(values, "float64"), weights=rows))


def state(name: str, module) -> dict[str, np.ndarray]:
    """The parameters and buffers of a `torch.nn.Module`, under their names in it."""
    tensors = module.state_dict().items()
    return {f"{name}.{key}": value.detach().float().numpy().copy() for key, value in tensors}


def slots(name: str, optimizer) -> dict[str, np.ndarray]:
    """What a `torch.optim` optimizer holds of each parameter, and the rate of each group."""
    held = optimizer.state_dict()
    found = {f"{name}.rates": np.array([float(group["lr"]) for group in held["param_groups"]])}
    for index, of_parameter in held["state"].items():
        for key, value in of_parameter.items():
            if value is not None and not isinstance(value, list):
                found[f"{name}.{index}.{key}"] = np.asarray(value, "float64")
    return found
