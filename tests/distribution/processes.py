"""Processes that train together on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
TIMEOUT_SECS = 240


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Workers:
    """Processes of one training, started together.

    Args:
        folder: For their files; `run` in it is the directory of the run.
        count: How many.
        shifts: Planted differences of their data.
        plan: What `tests.distribution.worker` takes besides.
    """

    def __init__(self, folder: Path, count: int, *, shifts: Any = (0, 0), **plan: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.processes: list[subprocess.Popen[str]] = []
        ports = free_ports(count)
        environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        environment.pop("TF_CONFIG", None)
        for index in range(count):
            usual = {
                "index": index,
                "ports": ports,
                "folder": str(folder),
                "name": f"worker-{index}",
                "shift": shifts[index],
                "epochs": 3,
                "keeps_run": False,
                "steps_a_call": 32,
                "announces": False,
            }
            file = folder / f"plan-{index}.json"
            file.write_text(json.dumps({**usual, **plan}), encoding="utf-8")
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.distribution.worker", str(file)],
                    cwd=ROOT,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=(folder / f"error-{index}.txt").open("w"),
                    text=True,
                )
            )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def wait_for_step(self, step: int | None) -> None:
        """Wait until the first process says that so many steps are done; `None` for any."""
        stdout = self.processes[0].stdout
        assert stdout is not None
        for line in stdout:
            said = line.strip()
            if said == f"step {step}" or (step is None and said.startswith("step ")):
                return
        raise AssertionError(self.said(0))

    def ended(self, timeout_secs: float = TIMEOUT_SECS) -> list[int]:
        """Wait for all of them, and return their exit statuses."""
        until = time.monotonic() + timeout_secs
        return [p.wait(max(0.1, until - time.monotonic())) for p in self.processes]

    def said(self, index: int) -> str:
        """Return what a process wrote to stderr."""
        return (self.folder / f"error-{index}.txt").read_text(encoding="utf-8")

    def result(self, index: int) -> dict[str, np.ndarray]:
        """Return what a process came to."""
        with np.load(self.folder / f"worker-{index}.npz") as arrays:
            return dict(arrays)
