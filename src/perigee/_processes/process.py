"""Which process writes to a run directory, as its lock says."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

LOCK_NAME = "run.lock"

_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Process:
    """Which process, on which machine.

    Attributes:
        pid: Its number, which the system gives to others later.
        host: The name of the machine.
        began: Boot of the machine and ticks since then at which the process began, which tells it
            from others of the same number; empty where the system does not say.
    """

    pid: int
    host: str
    began: str

    @classmethod
    def current(cls) -> Self:
        """Return the process that asks."""
        pid = os.getpid()
        return cls(pid, socket.gethostname(), _began(pid))

    def may_live(self) -> bool:
        """Tell whether it lives, as far as this machine can tell."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it lives, and is someone else's
        return self.began == _began(self.pid)


def read_process(path: Path) -> Process | None:
    """Return the process that a file names; `None` if it names none."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(_MOST_BYTES))
        pid, host, began = said["pid"], said["host"], said["began"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(pid) is not int or not 0 < pid < 2**31:
        return None
    return Process(pid, str(host), str(began))


def _began(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        # Its second field is the name of the program, in parentheses, with anything in it.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return f"{boot}+{fields[19].decode('ascii')}"
