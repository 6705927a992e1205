"""Processes that train together on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from perigee._cli.launching import environments

ROOT = Path(__file__).parents[2]
PROCESSES = 2
TIMEOUT_SECS = 600
_LOOK_SECS = 0.05

_OF_JAX = {
    # With several threads, two starts of the same processes may part by a rounding.
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    # The same programs are compiled again and again.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


class Together:
    """Processes that train together; to be used with `with`.

    Args:
        folder: For their files.
        names: What they do, one after another: functions of `tests.distribution.trainings`.
        framework: That they run on.
    """

    def __init__(self, folder: Path, *names: str, framework: str) -> None:
        self.folder = folder
        self._outputs = [folder / f"output-{time.monotonic_ns()}-{i}" for i in range(PROCESSES)]
        settings = {
            "KERAS_BACKEND": framework,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            **_OF_JAX,
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.distribution.worker", str(folder), *names],
                cwd=ROOT,
                env={**os.environ, **settings, **variables},
                stdout=output.open("w"),
                stderr=subprocess.STDOUT,
            )
            for output, variables in zip(self._outputs, environments(PROCESSES), strict=True)
        ]

    def __enter__(self) -> Together:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()  # one that has ended is left alone
            process.wait()

    def outputs(self) -> list[str]:
        """Return what each of them has written so far."""
        return [output.read_text(encoding="utf-8") for output in self._outputs]

    def wait(self) -> None:
        """Wait until all of them have come to their end."""
        codes = [process.wait(TIMEOUT_SECS) for process in self.processes]
        assert codes == [0] * PROCESSES, self.outputs()

    def wait_for_a_step(self) -> None:
        """Wait until the first of them says that a step is done, or has ended."""
        while self.processes[0].poll() is None and "step " not in self.outputs()[0]:
            time.sleep(_LOOK_SECS)

    def file(self, name: str, index: int, kind: str = "json") -> Path:
        """Return where a process has written what it came to."""
        return self.folder / f"{name}-{index}-of-{PROCESSES}.{kind}"

    def returned(self, name: str) -> list[Any]:
        """Return what each process wrote down."""
        self.wait()
        paths = [self.file(name, index) for index in range(PROCESSES)]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
