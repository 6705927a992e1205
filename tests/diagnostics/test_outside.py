"""PG446: numbers outside a Step that change, of which a compiled step does not hear."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._cli.pages import all_pages
from perigee._rehearsal.outside import NumbersOutside
from tests.diagnostics.programs import Own, numbers, small, squares

SHARE = 1.0
CALLS = 0


def halved(event):
    global SHARE
    SHARE = event.clock.epoch / 2


def weighed(y, y_pred):
    return SHARE * squares(y, y_pred)


class OfAGlobal(Own):
    def train_step(self, batch):
        logs = super().train_step(batch)
        return {"loss": logs["loss"], "share": ops.convert_to_tensor(float(SHARE))}


class OfAnAttribute(Own):
    share = 1.0

    def train_step(self, batch):
        logs = super().train_step(batch)
        return {"loss": logs["loss"], "share": ops.convert_to_tensor(float(self.share))}


class Counting(Own):
    def train_step(self, batch):
        global CALLS
        CALLS += 1
        return super().train_step(batch)


class Counted(Own):
    calls, largest = 0, 0.0

    def train_step(self, batch):
        self.calls += 1
        return super().train_step(batch)


class WarmingUp(Counted):
    def train_step(self, batch):
        logs = super().train_step(batch)
        return {"loss": logs["loss"], "share": ops.convert_to_tensor(min(1.0, self.calls / 6))}


class Alternating(Counted):
    def train_step(self, batch):
        logs = super().train_step(batch)
        return logs if self.calls % 2 else {"loss": 2.0 * logs["loss"]}


def of_a_closure():
    share = 1.0

    def set_share(event):
        nonlocal share
        share = event.clock.epoch / 2

    def loss(y, y_pred):
        return share * squares(y, y_pred)

    return Own(small(1), loss), set_share


def of_an_attribute():
    step = OfAnAttribute(small(1), squares)
    return step, lambda event: setattr(step, "share", event.clock.epoch / 2)


def nothing(event):
    del event


SICK = {
    "a global": lambda: (OfAGlobal(small(1), squares), halved),
    "a global of a helper": lambda: (Own(small(1), weighed), halved),
    "a closure": of_a_closure,
}
HEALTHY = {
    "an attribute": of_an_attribute,
    "a number that stays": lambda: (Own(small(1), weighed), nothing),
    "a number that the step counts itself": lambda: (Counting(small(1), squares), nothing),
    "a number that no step reads": lambda: (Own(small(1), squares), halved),
    "an attribute that the step only counts": lambda: (Counted(small(1), squares), nothing),
}


def trained(case):
    step, on_record = case()
    hook = pg.Hook()
    hook.on_record = on_record
    return pg.fit(step, numbers(), epochs=3, progress="off", callbacks=[hook]).findings


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch compiles no steps")
@pytest.mark.parametrize("name", SICK)
def test_a_number_that_changes_outside_is_told_once(name, monkeypatch):
    monkeypatch.setitem(globals(), "SHARE", 1.0)

    with pytest.warns(pg.PerigeeWarning, match="PG446"):
        found = trained(SICK[name])

    assert [finding.code for finding in found] == ["PG446"]
    assert "which was 1.0" in found[0].items[0]
    assert "PG446" in all_pages()


@pytest.mark.parametrize("name", HEALTHY)
def test_other_numbers_are_left_alone(name, monkeypatch):
    monkeypatch.setitem(globals(), "SHARE", 1.0)

    assert trained(HEALTHY[name]) == []


def test_names_are_looked_up_where_the_code_finds_them():
    step = Own(small(1), weighed)

    assert list(NumbersOutside(step, "train_step").now()) == ["SHARE (weighed)"]


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch compiles no steps")
@pytest.mark.parametrize("make", [WarmingUp, Alternating])
def test_a_number_that_a_compiled_step_changes_and_uses_is_reported(make):
    step = make(small(1), squares)
    step.ignore_findings = ("PG417",)  # its program depends on the number: else it is refused

    with pytest.warns(pg.PerigeeWarning, match="PG445"):
        (found,) = trained_once(step)

    assert found.code == "PG445" and found.items == ("calls",)


@pytest.mark.parametrize("make", [WarmingUp, Alternating])
def test_an_eager_step_may_count(make):
    assert trained_once(make(small(1), squares), execution="eager") == []


def trained_once(step, **given):
    return pg.fit(step, numbers(), epochs=2, progress="off", **given).findings


class Drawing(Counted):
    """Changes what no variable holds, as far as it runs as Python."""

    def __init__(self):
        super().__init__(small(1), squares)
        self.noise, self.seen = np.random.default_rng(1), np.zeros(3)
        self.losses, self.rates = [], [0.1]

    def train_step(self, batch):
        self.seen += self.noise.random(3)
        self.losses.append(len(self.losses))
        return super().train_step(batch)


def kept(step, folder, **given):
    run = pg.Run(folder / "run")
    return pg.fit(step, numbers(), epochs=1, progress="off", run=run, **given).findings


@pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")
@pytest.mark.parametrize("execution", ["eager", "auto"])
def test_what_a_step_changes_in_attributes_is_saved_or_compiled(tmp_path, execution):
    found = kept(Drawing(), tmp_path, execution=execution)

    assert [f.items for f in found if f.code == "PG430"] == []
