"""PG217 and PG235 to PG238: rows of a batch that meet, where an update adds up parts of it."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import perigee as pg
from perigee import _backends, diagnostics
from perigee._errors import CoupledRowsError
from perigee._rehearsal.discovery import rehearse
from perigee._step.state import snapshot, track
from perigee.diagnostics import _rows
from tests.diagnostics.rows import (
    APART,
    MEETING,
    ROWS,
    Program,
    Trained,
    classes,
    draw,
    l2,
    mlp,
    regression,
    squares,
    with_layers,
)
from tests.diagnostics.rows_of_others import COUPLED, SEPARATE

OF_PARTS = {"PG217", "PG235", "PG236", "PG237", "PG238"}
PAIRED = {"PG236"}
NAMED = {
    "batch_normalization": {"PG235"},
    "batch_normalization_by_supervised": {"PG235"},
    "mixup": PAIRED,
    "cut_mix": PAIRED,
    "mixup_layer_of_keras": PAIRED,
    "negatives_by_a_roll": PAIRED,
    "pairs_of_neighboring_rows": PAIRED,
    "momentum_contrast": {"PG238"},
    "center_loss": {"PG238"},
    "explained_variance_is_logged": {"PG237"},
    "root_mean_square_is_logged": {"PG237"},
}
"""What programs whose rows meet are told; the others are refused."""


def told(program: Program, accumulate: int = 2, is_split: bool = False) -> set[str]:
    """Return the codes of what is said of a program before its first step."""
    batch = _backends.current().tensors(program.batch)
    rehearsal = rehearse(program.step, "train_step", batch, accumulate=accumulate)
    about = program.step, rehearsal, batch, accumulate, is_split
    with diagnostics.exchanging(*about) as rows:
        try:
            return {f.code for f in diagnostics.findings_of("divided", rows)}
        except CoupledRowsError as error:
            return {error.code}


@pytest.mark.corpus
@pytest.mark.spread(6)
@pytest.mark.parametrize("name", MEETING)
def test_a_program_whose_rows_meet_is_refused_or_named(name):
    assert told(MEETING[name]()) == NAMED.get(name, {"PG217"})


@pytest.mark.corpus
@pytest.mark.spread(6)
@pytest.mark.parametrize("name", APART)
def test_of_a_program_whose_rows_do_not_meet_nothing_is_said(name):
    assert told(APART[name]()) == set()


def fitted(program: Program, **given) -> set[str]:
    """Train, and return the codes of the warnings."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pg.fit(program.step, [program.batch] * 4, progress="off", execution="eager", **given)
    return {code for code in OF_PARTS if any(f"[{code}]" in str(w.message) for w in seen)}


def test_fit_refuses_with_accumulate_what_it_trains_without():
    made = MEETING["supervised_contrastive"]
    assert fitted(made()) == set()
    with pytest.raises(CoupledRowsError) as refused:
        fitted(made(), accumulate=2)
    error = refused.value
    assert error.parts == "micro-batch"
    assert abs(error.before + error.both - error.one - error.other) > 1e-3


def test_what_is_meant_is_not_refused():
    program = MEETING["supervised_contrastive"]()
    program.step.ignore_findings = ("PG217",)
    assert fitted(program, accumulate=2) == set()


def test_fit_warns_of_batch_statistics_once_and_trains():
    program = MEETING["batch_normalization"]()
    assert fitted(program, accumulate=2, epochs=2) == {"PG235"}
    program.step.ignore_findings = ("PG235",)
    assert fitted(program, accumulate=2) == set()


def test_the_finding_names_what_it_is_about():
    program = MEETING["momentum_contrast"]()
    batch = _backends.current().tensors(program.batch)
    rehearsal = rehearse(program.step, "train_step", batch, accumulate=2)
    with diagnostics.exchanging(program.step, rehearsal, batch, 2, False) as rows:
        (found,) = diagnostics.findings_of("divided", rows)
    assert found.items == ("keys",)


@pytest.mark.parametrize("name", ["mixup", "momentum_contrast"])
def test_all_is_as_before(name):
    program = MEETING[name]()
    batch = _backends.current().tensors(program.batch)
    rehearse(program.step, "train_step", batch, accumulate=2)
    state = track(program.step).variables
    before = snapshot(state)
    told(program)
    for old, new in zip(before, snapshot(state), strict=True):
        np.testing.assert_array_equal(old, new)


def contrast(step, x):
    z = l2(ops.cast(step.model(x, training=True), "float32"))
    logits = ops.matmul(z, ops.transpose(z)) / 0.2 - 1e3 * ops.eye(ops.shape(x)[0])
    return -ops.mean(ops.max(logits, axis=1) - ops.logsumexp(logits, axis=1))


def test_statistics_are_named_beside_a_loss_that_is_meant():
    model = keras.Sequential([kl.Input((8,)), kl.Dense(6), kl.BatchNormalization(), kl.Dense(6)])
    program = Program(Trained(model, contrast), draw(ROWS, 8))
    assert told(program) == {"PG217"}
    program.step.ignore_findings = ("PG217",)
    assert told(program) == {"PG235"}


def test_statistics_are_not_named_where_none_are_used():
    model = with_layers(kl.BatchNormalization(trainable=False), last=6)
    program = Program(Trained(model, contrast), draw(ROWS, 8))
    program.step.ignore_findings = ("PG217",)
    assert told(program) == set()


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_are_enough_to_name_batch_statistics(rows):
    model = with_layers(kl.BatchNormalization())
    x, y = regression()
    assert told(Program(Trained(model, squares), (x[:rows], y[:rows]))) == {"PG235"}
    assert told(Program(Trained(with_layers(), squares), (x[:rows], y[:rows]))) == set()


