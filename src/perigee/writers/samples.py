"""Samples as files: images and texts that a step logged, also used by the report."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perigee._disk import check_folder, make_above, make_folder, within
from perigee._events.events import Hook, Recorded, Started
from perigee._events.stored_shapes import count, dict_of, fields, list_of, row, text
from perigee.writers._appended import is_lasting
from perigee.writers._replaced import replace_file

DIRECTORY_NAME = "samples"

MOST_KEPT = 50
"""The most files per name; beyond it every second one is removed, but never the last."""

_KEPT = dict_of(row(count(), list_of(row(count(), text))))
_FILE = re.compile(r"step-([0-9]{8,19})\.(png|json|histograms)(\.[0-9a-f]{32}\.tmp)?")


class SampleFiles(Hook):
    """Write what `pg.sample` logged to `samples/<name>/step-00000412.png`, texts as `.json`.

    A resumed run keeps exactly the files from before the checkpoint. Files of other names, and
    those in the other directories, stay.

    Args:
        directory: The run directory, which must exist when training starts.
    """

    may_lag = True

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._place = within(directory, DIRECTORY_NAME)
        # By name: how many there were, and for each that is kept its index and its file.
        self._counts: dict[str, int] = {}
        self._kept: dict[str, dict[int, str]] = {}
        self._lasting: str = self._encoded()
        self._is_cut_due = False

    @property
    def path(self) -> Path:
        """The directory of the samples, wherever it is now."""
        return Path(self._place)

    def on_start(self, event: Started) -> None:
        """Remove files from after the checkpoint from which the run resumes.

        Raises:
            FileKindError: If one of the directories is a link or a file.
        """
        check_folder(self.path)
        if not self._is_cut_due:
            return
        self._is_cut_due = False
        known = {self.path / file for files in self._kept.values() for file in files.values()}
        for path in sample_files(self.path):
            if path not in known and _step(path) >= event.clock.step:
                path.unlink()

    def on_record(self, event: Recorded) -> None:
        """Write the samples of an epoch or a validation."""
        for name, shown in event.samples.items():
            folder = quote(name, safe=" ").strip(".") or "_"
            file = f"{folder}/step-{event.clock.step:08d}{shown.suffix}"
            target = self.path / file
            make_above(self._place)
            make_folder(self.path)
            make_folder(target.parent)
            replace_file(target, shown.content())
            self._keep(name, file)
        if event.samples and is_lasting(event):
            self._lasting = self._encoded()

    def state(self) -> dict[str, Any]:
        """Return which files to keep; they are on the disk."""
        return {"kept": self._lasting}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue with the files that existed at `state`, from the next start."""
        fields({"kept": text})(state, "samples")
        stored = json.loads(state["kept"])
        _KEPT(stored, "samples/kept")
        self._counts = {name: seen for name, (seen, _) in stored.items()}
        self._kept = {
            name: {index: file for index, file in files if _is_inside(file)}
            for name, (_, files) in stored.items()
        }
        self._lasting = self._encoded()
        self._is_cut_due = True

    def _keep(self, name: str, file: str) -> None:
        kept = self._kept.setdefault(name, {})
        index = self._counts.get(name, 0)
        if kept and kept[max(kept)] == file:  # recorded again at the same step
            return
        self._counts[name] = index + 1
        kept[index] = file
        distance = 1
        while len([i for i in range(index + 1) if i % distance == 0 or i == index]) > MOST_KEPT:
            distance *= 2
        for old in [i for i in kept if i % distance and i != index]:
            (self.path / kept.pop(old)).unlink(missing_ok=True)

    def _encoded(self) -> str:
        # As text, since a checkpoint allows no numbers as keys.
        return json.dumps(
            {name: [self._counts[name], [*files.items()]] for name, files in self._kept.items()}
        )


def sample_files(directory: Path) -> list[Path]:
    """Return the files that this class has written to a directory, following no links."""
    found: list[Path] = []
    try:
        for folder in os.scandir(directory):
            if folder.is_dir(follow_symlinks=False):
                found += (Path(each) for each in os.scandir(folder) if _FILE.fullmatch(each.name))
    except (FileNotFoundError, NotADirectoryError):
        pass
    return sorted(found)


def _step(path: Path) -> int:
    return int(path.name.split(".")[0].removeprefix("step-"))


def _is_inside(file: str) -> bool:
    """Return whether a stored name is one that is written here, and leads nowhere else."""
    folder, _, name = file.partition("/")
    return folder not in ("", ".", "..") and bool(_FILE.fullmatch(name))
