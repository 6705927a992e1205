"""What functions reach: each way in which they reach their objects, found or refused by name."""

import importlib
import sys

import keras
import numpy as np
import pytest

import perigee as pg
from perigee import _backends
from perigee._errors import UnheldVariablesError
from perigee._step import reached
from perigee._step.state import snapshot, track
from tests.functions.kit import data, net, sgd
from tests.functions.ways import FOUND, REFUSED, REPLACED

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

    def forget():
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]

    imported.forget = forget
    yield imported
    forget()


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


def check(step, expected, module):
    paths, plain = named(step), track(step).plain
    for path, expression in expected.items():
        value = value_of(expression, module)
        if isinstance(value, float | int):
            assert plain[path] == value
        else:
            assert paths.get(id(value)) == path


@pytest.mark.parametrize("name", FOUND)
def test_objects_are_found_under_the_names_in_the_code(name, program):
    source, expected = FOUND[name]
    module = program(source)
    step = pg.FunctionStep(module.train_step)

    check(step, expected, module)

    first, second = step._held(), step._held()
    assert all(second[path] is value for path, value in first.items())


@pytest.mark.parametrize("name", FOUND)
def test_keys_are_the_same_for_the_same_program(name, program):
    source, _ = FOUND[name]

    def keys():
        entries = track(pg.FunctionStep(program(source).train_step)).entries
        program.forget()
        return [entry.key for entry in entries]

    first = keys()
    keras.layers.Dense(1), keras.optimizers.SGD(), keras.Sequential()  # take automatic names
    assert keys() == first


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_is_looked_up_again(name, program):
    source, statement, expected = REPLACED[name]
    module = program(source)
    step = pg.FunctionStep(module.train_step)
    before = named(step)
    assert id(module.other) not in before

    exec(statement, vars(module))

    check(step, expected, module)
    assert id(module.other) in named(step)


def test_layers_inside_a_model_are_tracked_with_it(program):
    source, _ = FOUND["containers set on a model"]

    assert [*track(pg.FunctionStep(program(source).train_step)).models] == ["student"]


def same(variables, values):
    now = snapshot(variables)
    return all(np.array_equal(a, b) for a, b in zip(now, values, strict=True))


def fit(step, **options):
    return pg.fit(step, data(), steps=2, batch_size=4, progress="off", **options)


@pytest.mark.only_tensorflow
@pytest.mark.spread(12)
@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_trains(name, program):
    source, expected = FOUND[name]
    module = program(source)
    step = pg.FunctionStep(module.train_step)
    models = [value_of(each, module) for each in expected.values()]
    models = [model for model in models if isinstance(model, keras.Layer) and model.built]
    before = [snapshot(model.trainable_variables) for model in models]

    fit(step, execution="graph")

    moved = [not same(m.trainable_variables, old) for m, old in zip(models, before, strict=True)]
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
    assert "a name that the function reads" in str(caught.value)
    assert any(each in written for each in names)
    assert same(variables, before)


TWO = """
model, optimizer = net(), sgd()

def train_step(x, y):
    return learn(model, optimizer, x, y)
"""


@pytest.mark.only_tensorflow
def test_an_object_that_is_rebound_between_two_fits_is_trained_instead(program):
    module = program(TWO)
    step = pg.FunctionStep(module.train_step)
    fit(step)
    old = module.model
    trained = snapshot(old.variables)

    module.model, module.optimizer = net(), sgd()
    new = snapshot(module.model.variables)
    fit(step)

    assert same(old.variables, trained)
    assert not same(module.model.variables, new)
    assert module.optimizer.iterations == 2


@pytest.mark.only_tensorflow
def test_objects_may_be_made_after_the_step(program):
    module = program(TWO.replace("model, optimizer = net(), sgd()", ""))
    step = pg.FunctionStep(module.train_step)
    assert not track(step).entries

    module.model, module.optimizer = net(), sgd()
    before = snapshot(module.model.variables)
    fit(step)

    assert not same(module.model.variables, before)


@pytest.mark.only_tensorflow
def test_a_prepared_loop_searches_only_when_something_was_replaced(program, monkeypatch):
    searches = []
    run = reached._Search._run
    monkeypatch.setattr(reached._Search, "_run", lambda self: searches.append(run(self)))
    module = program(TWO)
    step = pg.FunctionStep(module.train_step)

    with pg.prepare(step, progress="off", steps_per_epoch=None) as trainer:
        for _ in range(3):
            trainer.train_step(data())
        known = len(searches)
        for _ in range(20):
            trainer.train_step(data())
        assert len(searches) == known

        module.model, module.optimizer = net(), sgd()
        trainer.train_step(data())

    assert len(searches) > known
    assert module.optimizer.iterations == 1


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("first", ["yield", "await pause(),"])
def test_functions_that_return_before_they_run_are_refused(first, program):
    module = program(
        f"""
model, optimizer = net(), sgd()

async def pause():
    pass

{"async " if "await" in first else ""}def train_step(x, y):
    {first} learn(model, optimizer, x, y)
"""
    )
    before = snapshot(module.model.variables)

    with pytest.raises(pg.PerigeeError, match=r"generator|coroutine"):
        fit(pg.FunctionStep(module.train_step))

    assert same(module.model.variables, before)
