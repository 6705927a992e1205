"""What functions reach: each way in which they reach their objects, found or refused by name."""

import importlib
import sys

import keras
import numpy as np
import pytest

import perigee as pg
from perigee import _backends
from perigee._errors import UnheldVariablesError
from perigee._step.state import snapshot, track
from tests.functions.kit import data
from tests.functions.ways import FOUND, REFUSED

is_tensorflow = keras.backend.backend() == "tensorflow"
HEAD = "import keras\nfrom tests.functions.kit import learn, mean, net, sgd\n"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that writes a program and its other files, and imports it."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def imported(source, name="program"):
        if not is_tensorflow and "tensorflow" in source:
            pytest.skip("the program uses TensorFlow")
        first, *others = source.split("# file: ")
        files = {f"{name}.py": first}
        files |= dict(part.split("\n", 1) for part in others)
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(HEAD + text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield imported
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def named(step):
    """Return all that a Step tracks by `id`, with its path."""
    tracked = track(step)
    kept = [*tracked.models.items(), *tracked.optimizers.items(), *tracked.metrics.items()]
    kept += [(entry.name, entry.variable) for entry in tracked.entries]
    return {id(value): path for path, value in kept}


def value_of(expression, module):
    value = eval(expression, vars(module))
    return _backends.current().as_keras_variable(value) or value


def variables_of(value):
    return [*value.variables] if hasattr(value, "variables") else [value]


@pytest.mark.parametrize("name", FOUND)
def test_objects_are_found_under_the_names_in_the_code(name, program):
    source, expected = FOUND[name]
    module = program(source)
    step = pg.FunctionStep(module.train_step)

    paths, plain = named(step), track(step).plain

    for path, expression in expected.items():
        value = value_of(expression, module)
        if isinstance(value, float | int):
            assert plain[path] == value
        else:
            assert paths.get(id(value)) == path
    assert step._held().keys() == pg.FunctionStep(module.train_step)._held().keys()


def fit(step, **options):
    return pg.fit(step, data(), steps=2, batch_size=4, progress="off", **options)


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_trains(name, program):
    source, expected = FOUND[name]
    module = program(source)
    step = pg.FunctionStep(module.train_step)
    models = [value_of(each, module) for each in expected.values()]
    models = [model for model in models if isinstance(model, keras.Layer) and model.built]
    before = [snapshot(model.trainable_variables) for model in models]

    fit(step, execution="graph")

    after = [snapshot(model.trainable_variables) for model in models]
    moved = [
        any(not np.array_equal(a, b) for a, b in zip(old, new, strict=True))
        for old, new in zip(before, after, strict=True)
    ]
    assert any(moved) or not models


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_found_is_refused_before_anything_changes(name, program):
    source, hidden = REFUSED[name]
    module = program(source)
    step = pg.FunctionStep(module.train_step)
    values = [getattr(module, each) for each in ("model", "optimizer", hidden)]
    variables = [v for value in values for v in variables_of(value)]
    before = snapshot(variables)

    with pytest.raises(UnheldVariablesError) as caught:
        fit(step, execution="graph")

    written = " ".join(caught.value.unheld)
    names = [getattr(v, "path", v.name) for v in variables_of(getattr(module, hidden))]
    assert caught.value.code == "PG111"
    assert any(each in written for each in names)
    for old, new in zip(before, snapshot(variables), strict=True):
        assert np.array_equal(old, new)
