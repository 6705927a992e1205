"""Starts and watches several local processes of one script, for `perigee launch`.

Nothing here trains: the workers find each other by the variables that TensorFlow, JAX and Keras
read, and reduce their gradients themselves.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

_HOST = "127.0.0.1"
_LOOK_SECS = 0.05
_PASSED_ON = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome of a launch.

    Attributes:
        code: The exit status: 0, or that of the first worker that failed; if a signal ended it, 128
            plus the signal's number, as in a shell.
        reason: Which worker failed and how, with its last line on stderr; empty if none did.
    """

    code: int
    reason: str = ""


@dataclass(slots=True)
class _Worker:
    index: int
    process: subprocess.Popen[bytes]
    last_words: str = ""
    readers: list[threading.Thread] = field(default_factory=list)


def launch(
    script: Path,
    arguments: Sequence[str],
    workers: int,
    grace_secs: float,
    write: Callable[[str, bool], None],
) -> Ending:
    """Run a script in several processes on this machine, until all have ended.

    If one fails, the others get SIGTERM, and SIGKILL if they still run after `grace_secs`: they
    could only wait for it. SIGINT and SIGTERM are forwarded to all, who have `grace_secs` to end
    before they are signaled again.

    Args:
        script: A Python file.
        arguments: The arguments of the script.
        workers: The number of processes.
        grace_secs: The time for the others to end themselves.
        write: Called with each line that they write, prefixed by the worker's number, and whether
            it was written to stderr.
    """
    lock = threading.Lock()

    def write_line(line: str, is_error: bool) -> None:
        with lock:
            write(line, is_error)

    started: list[_Worker] = []
    with _noting_signals() as received:
        try:
            for index, variables in enumerate(environments(workers)):
                started.append(_start(index, script, arguments, variables, write_line))
            return _watch(started, received, grace_secs)
        finally:
            for worker in started:
                if worker.process.poll() is None:
                    worker.process.kill()
                worker.process.wait()
                for reader in worker.readers:
                    reader.join(grace_secs)  # a child of the worker may keep the pipe open


def environments(workers: int) -> list[dict[str, str]]:
    """Return the variables by which each worker finds the others, on free local ports."""
    *ports, coordinator = _free_ports(workers + 1)
    cluster = {"worker": [f"{_HOST}:{port}" for port in ports]}
    address = f"{_HOST}:{coordinator}"
    return [
        {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": i}}),
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": address,
            "KERAS_DISTRIBUTION_NUM_PROCESSES": str(workers),
            "KERAS_DISTRIBUTION_PROCESS_ID": str(i),
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(workers),
            "JAX_PROCESS_ID": str(i),
        }
        for i in range(workers)
    ]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in taken:
            each.bind((_HOST, 0))
        return [each.getsockname()[1] for each in taken]


def _start(
    index: int,
    script: Path,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    write: Callable[[str, bool], None],
) -> _Worker:
    process = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C arrives once, forwarded
    )
    worker = _Worker(index, process)

    def read(stream: IO[bytes], is_error: bool) -> None:
        for raw in stream:
            line = raw.decode(errors="replace").rstrip()
            if is_error and line:
                worker.last_words = line
            write(f"[{index}] {line}", is_error)

    for stream, is_error in ((process.stdout, False), (process.stderr, True)):
        reader = threading.Thread(target=read, args=(stream, is_error), daemon=True)
        reader.start()
        worker.readers.append(reader)
    return worker


def _watch(workers: Sequence[_Worker], received: list[int], grace_secs: float) -> Ending:
    """Wait until all have ended; the first that fails ends the others.

    Workers that a signal was forwarded to are already ending: another signal at once would keep
    them from saving.
    """
    failed: _Worker | None = None
    was_passed_on = False
    asked_at = ended_at = float("inf")
    while any(worker.process.poll() is None for worker in workers):
        while received:
            _send(workers, received.pop(0))
            was_passed_on = True
        now = time.monotonic()
        if failed is None and (failed := _failed(workers)) is not None:
            asked_at = now + (grace_secs if was_passed_on else 0.0)
            ended_at = asked_at + grace_secs
        if now >= asked_at:
            _send(workers, signal.SIGTERM)
            asked_at = float("inf")
        if now > ended_at:
            _send(workers, signal.SIGKILL)
        time.sleep(_LOOK_SECS)
    failed = failed or _failed(workers)
    return Ending(0) if failed is None else _ending(failed)


def _failed(workers: Sequence[_Worker]) -> _Worker | None:
    return next((w for w in workers if w.process.poll() not in (None, 0)), None)


def _ending(worker: _Worker) -> Ending:
    for reader in worker.readers:
        reader.join(1.0)
    code = worker.process.returncode
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        code = 128 - code
    else:
        how = f"ended with exit code {code}"
    words = f": {worker.last_words}" if worker.last_words else "."
    return Ending(code, f"Worker {worker.index} {how}, so all were ended{words}")


def _send(workers: Sequence[_Worker], number: int) -> None:
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            if worker.process.poll() is None:
                worker.process.send_signal(number)


@contextlib.contextmanager
def _noting_signals() -> Generator[list[int]]:
    """Collect received signals to forward them, instead of handling them."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in _PASSED_ON}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
