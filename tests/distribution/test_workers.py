"""Several processes that train together: real ones, on the loopback address."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from tests.distribution.processes import Workers

pytestmark = [pytest.mark.only_tensorflow, pytest.mark.slow]

END_SECS = 60
"""Within these a process has ended after another one was killed."""
LONG = {"keeps_run": True, "announces": True, "epochs": 15}


def assert_same(ours, theirs, is_exact):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if is_exact:
            assert value.tobytes() == theirs[name].tobytes(), name
        else:
            np.testing.assert_allclose(value, theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Return what two processes came to that nothing interrupted, with their folder."""
    with Workers(tmp_path_factory.mktemp("pair"), 2, **LONG) as workers:
        assert workers.ended() == [0, 0], workers.said(0) + workers.said(1)
        yield workers


@pytest.mark.tried("the updates and logs of one device, ragged batches included", workers="works")
def test_two_processes_train_as_one_does(pair, tmp_path):
    with Workers(tmp_path, 1, epochs=LONG["epochs"]) as alone:
        assert alone.ended() == [0], alone.said(0)

    assert_same(pair.result(0), pair.result(1), is_exact=True)
    assert_same(alone.result(0), pair.result(0), is_exact=False)


@pytest.mark.tried("the chief alone writes the run", workers="works")
def test_the_chief_alone_writes_the_run(pair):
    run = pair.folder / "run"
    records = (run / "metrics.jsonl").read_text().splitlines()
    said = [json.loads(record) for record in records]

    assert [record["kind"] for record in said].count("epoch") == LONG["epochs"]
    assert (run / "checkpoints" / "step-00000060").is_dir()


@pytest.mark.tried(
    "a killed process ends the others; all go on from the run, to the bit", workers="works"
)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_both_go_on_where_they_saved(pair, tmp_path, killed):
    with Workers(tmp_path, 2, **LONG) as workers:
        workers.wait_for_step(5)
        workers.processes[killed].kill()
        began = time.monotonic()
        survivor = workers.processes[1 - killed]

        status = survivor.wait(END_SECS + 30)

        took = time.monotonic() - began
        said = workers.said(1 - killed)
    assert status != 0
    assert took < END_SECS
    assert "PG453" in said, said[-3000:]
    with Workers(tmp_path, 2, **LONG) as workers:
        assert workers.ended() == [0, 0], workers.said(0) + workers.said(1)
        assert_same(workers.result(0), workers.result(1), is_exact=True)
        assert_same(pair.result(0), workers.result(0), is_exact=True)


@pytest.mark.tried("processes with different data", workers="refused")
def test_processes_with_other_data_are_told_apart(tmp_path):
    with Workers(tmp_path, 2, shifts=(0, 1)) as workers:
        statuses = workers.ended()

        assert 0 not in statuses
        assert "PG454" in workers.said(0) and "first batch" in workers.said(0)
