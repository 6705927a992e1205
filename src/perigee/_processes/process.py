"""The process that writes to a run directory, as recorded in its lock."""

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from perigee._disk import read_file

LOCK_NAME = "run.lock"

_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Process:
    """A process on a machine.

    Attributes:
        pid: Its process id, which the system may reuse.
        host: The name of the machine.
        began: The boot id of the machine and the ticks from boot to the start of the process, which
            distinguish it from others with the same id; empty if the system does not provide them.
    """

    pid: int
    host: str
    began: str

    @classmethod
    def current(cls) -> Self:
        """Return the current process."""
        pid = os.getpid()
        return cls(pid, socket.gethostname(), _began(pid))

    def may_live(self) -> bool:
        """Return whether it may be running; true if that cannot be known here."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it runs, and belongs to another user
        return self.began == _began(self.pid)


def read_process(path: Path) -> Process | None:
    """Return the process that a file names; `None` if it names none."""
    try:
        said = json.loads(read_file(path, _MOST_BYTES))
        pid, host, began = said["pid"], said["host"], said["began"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    if type(pid) is not int or not 0 < pid < 2**31:
        return None
    return Process(pid, str(host), str(began))


def _began(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        # Its second field is the program name in parentheses, which may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return f"{boot}+{fields[19].decode('ascii')}"
