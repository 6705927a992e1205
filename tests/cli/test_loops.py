"""`perigee check` on scripts with loops of their own: the function and the batch it finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from perigee._cli.files import FileError, run_until_fit, split
from perigee._cli.main import app
from tests.cli.loops_of_strangers import FOUND, HEAD, REFUSED, STEP


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Return what would be checked of a file of this text, and the names of the file."""
    monkeypatch.chdir(tmp_path)

    def run(text, name=""):
        Path("train.py").write_text(text)
        calls = []
        path, function = split(f"train.py{name}")
        run_until_fit(
            path,
            function,
            [],
            lambda target: calls.append((target, names_of_file())),
        )
        ((target, names),) = calls
        return target, names

    return run


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return the answer of `perigee check` to a file of this text."""
    monkeypatch.chdir(tmp_path)

    def run(text, *options, name=""):
        Path("train.py").write_text(text)
        return CliRunner().invoke(app, ["check", f"train.py{name}", *options])

    return run


def names_of_file():
    """Return the names of the file that runs: imported, or as the main program."""
    return dict(vars(sys.modules.get("train", sys.modules["__main__"])))


def line_of(text, mark):
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.endswith(mark))


def shapes(data):
    return keras.tree.map_structure(lambda leaf: tuple(leaf.shape), data)


def codes(answer):
    return [finding["code"] for finding in json.loads(answer.stdout)["findings"]]


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("script", FOUND)
def test_the_function_of_a_batch_is_found_and_nothing_is_trained(found, script):
    name, batch, text = FOUND[script]
    text = HEAD + text
    target, names = found(text)

    assert (target.name, target.line) == (name, line_of(text, "# HERE"))
    given = target.data[0]
    assert shapes(given if len(batch) > 1 else (given,)) == tuple(batch)
    for before, weight in zip(names["before"], names["first"].weights, strict=True):
        np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(weight))
    assert int(names["optimizer"].iterations) == 0


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("script", REFUSED)
def test_a_loop_without_such_a_function_is_refused_with_its_line(found, script):
    message, text = REFUSED[script]
    text = HEAD + text
    with pytest.raises(FileError) as refused:
        found(text)

    here = f"train.py:{line_of(text, '# HERE')}"
    loop = line_of(text, "# LOOP") if "# LOOP" in text else None
    assert message.replace("HERE", here).format(loop=loop) in str(refused.value)


@pytest.mark.only_tensorflow
def test_arguments_that_are_evaluated_again_belong_together(found):
    _, _, text = FOUND["two iterators, and other names for what they give"]
    inputs, labels = found(HEAD + text)[0].data[0]

    np.testing.assert_array_equal(inputs[:, :1], labels)


NAMED = {
    "one inside the step": (
        "critic_step",
        FOUND["a GAN: several updates of a critic, each in a function, in each step"][2],
        "critic_step(real)",
    ),
    "one inside a tf.function of an iterator": (
        "step_fn",
        FOUND["a strategy, with the loop over batches inside a tf.function of an iterator"][2],
        "step_fn(xb, yb)",
    ),
    "a method": (
        "train_on",
        FOUND["a method of a trainer, whose method fit has the arrays"][2],
        "train_on(xb, yb)",
    ),
    "a second one, after a loop that is skipped": (
        "finetune",
        f"{STEP}def finetune(xb, yb):\n    train_step(xb, yb)\n"
        "for xb, yb in batches:\n    train_step(xb, yb)\n"
        "model.fit(x, y)\n"
        "for xb, yb in batches:\n    finetune(xb[:8], yb[:8])\n",
        "finetune(xb, yb)",
    ),
    "another name of one": (
        "compiled",
        f"{STEP}compiled = tf.function(train_step)\nfor xb, yb in batches:\n    compiled(xb, yb)\n",
        "train_step(xb, yb)",
    ),
    "one without arguments, whose loop it is": (
        "main",
        f"{STEP}def main(epochs=2):\n    for xb, yb in batches:\n        train_step(xb, yb)\n",
        "train_step(xb, yb)",
    ),
    "a pair, after a loop that is skipped": (
        "pair",
        f"{STEP}for xb, yb in batches:\n    train_step(xb, yb)\n"
        "model.compile('sgd', 'mse')\npair = model, (x, y)\n",
        None,
    ),
}


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("way", NAMED)
def test_a_name_says_which_function_is_checked(found, way):
    function, text, name = NAMED[way]
    target, names = found(HEAD + text, f":{function}")

    assert target.name == name
    for before, weight in zip(names["before"], names["first"].weights, strict=True):
        np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(weight))


UNNAMED = {
    "never called": (f"{STEP}train_step", "no call of `train_step` in it updated a model"),
    "without a batch": (
        f"{STEP}def epoch(data):\n    for xb, yb in data:\n        train_step(xb, yb)\n"
        "epoch(batches)\n",
        "calls `epoch` without a tensor",
    ),
}


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("mistake", UNNAMED)
def test_a_name_of_something_else_is_refused(found, mistake):
    text, message = UNNAMED[mistake]
    with pytest.raises(FileError, match=message):
        found(HEAD + text, ":epoch" if "epoch" in text else ":train_step")


PLAIN = """\
import keras, numpy as np, tensorflow as tf
x = np.random.normal(size=(256, 8)).astype("float32"); y = x[:, 0]
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, activation="relu"),
                          keras.layers.Dropout(.5), keras.layers.Dense(1)])
