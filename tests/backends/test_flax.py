"""Modules of Flax NNX keep their arrays themselves: PG410 says how variables hold them.

Skipped where Flax is not installed: it is not among the requirements, for it brings 25 packages.
"""

import numpy as np
import pytest

import perigee as pg

pytestmark = pytest.mark.only_jax
jax = pytest.importorskip("jax")
nnx = pytest.importorskip("flax.nnx", reason="Flax is not among the requirements")


def data():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(32, 5)).astype("float32")
    return x, x[:, :1] * 2


@pytest.mark.parametrize("execution", ["graph", "eager"])
def test_a_module_of_flax_is_refused_with_the_lines_that_hold_it(execution):
    class Flax(pg.Step):
        def __init__(self):
            self.net = nnx.Linear(5, 1, rngs=nnx.Rngs(0))

        def train_step(self, batch):
            x, y = batch
            loss, gradients = nnx.value_and_grad(lambda net: ((net(x) - y) ** 2).mean())(self.net)
            weights = nnx.state(self.net)
            nnx.update(self.net, jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradients))
            return {"loss": loss}

    with pytest.raises(pg.PerigeeError, match=r"nnx\.merge\(self\.graph"):
        pg.fit(Flax(), data(), epochs=1, batch_size=16, progress="off", execution=execution)
