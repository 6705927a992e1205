"""The adversarial examples learn on every framework, with as many updates as they say."""

import keras
import numpy as np
import pytest
from examples import gan, wgan_gp

import perigee as pg


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "epochs", "factor"),
    [(gan, 16, 1.25), (wgan_gp, 6, 1.5)],
    ids=["gan", "wgan_gp"],
)
def test_an_example_comes_nearer_to_the_data(example, epochs, factor):
    before, after = example.main(epochs=epochs)

    assert factor * after < before


@pytest.mark.parametrize("example", [gan, wgan_gp], ids=["gan", "wgan_gp"])
def test_both_networks_learn_and_each_optimizer_has_its_own(example):
    rows, epochs = 96, 2
    batch_size, per_step = 32, getattr(example, "CRITIC_UPDATES", 1)
    step = example.make_step()
    networks = [step.generator, getattr(step, "discriminator", None) or step.critic]
    before = [network.get_weights() for network in networks]
    data = np.random.normal(size=(rows, networks[1].input_shape[-1])).astype("float32")

    history = pg.fit(step, data, epochs=epochs, batch_size=batch_size, progress="off")

    steps = epochs * rows // batch_size
    opponent = getattr(step, "discriminator_optimizer", None) or step.critic_optimizer
    counts = [
        int(keras.ops.convert_to_numpy(o.iterations)) for o in (step.generator_optimizer, opponent)
    ]
    assert counts == [steps, steps * per_step]
    for network, weights in zip(networks, before, strict=True):
        assert any(
            np.any(new != old) for new, old in zip(network.get_weights(), weights, strict=True)
        )
    assert history.findings == []


def test_the_distance_of_images_is_zero_for_the_same_ones():
    images = np.random.uniform(size=(100, 64))

    assert gan.distance(images, images) == pytest.approx(0.0, abs=1e-6)
    assert gan.distance(images, images + 0.5) == pytest.approx(64 * 0.5**2, rel=1e-6)


def test_the_distance_of_points_is_how_far_they_are_moved():
    points, shift = np.random.normal(size=(50, 2)), 3.0

    assert wgan_gp.distance(points, points) == 0.0
    # Along a direction at an angle to the shift, the points move by its cosine.
    moved = points + np.array([shift, 0.0])
    assert wgan_gp.distance(points, moved) == pytest.approx(shift * 2 / np.pi, rel=1e-2)
