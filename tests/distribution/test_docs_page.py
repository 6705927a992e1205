"""The code on the page about distribution runs, each part in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perigee._cli.launching import environments
from tests.project.pages import blocks_of

ROOT = Path(__file__).parents[2]
TIMEOUT_SECS = 240

GIVEN = """
import keras
import numpy as np

import perigee as pg

x = np.random.default_rng(0).normal(size=(1024, 4)).astype("float32")
y = x[:, :1] * 2


def make_model():
    layers = [keras.layers.Dense(8, name="dense"), keras.layers.Dense(1, name="head")]
    return keras.Sequential([keras.Input((4,)), *layers])
"""
"""What the page takes for granted."""

TRAINED = """
step = pg.Supervised(make_model(), keras.optimizers.Adam(1e-3), keras.losses.MeanSquaredError())
assert pg.fit(step, (x, y), batch_size=512, progress="off").stop_reason == "epochs"
"""


def parts(name):
    """The Python of the section about a framework: on one machine first, then several processes."""
    code = [
        (line, content)
        for language, content, line in blocks_of("distribution.md")
        if language == "python"
    ]
    page = (ROOT / "docs" / "distribution.md").read_text(encoding="utf-8").splitlines()
    starts = {title: page.index(f"## {title}") for title in ("TensorFlow", "JAX", "torch")}
    first, last = starts[name], min(n for n in starts.values() if n > starts[name])
    return [content for line, content in code if first < line <= last]


def run(code, folder, **environment):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    } | environment
    environment.pop("TF_CONFIG", None)
    (folder / "page.py").write_text(code)  # TensorFlow reads the source of a step
    command = [sys.executable, "-W", "error::UserWarning:perigee", "page.py"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_the_code_for_tensorflow_runs(tmp_path):
    one_machine, several = parts("TensorFlow")

    # Several workers first: their strategy is made before TensorFlow has done anything.
    run("import tensorflow as tf\n" + GIVEN + several + one_machine, tmp_path)

    assert (tmp_path / "runs" / "first" / "run.json").exists()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_jax
def test_the_code_for_jax_runs(tmp_path):
    one_machine, split, several = parts("JAX")

    run(
        several + GIVEN + one_machine + split + TRAINED,
        tmp_path,
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
        **environments(1)[0],
    )
