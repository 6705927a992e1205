"""Ten hand-written loops, each in one call: at most three lines are added or changed."""

import difflib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

pytestmark = pytest.mark.only_tensorflow

LOOPS = Path(__file__).parent / "loops"
MOST_LINES = 3

IMPORT = "import perigee as pg"

CHANGES: dict[str, list[tuple[str, str]]] = {
    "classification": [
        (
            "    for epoch in range(EPOCHS):",
            "    pg.fit(pg.FunctionStep(train_step, test_step), train_ds, epochs=EPOCHS, "
            "validation=test_ds)",
        ),
    ],
    "vae": [
        (
            "    for epoch in range(1, epochs + 1):",
            "    step = pg.FunctionStep(lambda x: train_step(vae, x, opt), "
            "lambda x: compute_loss(vae, x))\n"
            "    pg.fit(step, train_dataset, epochs=epochs, validation=test_dataset)",
        ),
    ],
    "gan": [
        (
            "    for epoch in range(EPOCHS):",
            "    pg.fit(train_step, dataset, epochs=EPOCHS)",
        ),
    ],
    "wgan_gp": [
        (
            "    for epoch in range(epochs):",
            "    pg.fit(gan.train_step, ds, epochs=epochs)",
        ),
    ],
    "distillation": [
        (
            "    for epoch in range(4):",
            "    pg.fit(teacher_step, train, epochs=4)",
        ),
        (
            "    for epoch in range(5):",
            "    pg.fit(distill_step, train, epochs=5)",
        ),
    ],
    "contrastive": [
        (
            "    for epoch in range(NUM_EPOCHS):",
            "    pg.fit(simclr.step, pairs, epochs=NUM_EPOCHS)",
        ),
    ],
    "segmentation": [
        (
            "    for epoch in range(N_EPOCHS):",
            "    data = lambda: batches(train_x, train_y, rng.permutation(len(train_x)))\n"
            "    pg.fit(train_step, data, epochs=N_EPOCHS)",
        ),
    ],
    "text": [
        (
            "    for epoch in range(4):",
            "    pg.fit(step, train_data, epochs=4)",
        ),
    ],
    "forecasting": [
        (
            "    for epoch in range(EPOCHS):",
            "    for net, opt in zip(nets, optimizers):\n"
            "        pg.fit(lambda x, y: train_one_batch(net, opt, x, y), train_ds, epochs=EPOCHS)",
        ),
    ],
    "actor_critic": [
        (
            "    for episode in range(1, N_EPISODES + 1):",
            "    with pg.prepare(lambda: train_episode(env), execution='eager') as trainer:\n"
            "        for episode in range(1, N_EPISODES + 1):\n"
            "            trainer.train_step(())",
        ),
    ],
}


def original(name: str) -> str:
    return (LOOPS / f"{name}.py").read_text()


def changed(name: str) -> str:
    """The script with its loops replaced by calls."""
    lines = original(name).splitlines()
    for first, call in CHANGES[name]:
        start = lines.index(first)
        depth = len(first) - len(first.lstrip())
        end = start + 1
        while end < len(lines) and (
            not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > depth
        ):
            end += 1
        while not lines[end - 1].strip():
            end -= 1
        lines[start:end] = call.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(("import ", "from ")))
    return "\n".join([*lines[:at], IMPORT, *lines[at:]]) + "\n"


def run(name: str, source: str) -> dict[str, Any]:
    """Run a script as the main program; returns what it defines."""
    module = types.ModuleType("__main__")
    module.__file__ = str(LOOPS / f"{name}.py")
    before = sys.modules["__main__"]
    sys.modules["__main__"] = module
    keras.backend.clear_session()
    try:
        exec(compile(source, module.__file__, "exec"), vars(module))
    finally:
        sys.modules["__main__"] = before
    return vars(module)


def lines_added(name: str) -> list[str]:
    """The lines that are new or changed, however they are indented."""
    before, after = (
        [line.strip() for line in s.splitlines()] for s in (original(name), changed(name))
    )
    return [line[2:] for line in difflib.ndiff(before, after) if line.startswith("+ ")]


def models_of(names: dict[str, Any]) -> list[keras.Model]:
    """The models that a script defines, in the order of their names."""
    found: list[keras.Model] = []
    for name, value in sorted(names.items()):
        if not name.startswith("_"):
            found += [m for m in keras.tree.flatten(value) if isinstance(m, keras.Model)]
    inside = [names[name] for name in ("gan", "simclr") if name in names]
    return found + [
        m for owner in inside for m in vars(owner).values() if isinstance(m, keras.Model)
    ]


@pytest.mark.parametrize("name", CHANGES)
def test_a_loop_needs_at_most_three_lines(name: str) -> None:
    assert 2 <= len(lines_added(name)) <= MOST_LINES


# Weights after all epochs. The augmentation of the contrastive one enlarges the last digits.
TOLERANCES = {
    "classification": 1e-5,
    "distillation": 1e-5,
    "segmentation": 1e-5,
    "text": 1e-5,
    "forecasting": 1e-5,
    "contrastive": 0.05,
}
QUICK = ("classification",)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TOLERANCES],
)
def test_a_loop_trains_the_same_weights_in_one_call(name: str) -> None:
    ours, theirs = (models_of(run(name, source)) for source in (changed(name), original(name)))
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        for weight, expected in zip(mine.weights, other.weights, strict=True):
            np.testing.assert_allclose(weight, expected, rtol=0, atol=TOLERANCES[name])


def vae_fits(names: dict[str, Any]) -> bool:
    return float(names["compute_loss"](names["vae"], names["test_images"])) < 30


def gan_draws(names: dict[str, Any]) -> bool:
    noise = np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    return float(names["mean_image_error"](names["G_ema"], noise)) < 0.35


def wgan_draws(names: dict[str, Any]) -> bool:
    return names["chamfer"](names["gan"].sample(500).numpy(), names["points"]) < 0.6


def actor_walks(names: dict[str, Any]) -> bool:
    logits = names["actor"](np.eye(7, dtype="float32")[:6]).numpy()
    return bool((logits[:, 1] > logits[:, 0]).all())


# These draw from `tf.random`, which gives other numbers in other compiled code; and validation
# draws nothing from the seeds of training.
LEARNED: dict[str, Callable[[dict[str, Any]], bool]] = {
    "vae": vae_fits,
    "gan": gan_draws,
    "wgan_gp": wgan_draws,
    "actor_critic": actor_walks,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_a_loop_that_draws_random_numbers_learns_in_one_call(name: str) -> None:
    assert LEARNED[name](run(name, changed(name)))


def test_every_loop_is_compared() -> None:
    assert {*TOLERANCES, *LEARNED} == {*CHANGES} == {path.stem for path in LOOPS.glob("*.py")}
