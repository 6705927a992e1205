"""What failed to be written in a run: counted, and said once for each cause."""

import threading
import warnings
from collections.abc import Mapping


class Failures:
    """Counts failures by what failed, and warns of each cause once until it is over.

    Failures of threads are said by the training thread, when it calls `tell`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, int]] = {}
        self._causes: dict[str, object] = {}
        self._waiting: list[str | Exception] = []

    @property
    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """By what failed: how often it `"failed"`, and how many records are `"lost"`; live."""
        return self._counts

    def failed(self, name: str, error: OSError, text: str) -> None:
        """Count a failure, and keep a warning unless its cause is known.

        Args:
            name: What failed.
            error: Why.
            text: The warning.
        """
        cause = error.errno or str(error)
        with self._lock:
            self._entry(name)["failed"] += 1
            if cause not in self._causes.values():
                self._waiting.append(text)
            self._causes[name] = cause

    def count(self, name: str) -> None:
        """Count a failure that is over already."""
        with self._lock:
            self._entry(name)["failed"] += 1

    def works(self, name: str) -> None:
        """Take note that something works: when it fails again, that is said again."""
        with self._lock:
            self._causes.pop(name, None)

    def lose(self, name: str, count: int) -> None:
        """Set how many records of a writer are lost."""
        if count or name in self._counts:
            self._entry(name)["lost"] = count

    def load(self, name: str, counts: Mapping[str, int]) -> None:
        """Continue from counts of the part of the run before."""
        if any(counts.values()):
            self._counts[name] = {key: int(counts[key]) for key in ("failed", "lost")}

    def say(self, text: str | Exception) -> None:
        """Keep a warning, or an error to be raised, for the training thread."""
        with self._lock:
            self._waiting.append(text)

    def tell(self) -> None:
        """Issue the warnings, and raise the first error, that were kept.

        Raises:
            Exception: An error that a thread kept.
        """
        while self._waiting:
            with self._lock:
                text = self._waiting.pop(0)
            if isinstance(text, Exception):
                raise text
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def _entry(self, name: str) -> dict[str, int]:
        return self._counts.setdefault(name, {"failed": 0, "lost": 0})
