"""`perigee launch`: processes that find each other, end together, and say why."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from perigee._cli.launching import environments
from perigee._cli.main import app

TIMEOUT_SECS = 60
COMMAND = [sys.executable, "-c", "from perigee._cli.main import main; main()", "launch"]


def launch(tmp_path, script, *arguments, workers=2, options=()):
    """Run a script in several workers, and return the finished process."""
    file = tmp_path / "script.py"
    file.write_text(script)
    return subprocess.run(
        [*COMMAND, "--workers", str(workers), *options, str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
    )


def test_each_worker_is_told_where_all_are_and_which_it_is():
    workers = 3
    told = environments(workers)

    configs = [json.loads(each["TF_CONFIG"]) for each in told]
    addresses = configs[0]["cluster"]["worker"]
    coordinator = told[0]["JAX_COORDINATOR_ADDRESS"]
    assert len({*addresses, coordinator}) == workers + 1
    assert all(address.startswith("127.0.0.1:") for address in [*addresses, coordinator])
    for index, (each, config) in enumerate(zip(told, configs, strict=True)):
        assert config["cluster"] == configs[0]["cluster"]
        assert config["task"] == {"type": "worker", "index": index}
        assert each["JAX_PROCESS_ID"] == each["KERAS_DISTRIBUTION_PROCESS_ID"] == str(index)
        assert each["JAX_NUM_PROCESSES"] == each["KERAS_DISTRIBUTION_NUM_PROCESSES"] == "3"
        assert each["KERAS_DISTRIBUTION_JOB_ADDRESSES"] == coordinator


@pytest.mark.process
def test_what_workers_write_has_their_number_in_front(tmp_path):
    script = """
import os, sys
print("worker", os.environ["JAX_PROCESS_ID"], sys.argv[1:])
print("to stderr", file=sys.stderr)
print("without an end", end="")
"""
    ended = launch(tmp_path, script, "--epochs", "2", "--workers=9")

    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == [
        "[0] without an end",
        "[0] worker 0 ['--epochs', '2', '--workers=9']",
        "[1] without an end",
        "[1] worker 1 ['--epochs', '2', '--workers=9']",
    ]
    assert sorted(ended.stderr.splitlines()) == ["[0] to stderr", "[1] to stderr"]


WAITS_UNLESS_FIRST = """
import os, signal, sys, time
if os.environ["JAX_PROCESS_ID"] == "1":
    {failure}
{defence}
time.sleep(600)
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("failure", "defence", "code", "reason"),
    [
        ("sys.exit(7)", "", 7, "Worker 1 ended with exit code 7, so all were ended."),
        (
            "raise ValueError('a bad batch')",
            "",
            1,
            "Worker 1 ended with exit code 1, so all were ended: ValueError: a bad batch",
        ),
        (
            "time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)",
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
            137,
            "Worker 1 was killed by SIGKILL, so all were ended.",
        ),
    ],
)
def test_a_worker_that_fails_ends_all(tmp_path, failure, defence, code, reason):
    began = time.monotonic()
    script = WAITS_UNLESS_FIRST.format(failure=failure, defence=defence)

    ended = launch(tmp_path, script, options=("--grace", "0.5"))

    assert ended.returncode == code
    assert ended.stderr.splitlines()[-1] == reason
    assert time.monotonic() - began < TIMEOUT_SECS / 2


@pytest.mark.sample
@pytest.mark.process
def test_one_that_is_done_waits_for_the_others(tmp_path):
    script = """
import os, time
if os.environ["JAX_PROCESS_ID"] == "1":
    time.sleep(1)
    print("last")
"""
    ended = launch(tmp_path, script)

    assert (ended.returncode, ended.stdout) == (0, "[1] last\n")


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on_once(tmp_path, number):
    file = tmp_path / "script.py"
    file.write_text(f"""
import os, signal, sys, time
def stop(number, frame):
    if os.environ["JAX_PROCESS_ID"] == "1":
        time.sleep(0.5)  # it saves, while the other one has ended
    print("got", number, flush=True)
    sys.exit(3)
signal.signal({int(number)}, stop)
print("ready", flush=True)
time.sleep(600)
""")
    process = subprocess.Popen(
        [*COMMAND, "--workers", "2", str(file)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = [process.stdout.readline() for _ in range(2)]
        os.kill(process.pid, number)
        rest, _ = process.communicate(timeout=TIMEOUT_SECS)
    finally:
        process.kill()

    assert sorted(ready) == ["[0] ready\n", "[1] ready\n"]
    assert sorted(rest.splitlines()) == [f"[0] got {int(number)}", f"[1] got {int(number)}"]
    assert process.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "2", "missing.py"], "does not exist"),
        (["--workers", "0", __file__], "greater than or equal to 1"),
        ([__file__], "Missing option '--workers'"),
        (["--workers", "two", __file__], "valid integer"),
    ],
)
def test_what_cannot_be_launched_is_said(arguments, said):
    answer = CliRunner().invoke(app, ["launch", *arguments], prog_name="perigee")

    assert answer.exit_code == 2
    assert said in " ".join(answer.output.replace("│", " ").split())
    assert "Traceback" not in answer.output


def test_the_help_says_how_it_is_called():
    answer = CliRunner().invoke(app, ["launch", "--help"], prog_name="perigee")

    assert answer.exit_code == 0
    assert "--workers" in answer.output
    assert "TF_CONFIG" in answer.output


@pytest.mark.process
def test_launching_imports_no_framework(tmp_path):
    file = tmp_path / "script.py"
    file.write_text("")
    seen = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom perigee._cli.main import app\n"
            f"app(['launch', '--workers', '1', {str(file)!r}], standalone_mode=False)\n"
            "print([m for m in ('keras', 'numpy', 'jax', 'tensorflow') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECS,
    )

    assert seen.stdout.splitlines()[-1:] == ["[]"], seen.stderr
