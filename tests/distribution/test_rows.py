"""Rows of a batch that meet, on several devices: TensorFlow gives each a share, JAX the whole."""

from __future__ import annotations

import warnings

import keras
import pytest
from keras import layers as kl

import perigee as pg
from perigee._errors import CoupledRowsError
from tests.diagnostics.rows import MEETING, Program, Trained, regression, squares
from tests.distribution.strategies import made

OF_PARTS = {"PG217", "PG235", "PG236", "PG237", "PG238"}


def told(program: Program, **given) -> set[str]:
    """Train for two steps, and return the codes of what is warned of."""
    data = [program.batch] * 2
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pg.fit(program.step, data, progress="off", execution="eager", **given)
    return {code for code in OF_PARTS if any(f"[{code}]" in str(w.message) for w in seen)}


def on_two(make) -> Program:
    programs: list[Program] = []

    def step():
        programs.append(make())
        return programs[0].step

    made(step, 2)
    return programs[0]


def normalized(**given) -> Program:
    model = keras.Sequential(
        [kl.Input((8,)), kl.Dense(6), kl.BatchNormalization(**given), kl.Dense(1)]
    )
    return Program(Trained(model, squares), regression())


@pytest.mark.only_tensorflow
def test_replicas_refuse_a_loss_that_compares_rows():
    program = on_two(MEETING["supervised_contrastive"])
    with pytest.raises(CoupledRowsError, match="replica's share"):
        told(program)


@pytest.mark.only_tensorflow
@pytest.mark.parametrize(
    ("name", "code"),
    [("mixup", "PG236"), ("momentum_contrast", "PG238"), ("root_mean_square_is_logged", "PG237")],
)
def test_replicas_name_other_rows_that_meet(name, code):
    assert told(on_two(MEETING[name])) == {code}


@pytest.mark.only_tensorflow
def test_statistics_of_a_share_are_named_unless_replicas_share_them():
    assert told(on_two(normalized)) == {"PG235"}
    assert told(on_two(lambda: normalized(synchronized=True))) == set()
    together = on_two(lambda: normalized(synchronized=True))
    assert told(together, accumulate=2) == {"PG235"}


@pytest.mark.only_tensorflow
def test_of_rows_that_do_not_meet_replicas_say_nothing():
    plain = on_two(lambda: Program(Trained(dense(), squares), regression()))
    assert told(plain) == set()


def dense():
    return keras.Sequential([kl.Input((8,)), kl.Dense(6, "relu"), kl.Dropout(0.2), kl.Dense(1)])


@pytest.mark.only_jax
def test_devices_of_jax_have_the_whole_batch_and_say_nothing():
    import jax

    devices = jax.devices()[:2]
    parallel = keras.distribution.DataParallel(devices=[f"cpu:{d.id}" for d in devices])
    keras.distribution.set_distribution(parallel)
    try:
        assert told(MEETING["supervised_contrastive"]()) == set()
        with pytest.raises(CoupledRowsError, match="micro-batch"):
            told(MEETING["supervised_contrastive"](), accumulate=2)
        assert told(Program(Trained(dense(), squares), regression()), accumulate=2) == set()
    finally:
        keras.distribution.set_distribution(None)