def test_a_loss_of_few_rows_is_named():
    assert told(Program(Trained(mlp(6), contrast), draw(3, 8))) == {"PG236"}


def test_a_step_that_takes_only_its_own_batch_size():
    def objective(step, x):
        halves = ops.reshape(x, (2, 10, 8))
        return ops.mean(ops.square(ops.mean(step.model(halves[0]) * step.model(halves[1]), axis=0)))

    assert told(Program(Trained(mlp(6), objective), draw(20, 8))) == {"PG217"}


def test_of_values_that_are_far_larger_than_their_sum_nothing_is_said():
    """A trained critic: its outputs are 1,000 and more, what it says is their difference."""

    def objective(step, real, fake):
        return ops.mean(step.model(fake)) - ops.mean(step.model(real))

    model = mlp(12, 1)
    model.layers[-1].bias.assign([1000.0])
    program = Program(Trained(model, objective), (draw(ROWS, 8), draw(ROWS, 8, seed=3)))
    assert told(program) == set()


def squares_in_float32(step, x, y):
    return ops.mean(ops.square(ops.cast(step.model(x)[:, 0], "float32") - y))


@pytest.mark.parametrize("objective", [contrast, squares_in_float32], ids=["meet", "apart"])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(objective, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = with_layers(last=6) if objective is contrast else with_layers()
    finally:
        keras.config.set_dtype_policy("float32")
    batch = draw(ROWS, 8) if objective is contrast else regression()
    found = told(Program(Trained(model, objective), batch))
    assert bool(found & {"PG217", "PG236"}) == (objective is contrast)


def test_a_loss_of_rows_that_are_missing_is_not_judged():
    """Its values are not finite, whatever the rows."""

    def objective(step, x, y):
        return ops.mean(ops.square(step.model(x)[:, 0] - y)) * np.float32("nan")

    assert told(Program(Trained(mlp(12, 1), objective), regression())) == set()


def test_a_batch_without_common_rows_is_left_alone():
    def objective(step, x, other):
        z = step.model(x)
        return ops.mean(z - ops.mean(z, axis=0)) + ops.mean(step.model(other))

    program = Program(Trained(mlp(12, 1), objective), (draw(8, 8), draw(5, 8)))
    assert told(program) == set()


def test_the_norm_of_the_gradients_is_no_mean_over_rows():
    class Norm(pg.Step):
        def __init__(self):
            self.model = mlp(12, 1)
            self.optimizer = keras.optimizers.SGD(0.1)

        def train_step(self, batch):
            x, y = batch
            gradients = self.gradients(lambda: ops.square(self.model(x)[:, 0] - y), self.model)
            self.apply(self.optimizer, gradients)
            return {"loss": gradients.returned, "norm": gradients.global_norm()}

    assert told(Program(Norm(), regression())) == {"PG237"}


def test_a_metric_of_rows_that_meet_is_named():
    class Rank(pg.Step):
        def __init__(self):
            self.model = mlp(12, 1)
            self.optimizer = keras.optimizers.SGD(0.1)
            self.above = keras.metrics.Mean(name="above the mean")

        def train_step(self, batch):
            x, y = batch

            def objective():
                p = self.model(x)[:, 0]
                return ops.square(p - y), p

            loss, p = self.minimize(objective, self.optimizer)
            self.above.update_state(ops.square(p - ops.mean(p)))
            return {"loss": loss}

    assert told(Program(Rank(), regression())) == {"PG237"}


def test_a_step_is_run_at_most_ten_times_where_rows_do_not_meet(monkeypatch):
    runs: list[int] = []
    run = _rows._Run.__call__
    monkeypatch.setattr(_rows._Run, "__call__", lambda *a: (runs.append(1), run(*a))[1])
    assert (
        told(
            Program(
                Trained(mlp(4), lambda s, x, y: ops.mean(s.model(x), axis=1)),
                (draw(300, 8), classes(rows=300)),
            )
        )
        == set()
    )
    assert len(runs) <= 9


class InnerStep(pg.Step):
    """A step of adaptation inside the objective, as in meta-learning."""

    def __init__(self):
        self.model = mlp(4, 1)
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch

        def objective():
            slopes = self.gradients(
                lambda: ops.mean(ops.square(self.model(x)[:, 0] - y)), self.model
            )
            return squares(self, x, y) + sum(ops.sum(ops.square(slope)) for slope in slopes)

        return {"loss": self.minimize(objective, self.optimizer)}


def test_a_step_inside_the_objective_is_of_a_micro_batch_but_not_of_a_share():
    """Replicas combine its gradients from all shares."""
    program = Program(InnerStep(), regression())
    assert told(program, accumulate=2) == {"PG217"}
    assert told(program, accumulate=1, is_split=True) == set()


@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize("made", [*COUPLED, *SEPARATE], ids=lambda made: made.__name__)
def test_programs_by_someone_who_did_not_know_the_rules(made):
    keras.utils.set_random_seed(0)
    x, *more = data if isinstance(data := made.data(), tuple) else (data,)
    batch = keras.tree.map_structure(lambda leaf: leaf[:16], (x, *more) if more else x)

    found = told(Program(made(), batch))

    assert bool(found & OF_PARTS) == (made in COUPLED)
