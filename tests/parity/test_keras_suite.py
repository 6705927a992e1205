"""The script that runs Keras's own tests with Perigee, on a few of them.

`make keras KERAS=PATH` runs all.
"""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests.parity import keras_suite

INSTALLED = Path(keras.__file__).parent
ROOT = Path(__file__).parents[2]
SAMPLE = (
    "test_training_arg or test_predict_flow_eager or test_stop_loop or test_internal_only_loss "
    "or test_steps_per_epoch_not_match_too_low_eager or test_backup_corrupted"
)


@pytest.mark.process
def test_a_sample_of_keras_own_tests_passes():
    pytest.importorskip("absl")
    command = [sys.executable, "-m", "tests.parity.keras_suite", str(INSTALLED), "-k", SAMPLE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "trainer_test.py: 7 of 7 that pass with Keras" in done.stdout
    assert "backup_and_restore_test.py: 0 of 1" in done.stdout
    assert "documented: `BackupAndRestore` forgets" in done.stdout


@pytest.mark.once
def test_each_difference_stands_on_the_page():
    page = (ROOT / "docs/keras_step.md").read_text()
    for why in keras_suite.DIFFERENCES.values():
        assert f"| {why} |" in page


@pytest.mark.once
def test_what_is_not_documented_fails(capsys):
    passed = ["a_test.py::Test::test_one", "a_test.py::Test::test_two", "a_test.py::Test::test_no"]
    ours = {passed[0]: ("passed", ""), passed[1]: ("failed", "ValueError: of another shape")}

    assert keras_suite.report(passed, ours) == 1

    printed = capsys.readouterr().out
    assert "a_test.py: 1 of 3 that pass with Keras" in printed
    assert "ValueError: of another shape" in printed and "missing" in printed
    assert keras_suite.report(passed[:1], ours) == 0


@pytest.mark.once
def test_another_version_of_keras_is_refused(tmp_path):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers/trainer_test.py").touch()
    (tmp_path / "version.py").write_text('__version__ = "3.0.0"\n')
    with pytest.raises(SystemExit, match="is not Keras"):
        keras_suite.found_tests(tmp_path)
    with pytest.raises(SystemExit, match="holds no"):
        keras_suite.found_tests(tmp_path / "nowhere")


@pytest.mark.once
def test_the_installed_package_is_taken():
    names = [path.name for path in keras_suite.found_tests(INSTALLED)]
    assert "trainer_test.py" in names and len(names) > 10
