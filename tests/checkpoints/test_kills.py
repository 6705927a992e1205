"""A process that is killed inside a save leaves nothing that the next one stumbles over."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KILLS = 20
TIMEOUT_SECS = 300


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_every_kill_inside_a_save_leaves_the_last_one_that_was_reported():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.reliability.kills_in_save"),
            *("--kills", str(KILLS), "--mbytes", "1"),
        ],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "numpy"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{KILLS} kills inside a save", done.stdout)
    assert "0 of them were found unreadable" in done.stdout
