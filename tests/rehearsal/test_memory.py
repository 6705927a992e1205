"""A rehearsal takes no memory that training does not need: it keeps no copy of the state."""

from typing import Any, ClassVar

import keras
import numpy as np
import pytest

import perigee as pg
from perigee import _backends
from perigee._rehearsal.discovery import rehearse, undone
from perigee._step.state import track


def _variables():
    return [keras.Variable(np.arange(6.0).reshape(2, 3), dtype="float32", name="table")]


def test_values_to_be_restored_are_no_copies_where_the_framework_can_share_them():
    (variable,) = variables = _variables()

    with undone(variables) as undo:
        shared = np.shares_memory(np.asarray(undo.values[0]), _backends.current().read(variable))

    assert shared == (keras.backend.backend() != "torch")


def test_what_is_written_meanwhile_is_restored_and_then_nothing_is_kept():
    (variable,) = variables = _variables()
    before = np.array(_backends.current().read(variable))

    with undone(variables) as undo:
        variable.assign_add(keras.ops.ones((2, 3)))
        assert not np.array_equal(_backends.current().read(variable), before)

    assert np.array_equal(_backends.current().read(variable), before)
    assert undo.values == []


class _Watched(pg.Supervised):
    """Notes whether its weights differ after an update, where their values are known."""

    moved: ClassVar[list[bool]] = []

    def train_step(self, batch: Any):
        weight = self.model.trainable_variables[0]
        before = keras.ops.convert_to_tensor(weight)
        logs = super().train_step(batch)
        after = keras.ops.convert_to_tensor(weight)
        _backends.current().observe(
            [keras.ops.any(before != after)], lambda moved: self.moved.append(bool(moved))
        )
        return logs


def test_a_built_optimizer_makes_no_update_and_what_it_would_write_is_known():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="dense")])
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    step = _Watched(model, optimizer, keras.losses.MeanSquaredError())
    _Watched.moved.clear()
    batch = _backends.current().tensors((np.ones((4, 3), "float32"), np.ones((4, 2), "float32")))

    found = rehearse(step, "train_step", batch)

    if keras.backend.backend() != "jax":  # compiled there: the compiler drops an update unused
        assert _Watched.moved == [False]
    names = {e.name for e in track(step).entries if id(e.variable) in set(map(id, found.written))}
    assert names >= {"optimizer/iteration", "model/dense/kernel"}
    assert any("velocity" in name for name in names)
    assert "optimizer/learning_rate" not in names


class UntilSmall(pg.Step):
    """Updates until the loss is small, as only code that runs eagerly can; notes how often."""

    counts: ClassVar[list[int]] = []

    def __init__(self):
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.Adam(0.1)
        self.optimizer.build(self.model.trainable_variables)

    def error(self, x: Any, y: Any):
        return keras.ops.mean((self.model(x, training=True) - y) ** 2)

    def train_step(self, batch: Any):
        x, y = batch
        count, loss = 0, 1.0
        while float(loss) > 0.05 and count < 500:
            loss = self.minimize(lambda: self.error(x, y), self.optimizer)
            count += 1
        self.counts.append(count)
        return {"loss": loss}


@pytest.mark.only_tensorflow  # where rehearsals have values
def test_a_loop_that_waits_for_the_effect_of_updates_ends():
    UntilSmall.counts.clear()
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    batch = _backends.current().tensors((x, x.sum(1, keepdims=True)))

    rehearse(UntilSmall(), "train_step", batch)

    assert UntilSmall.counts
    assert max(UntilSmall.counts) < 500