opt = keras.optimizers.Adam(1e-2)
@tf.function
def step(x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(y - model(x)))
    g = tape.gradient(loss, model.trainable_variables)
    opt.apply_gradients(zip(g, model.trainable_variables)); return loss
for epoch in range(3):
    for a, b in tf.data.Dataset.from_tensor_slices((x, y)).batch(32): loss = step(a, b)
    print(epoch, float(loss))
"""
"""Its labels are (B,) and its outputs (B, 1), and its Dropout never drops."""


@pytest.mark.only_tensorflow
def test_a_plain_loop_is_checked_as_it_is(check):
    answer = check(PLAIN)

    assert answer.exit_code == 1, answer.output
    assert answer.stdout.startswith("train.py:7: step(x, y)\n1 error, 1 warning.\n")
    assert "PG211" in answer.stdout and "PG440" in answer.stdout
    assert "- dropout" in answer.stdout  # not built, so without a path
    assert "0 " not in answer.stderr  # no epoch was trained

    healthy = PLAIN.replace("y = x[:, 0]", "y = x[:, :1] + x[:, 1:2]")
    answer = check(healthy.replace("model(x)", "model(x, training=True)"), "--format", "json")
    assert (answer.exit_code, codes(answer)) == (0, [])
    assert json.loads(answer.stdout)["target"] == "step(x, y)"


@pytest.mark.only_tensorflow
@pytest.mark.parametrize(
    "script",
    [
        "a method of a trainer, whose method fit has the arrays",
        "a subclassed model, which its first batch builds in the graph",
        "a strategy, with the loop over batches inside a tf.function of an iterator",
        "a partial of a function, called through a function of the epoch",
        "a step of any number of tensors",
        "an argument that is left out",
    ],
)
def test_what_is_found_can_be_checked(check, script):
    answer = check(HEAD + FOUND[script][2], "--fail-on", "error")

    assert answer.exit_code == 0, answer.output


@pytest.mark.only_tensorflow
def test_a_function_of_another_file_is_named_with_its_place(check, tmp_path):
    (tmp_path / "steps_of_train.py").write_text(HEAD + STEP)
    answer = check("from steps_of_train import *\nfor xb, yb in batches:\n    train_step(xb, yb)\n")

    line = line_of(HEAD + STEP, "def train_step(xb, yb):")
    place = f"train_step(xb, yb) of steps_of_train.py:{line}"
    assert answer.stdout.startswith(f"train.py:3: {place}\n"), answer.output


@pytest.mark.only_tensorflow
def test_a_file_that_catches_everything_is_still_checked(check):
    loop = "    for xb, yb in batches:\n        train_step(xb, yb)\n"
    text = f"{HEAD}{STEP}try:\n{loop}except:\n    import sys\n    sys.exit(1)\n"
    answer = check(text, "--fail-on", "error")

    assert (answer.exit_code, answer.stdout.splitlines()[0][-18:]) == (0, "train_step(xb, yb)")


@pytest.mark.only_tensorflow
def test_steps_that_perigee_itself_takes_are_not_a_loop(check):
    text = (
        f"{HEAD}{STEP}import perigee as pg\n"
        "print('report:', pg.check(pg.FunctionStep(train_step), (x, y)))\n"
        "for xb, yb in batches:\n    train_step(xb, yb)\n"
    )
    answer = check(text, "--fail-on", "error")

    assert answer.exit_code == 0, answer.output
    assert "report:" in answer.stderr


BATCHES = """\
import keras
import numpy as np
x = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - 0.5 * x[:, 1:2]

def made(activation=None):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, activation=activation)])
    model.compile("adam", "mse", metrics=["mae"])
    return model

model, other = made("sigmoid"), made()
for i in range(0, 64, 16):
    loss, error = model.train_on_batch(x[i:i + 16], y[i:i + 16])
    other.train_on_batch(x[i:i + 16], y[i:i + 16], sample_weight=np.ones(16))
