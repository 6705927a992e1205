"""Distributions that a framework does not carry out are refused before anything trains."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import DistributionUnsupportedError

DATA = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")


def make_step():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    return pg.Supervised(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())


@pytest.fixture
def data_parallel():
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    yield
    keras.distribution.set_distribution(None)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX carries it out")
@pytest.mark.parametrize("by", [pg.fit, pg.evaluate, pg.predict])
def test_a_distribution_of_keras_is_refused_where_it_distributes_nothing(
    refused, data_parallel, by
):
    error = refused(DistributionUnsupportedError, make_step(), DATA, by=by)

    assert "`keras.distribution.DataParallel` is set" in error.happened
    assert "set_distribution(None)" in error.fix


@pytest.mark.only_torch
def test_several_processes_of_torch_are_refused(refused):
    import torch
    from torch.testing._internal.distributed.fake_pg import FakeStore

    processes = 2
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        error = refused(DistributionUnsupportedError, make_step(), DATA)
    finally:
        torch.distributed.destroy_process_group()

    assert f"{processes} processes" in error.happened
    assert "keras.distribution" in error.fix
    assert pg.fit(make_step(), DATA, progress="off").stop_reason == "epochs"
