"""Processes to be killed, forked from one that has imported everything and started nothing.

Importing a framework takes seconds, and starting it is what a fork does not survive. So one process
imports the trainings and stays with its only thread; each case is a child of it.
"""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_SECS = 300

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.reliability.trainings"])


@dataclass(frozen=True)
class Ending:
    """How a process ended.

    Attributes:
        code: Its exit status; a signal that ended it, negative.
        value: What its function returned, through JSON; `None` where it did not.
        output: What it wrote to stdout and stderr.
    """

    code: int
    value: Any
    output: str

    def returned(self) -> Any:
        """Return the value of a process that must have come to its end."""
        assert self.code == 0, self.output
        return self.value

    def was_killed(self) -> bool:
        """Tell whether SIGKILL ended it; any other end is an error of the test."""
        assert self.code in (0, -signal.SIGKILL), self.output
        return self.code == -signal.SIGKILL


class Child:
    """A function that runs in a process of its own; to be used with `with`.

    Args:
        folder: What it writes is kept in here.
        function: At the top of a module.
        arguments: To be pickled.
    """

    def __init__(self, folder: Path, function: Callable[..., Any], *arguments: Any) -> None:
        number = len(list(folder.glob("*.output")))
        self._value, self._output = folder / f"{number}.value", folder / f"{number}.output"
        self._output.touch()
        files = str(self._value), str(self._output)
        self._process = _forks.Process(target=_run, args=(*files, function, arguments))

    def __enter__(self) -> "Child":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()  # one that has ended is left alone
        self._process.join()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL; a process that has ended already is left alone."""
        self._process.kill()

    def is_running(self) -> bool:
        return self._process.exitcode is None

    def output(self) -> str:
        return self._output.read_text()

    def ending(self, most_seconds: float = TIMEOUT_SECS) -> Ending:
        self._process.join(most_seconds)
        assert self._process.exitcode is not None, f"It still runs. {self.output()}"
        value = json.loads(self._value.read_text()) if self._value.exists() else None
        return Ending(self._process.exitcode, value, self.output())


def run(
    folder: Path,
    function: Callable[..., Any],
    *arguments: Any,
    most_seconds: float = TIMEOUT_SECS,
) -> Ending:
    """Run a function in a process of its own and wait for the end."""
    with Child(folder, function, *arguments) as child:
        return child.ending(most_seconds)


def _run(value: str, output: str, function: Callable[..., Any], arguments: Any) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    Path(value).write_text(json.dumps(function(*arguments)))