"""


def test_a_loop_of_train_on_batch_is_checked_with_its_batch(check, found):
    answer = check(BATCHES, "--format", "json")
    assert (answer.exit_code, codes(answer)) == (1, ["PG226"])
    assert json.loads(answer.stdout)["line"] == 13

    answer = check(BATCHES, "--format", "json", name=":other")
    assert (answer.exit_code, codes(answer)) == (0, [])

    for name in ("", ":other"):
        target, names = found(BATCHES, name)
        assert int(names["model"].optimizer.iterations) == 0
        rows = ((16, 5), (16, 1), (16,)) if name else ((16, 5), (16, 1))
        assert shapes(target.data) == [rows]


def test_a_batch_that_is_skipped_moves_no_statistics(found):
    normal = "keras.Input((5,)), keras.layers.BatchNormalization(), "
    text = BATCHES.replace("keras.Input((5,)), ", normal)
    _, names = found(text, ":other")
    means = names["model"].layers[0].moving_mean

    np.testing.assert_array_equal(keras.ops.convert_to_numpy(means), np.zeros(5))


TORCH = """\
import keras, torch
x = torch.randn(64, 5)
y = x[:, :1]
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
before = [weight.numpy() for weight in model.weights]
of_keras, of_torch = keras.optimizers.SGD(0.1), torch.optim.SGD(model.parameters(), 0.1)

def train_step(data, target):  # HERE
    data = data * 1.0
    loss = torch.mean((model(data, training=True) - target) ** 2)
    loss.backward()
    UPDATE
    return float(loss)

for epoch in range(2):
    for i in range(0, 64, 16):
        train_step(x[i:i + 16], y[i:i + 16])
"""

UPDATES = {
    "keras": """weights = model.trainable_weights
    with torch.no_grad():
        of_keras.apply([weight.value.grad for weight in weights], weights)
    model.zero_grad()""",
    "torch": "of_torch.step()\n    of_torch.zero_grad()",
}


@pytest.mark.only_torch
@pytest.mark.parametrize("optimizer", UPDATES)
def test_a_loop_with_backward_is_checked(check, found, optimizer):
    text = TORCH.replace("UPDATE", UPDATES[optimizer])
    target, names = found(text)

    assert (target.name, target.line) == ("train_step(data, target)", line_of(text, "# HERE"))
    assert shapes(target.data) == [((16, 5), (16, 1))]
    for before, weight in zip(names["before"], names["model"].weights, strict=True):
        np.testing.assert_array_equal(before, weight.numpy())
        assert weight.value.grad is None  # the next gradients would be added to it

    assert check(text).exit_code == 0


@pytest.mark.only_torch
def test_a_function_of_losses_is_no_step(found):
    text = TORCH.partition("def train_step")[0] + (
        "def update(losses):\n    losses.mean().backward()\n    of_torch.step()\n"
        "for i in range(2):\n    update((model(x) - y) ** 2)\n"
    )
    with pytest.raises(FileError, match="no function takes the batch"):
        found(text)


JAX = """\
import jax, keras
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
optimizer = keras.optimizers.SGD(0.1)
optimizer.build(model.trainable_variables)

def loss_of(weights, x):
    return (model.stateless_call(weights, [], x)[0] ** 2).mean()

@jax.jit
def train_step(weights, slots, x):
    gradients = jax.grad(loss_of)(weights, x)
    return optimizer.stateless_apply(slots, gradients, weights)

weights = [weight.value for weight in model.trainable_variables]
slots = [variable.value for variable in optimizer.variables]
for _ in range(3):
    weights, slots = train_step(weights, slots, jax.numpy.ones((4, 5)))
"""


@pytest.mark.only_jax
def test_a_loop_that_passes_its_state_by_hand_is_answered(check):
    answer = check(JAX)

    assert answer.exit_code == 2
    assert "train.py:12 leads to `stateless_apply`" in answer.stderr
    assert "`train_step` of a `pg.Step`" in answer.stderr


def checked_in_a_process(folder, text):
    """Return the answer of a process in which the file is the first to import Keras."""
    (folder / "train.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "perigee", "check", "train.py", "--fail-on", "error"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env=os.environ,
    )


FITS = """\
import tensorflow as tf
from tensorflow.keras import layers
x = tf.random.normal((64, 5))
model = tf.keras.Sequential([layers.Input((5,)), layers.Dense(1)])
model.compile("sgd", "mse")
model.fit(x, x[:, :1])
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
@pytest.mark.parametrize("end", ["fit", "loop"])
def test_keras_is_found_behind_tensorflow(tmp_path, end):
    lines = FITS.splitlines()
    loop = "for _ in range(3):\n    model.train_on_batch(x, x[:, :1])"
    answer = checked_in_a_process(
        tmp_path, FITS if end == "fit" else "\n".join([*lines[:-1], loop])
    )

    assert answer.returncode == 0, answer.stderr
    line = len(lines) + (end == "loop")
    assert answer.stdout.startswith(f"train.py:{line}: Sequential 'sequential'\n")


REPLICAS = """\
import keras, numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
with strategy.scope():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.1)

def step(inputs):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(inputs) - 2 * inputs[:, :1]))
    gradients = tape.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))

@tf.function
def distributed_step(inputs):
    strategy.run(step, args=(inputs,))

batches = tf.data.Dataset.from_tensor_slices(x).batch(16)
for inputs in strategy.experimental_distribute_dataset(batches):
    distributed_step(inputs)
"""


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_the_function_of_two_replicas_is_found(tmp_path):
    answer = checked_in_a_process(tmp_path, REPLICAS)

    assert answer.stdout.startswith("train.py:10: step(inputs)\n"), answer.stderr
