"""Runs of an earlier version resume, and come to what that version would have made of them."""

import json
import shutil
import warnings

import keras
import numpy as np
import pytest

from perigee.checkpoints import Checkpoints
from tests.runs.old_runs import CUT_AT, PLACE, STEPS_AN_EPOCH, TRAININGS

EXPECTED = json.loads((PLACE / "expected.json").read_text())
CLOSE = {"rtol": 2e-4, "atol": 2e-6}
"""Processors and frameworks round differently."""


@pytest.fixture(params=TRAININGS)
def name(request):
    return request.param


@pytest.fixture
def old(tmp_path, name):
    shutil.copytree(PLACE / name, tmp_path / name)
    return tmp_path / name


def test_a_run_of_an_earlier_version_trains_on_to_what_that_would_have_made(old, name):
    expected = EXPECTED[name]

    with pytest.warns(RuntimeWarning, match="without a record of its settings"):
        found = TRAININGS[name](old)

    assert found["step"] == expected["step"]
    assert found["weights"].keys() == expected["weights"].keys()
    for key, value in expected["weights"].items():
        np.testing.assert_allclose(found["weights"][key], value, err_msg=key, **CLOSE)
    for key, values in expected["history"].items():
        np.testing.assert_allclose(found["history"][key], values, err_msg=key, **CLOSE)
    keras.tree.map_structure(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, **CLOSE),
        found["callbacks"],
        expected["callbacks"],
    )
    resumed = json.loads((old / "run.json").read_text())["resumed"]
    assert [part["step"] for part in resumed] == [CUT_AT]


def test_a_run_of_another_framework_says_what_is_not_exact_and_one_of_this_says_nothing(old, name):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        TRAININGS[name](old)

    told = [str(warning.message) for warning in said if "PG430" in str(warning.message)]
    backend = keras.backend.backend()
    assert len(told) == (backend != "tensorflow")
    for text in told:
        assert f"the framework, tensorflow then and {backend} now" in text
        assert "random numbers" in text and "chosen again" in text
    findings = json.loads((old / "run.json").read_text())["findings"]
    codes = [finding["code"] for finding in findings]
    assert codes.count("PG430") == len(told)


def test_what_they_come_to_depends_on_the_checkpoint(tmp_path, old, name):
    """Without it, on the same seeds, the last step is another one: the numbers above do tell."""
    saved = Checkpoints(old / "checkpoints").load().content

    assert saved.clock.step == CUT_AT and saved.clock.epoch == CUT_AT // STEPS_AN_EPOCH
    for key, value in saved.arrays.items():
        if value.dtype.kind == "f" and value.size > 1:
            assert not np.allclose(value, EXPECTED[name]["weights"][key], **CLOSE)
