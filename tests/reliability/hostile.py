"""Run directories that somebody wrote who means harm, and every way to read one.

    python -m tests.reliability.hostile [--count 100] [--seed 0]

Each directory begins as that of a real training, and is then changed: what its files say, in types,
sizes and numbers, under the right checksums, or the files themselves. Reading it may succeed, or
fail with an error of Perigee's. It must write nothing outside the directory, raise nothing else,
take little memory and time, set no attribute of the program's objects but as a callback's state
allows, and believe no number that no training has. Exits with 1 if any of this fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from typer.testing import CliRunner

import perigee as pg
from perigee._cli.main import app
from perigee._errors import PerigeeError
from perigee.checkpoints import _files

ROWS, BATCH, EPOCHS = 12, 4, 2
STEPS_AN_EPOCH = ROWS // BATCH
MOST_BYTES = 256 * 2**20
MOST_SECONDS = 20.0
MANIFEST, STATE, POSITION = "manifest.json", "state.safetensors", "data/position.json"

# What is trained.


class Counting(keras.callbacks.Callback):
    """A callback of a user's, with things that no file may change."""

    def __init__(self, path="kept.txt", patience=2):
        super().__init__()
        self.path, self.patience, self.secret = path, patience, "secret"
        self.command = print
        self.seen, self.table, self.names = 0, {}, set()

    def on_epoch_end(self, epoch, logs=None):
        self.seen += 1
        self.table[epoch] = logs["loss"]
        self.names.add(f"epoch {epoch}")


class Stating(keras.callbacks.Callback):
    """A callback that says itself what it keeps."""

    def __init__(self):
        super().__init__()
        self.held = {"counts": [0]}

    def on_epoch_end(self, epoch, logs=None):
        self.held["counts"].append(epoch)

    def state(self):
        return self.held

    def load_state(self, state):
        self.held = {"counts": [int(count) for count in state["counts"]]}


class Watching(pg.Hook):
    """A hook with a state."""

    every = pg.Every(steps=2)

    def __init__(self):
        self.steps = []

    def on_steps(self, event):
        self.steps.append(event.clock.step)

    def state(self):
        return {"steps": self.steps}

    def load_state(self, state):
        self.steps = [int(step) for step in state["steps"]]


class Line(pg.Step):
    """A model with a metric, a sample and numbers of its own; eager, so that it starts at once."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.model = keras.Sequential(
            [keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dropout(0.2)]
        )
        self.optimizer = keras.optimizers.Adam(0.01)
        self.error = keras.metrics.Mean(name="error")
        self.buffer = [0.0]

    def train_step(self, batch):
        loss = self.minimize(
            lambda: keras.ops.mean(keras.ops.square(self.model(batch, training=True))),
            self.optimizer,
        )
        self.error.update_state(loss)
        return {"loss": loss}

    def test_step(self, batch):
        image = keras.ops.zeros((1, 4, 4, 1))
        loss = keras.ops.mean(keras.ops.square(self.model(batch)))
        return {"loss": loss, "shown": pg.sample(image=image)}

    def host_state(self):
        return {"buffer": self.buffer}

    def load_host_state(self, state):
        self.buffer = [float(each) for each in state["buffer"]]


def rows() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(ROWS, 2)).astype("float32")


def batches() -> Iterator[np.ndarray]:
    yield from rows().reshape(STEPS_AN_EPOCH, BATCH, 2)


def data(kind: str) -> Any:
    return {"arrays": rows(), "list": list(batches()), "generator": batches}[kind]


def callbacks() -> list[Any]:
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    return [Counting(), Stating(), stopping, keras.callbacks.ReduceLROnPlateau("loss"), Watching()]


def train(path: Path, kind: str, epochs: int = EPOCHS, **more: Any) -> tuple[Any, Any, list[Any]]:
    step, called = Line(), callbacks()
    history = pg.fit(
        step,
        data(kind),
        epochs=epochs,
        validation=rows(),
        callbacks=[*called, *more.pop("hooks", ())],
        execution="eager",
        progress="off",
        run=pg.Run(path, best="val_loss", record_every=pg.Every(steps=1), tensorboard=True),
        **({"batch_size": BATCH, "seed": 4} if kind == "arrays" else {}),
    )
    return step, history, called


class Cut(pg.Hook):
    """Leaves the training in its second epoch, as a `Preemption` does."""

    every = pg.Every(steps=STEPS_AN_EPOCH + 1)

    def on_steps(self, event):
        event.stop("deadline")


def originals(folder: Path) -> dict[str, Path]:
    """Train once for each kind of data; return the directories."""
    made = {}
    for kind in ("arrays", "list", "generator"):
        train(folder / kind, kind, hooks=[Cut()])
        made[kind] = folder / kind
    (folder / "arrays/samples/words").mkdir()
    (folder / "arrays/samples/words/step-00000003.json").write_text('["one", "two"]')
    (folder / "arrays/samples/bars").mkdir()
    bars = {"kernel": {"edges": [0.0, 1.0, 2.0], "counts": [1, 2]}}
    (folder / "arrays/samples/bars/step-00000003.histograms").write_text(json.dumps(bars))
    (folder / "arrays/profile").mkdir()
    (folder / "arrays/profile/profile.json").write_text(json.dumps(PROFILE))
    return made


PROFILE = {
    "spent": {"device": 1.0, "data": 0.5},
    "step_seconds": 0.1,
    "traced": [1, 2],
    "directory": "profile",
    "first_step_seconds": 0.2,
    "operations": 1e9,
    "matrix_size": 128,
    "dtype": "float32",
    "matrix_rate": 1e10,
    "utilization": 0.1,
}

# What is changed.

HUGE = 10**4000
WORDS = [
    *("", "x" * 300_000, "../../outside.txt", "/etc/passwd", "\0", "a\0b", "\ud800", "\u202e<b>"),
    *("<script>alert(1)</script>", "nan", "Infinity", "1e999", "__class__", "os.system", "\r\n"),
]
NUMBERS = [
    *(-1, 0, 1, -(2**63), 2**31, 2**53 + 1, 2**63, 2**64, 2**80, HUGE, -HUGE),
    *(-0.5, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
]
TREES: list[Any] = [
    *(None, True, False, [], {}, [[]], [None], {"": {}}, [1] * 50_000, {"a": {"b": [{}]}}),
    *({"$array": "0"}, {"$array": "99"}, {"$float": "nan"}, {"$float": "1"}, {"$object": "os"}),
    *({"is": "path", "of": "/etc/passwd"}, {"is": "list", "of": 5}, {"is": "os.system", "of": []}),
    {"is": "deque", "of": [1], "maxlen": 2**70},
    {"is": "defaultdict", "keys": [], "of": [], "factory": "os.system"},
    {"is": "dict", "keys": {"is": "list", "of": [{"is": "list", "of": []}]}, "of": {"is": "list"}},
    {"is": "array", "of": {"$array": "0"}, "dtype": "|O8", "shape": [2**40]},
    {"is": "array", "of": {"$array": "0"}, "dtype": "<U999999999", "shape": [2**40, 0]},
]


def deep(levels: int) -> Any:
    made: Any = 0
    for level in range(levels):
        made = [made] if level % 2 else {"x": made}
    return made


def harmful(draw: random.Random) -> Any:
    kind = draw.choice(("word", "number", "number", "tree", "deep"))
    if kind == "deep":
        return deep(draw.choice((30, 70, 800)))
    return draw.choice({"word": WORDS, "number": NUMBERS, "tree": TREES}[kind])


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value, the first of long lists only."""
    if path:
        yield path
    pairs: Any = ()
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, list):
        pairs = enumerate(tree[:3])
    for key, value in pairs:
        yield from places(value, (*path, key))


def changed(tree: Any, draw: random.Random) -> str:
    """Change one value in place, shallow ones more often; return what."""
    found = list(places(tree))
    levels = sorted({len(path) for path in found})
    level = draw.choice(levels[: draw.randint(1, len(levels))])
    *outer, last = draw.choice([path for path in found if len(path) == level])
    held = tree
    for key in outer:
        held = held[key]
    way = draw.choice(("set", "set", "set", "set", "remove", "add", "swap"))
    name = "/".join(map(str, (*outer, last)))
    if way == "remove":
        del held[last]
    elif way == "add" and isinstance(held, dict):
        held[draw.choice(WORDS)[:100] + "more"] = harmful(draw)
    elif way == "swap" and isinstance(held, dict):
        other = draw.choice(list(held))
        held[last], held[other] = held[other], held[last]
    else:
        held[last] = value = harmful(draw)
        return f"{name} = {short(value)}"
    return f"{way} {name}"


def short(value: Any) -> str:
    if isinstance(value, int) and abs(value) > 2**100:
        return "a number of 4000 digits"
    try:
        return ascii(value)[:60]
    except RecursionError:
        return "deep"


def encoded(value: Any) -> bytes:
    """Return JSON with numbers that JSON does not have, and with whatever is in strings."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(value).encode("ascii")
    finally:
        sys.set_int_max_str_digits(limit)


class Directory:
    """A run directory to be changed.

    Args:
        path: Where it is.
        draw: Draws.
    """

    def __init__(self, path: Path, draw: random.Random) -> None:
        self.path, self.draw = path, draw

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("step-*"))

    def newest(self) -> Path:
        return self.checkpoints[-1]

    def seal(self, place: Path, said: dict[str, Any]) -> None:
        """Write a manifest with its right checksum."""
        said.pop("checksum", None)
        digest = _files.checksum_of([encoded(said)])
        (place / MANIFEST).write_bytes(encoded({**said, "checksum": digest}))

    def put(self, place: Path, name: str, content: bytes) -> None:
        """Write a file of a checkpoint, with the right size and checksum in the manifest."""
        (place / name).write_bytes(content)
        said = json.loads((place / MANIFEST).read_bytes())
        stamp = {"size_bytes": len(content), "checksum": _files.checksum_of([content])}
        said["files"][name] = stamp
        self.seal(place, said)

    def rewrite(self, name: str) -> str:
        """Change a JSON file that has no checksum."""
        path = self.path / name
        tree = json.loads(path.read_bytes())
        said = changed(tree, self.draw)
        path.write_bytes(encoded(tree))
        return said

    # Each of these is one way to change a directory, and returns what it did.

    def facts(self) -> str:
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        told = changed(said["facts"], self.draw)
        self.seal(place, said)
        return told

    def all_facts(self) -> str:
        """Change the same fact of every checkpoint, so that there is none to fall back to."""
        state = self.draw.getstate()
        told = ""
        for place in self.checkpoints:
            self.draw.setstate(state)
            said = json.loads((place / MANIFEST).read_bytes())
            told = changed(said["facts"], self.draw)
            self.seal(place, said)
        return told

    def loop(self) -> str:
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        told = changed(said["facts"]["loop"], self.draw)
        self.seal(place, said)
        return told

    def callbacks(self) -> str:
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        told = changed(said["facts"]["loop"]["callbacks"], self.draw)
        self.seal(place, said)
        return told

    def attributes(self) -> str:
        """Let a callback's state name attributes that it must not set."""
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        name = self.draw.choice(
            ["path", "patience", "secret", "command", "__class__", "on_epoch_end", "_model", "seen"]
        )
        value = self.draw.choice([harmful(self.draw), 1, "text", {"is": "path", "of": "/x"}])
        entry = said["facts"]["loop"]["callbacks"][0]
        entry["attributes"][name] = value
        if self.draw.random() < 0.3:  # as it was before kinds were stored
            said["facts"]["loop"]["callbacks"][0] = [entry["class"], entry["attributes"]]
        self.seal(place, said)
        return f"{name} = {short(value)}"

    def manifest(self) -> str:
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        told = changed({k: said[k] for k in ("clock", "monitored", "files")}, self.draw)
        top = {k: said[k] for k in ("clock", "monitored", "files", "format_version")}
        told = changed(top, self.draw)
        self.seal(place, {**{k: v for k, v in said.items() if k not in top}, **top})
        return told

    def clocks(self) -> str:
        """Let a clock say what no training has."""
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        step = said["clock"]["step"]
        said["clock"] |= self.draw.choice(
            [
                {"epoch": step + 1},
                {"epoch": 10**6},
                {"batch": step + 1},
                {"epoch": step, "batch": step},
                {"batch": 2**62},
                {"epoch": 2**62, "batch": 0},
            ]
        )
        self.seal(place, said)
        return str(said["clock"])

    def far(self) -> str:
        """Rename a checkpoint to a step that nothing reached."""
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        step = self.draw.choice([10**8, 2**53, 2**62, 2**63 - 1])
        said["clock"] = {"step": step, "epoch": step // 3, "batch": step % 3}
        self.seal(place, said)
        place.rename(place.with_name(f"step-{step:08d}"))
        return str(step)

    def position(self) -> str:
        place = self.newest()
        tree = json.loads((place / POSITION).read_bytes())
        told = changed(tree, self.draw)
        self.put(place, POSITION, encoded(tree))
        return told

    def counts(self) -> str:
        """Let a position lie beyond the data."""
        place = self.newest()
        tree = json.loads((place / POSITION).read_bytes())
        name, count = self.draw.choice(["passes", "batches"]), self.draw.choice([50, 2**40, 2**62])
        tree[name] = count
        self.put(place, POSITION, encoded(tree))
        return f"{name} = {count}"

    def arrays(self) -> str:
        """Let the header of the state lie about kinds, shapes and places."""
        place = self.newest()
        content = (place / STATE).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        name = self.draw.choice(list(header))
        entry, way = header[name], self.draw.randrange(5)
        if way == 0:
            entry["dtype"] = self.draw.choice(["F64", "I32", "U8", "BOOL", "PICKLE", None])
        elif way == 1:
            entry["shape"] = self.draw.choice([[2**40, 2**20], [-1], [0], [2.5], "x", [1] * 40])
        elif way == 2:
            entry["data_offsets"] = self.draw.choice([[0, 2**50], [-8, 0], [8, 0], ["0", "4"]])
        elif way == 3:
            header[self.draw.choice(WORDS)[:50]] = header.pop(name)
        else:
            changed(header, self.draw)
        raw = encoded(header)
        self.put(place, STATE, len(raw).to_bytes(8, "little") + raw + content[8 + size :])
        return f"{name}, way {way}"

    def numbers(self) -> str:
        """Let the state hold numbers that are not finite, and counters that are not counts."""
        place = self.newest()
        content = bytearray((place / STATE).read_bytes())
        size = int.from_bytes(content[:8], "little")
        value = self.draw.choice([b"\xff", b"\x7f", b"\x00"])
        content[8 + size :] = value * (len(content) - 8 - size)
        self.put(place, STATE, bytes(content))
        return f"all bytes {value!r}"

    def run_json(self) -> str:
        return self.rewrite("run.json")

    def records(self) -> str:
        path = self.path / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        line = self.draw.choice(lines)
        told = changed(line, self.draw)
        path.write_bytes(b"".join(encoded(line) + b"\n" for line in lines))
        return told

    def raw_records(self) -> str:
        text = self.draw.choice(
            [
                b"[]\n",
                b"\xff\xfe\n",
                b"[" * 100_000 + b"\n",
                b'{"kind": "epoch", "step": 1, "step": 2, "epoch": 1, "seconds": 1}\n',
                b'{"kind": "epoch", "values": {"loss": null}, "nonfinite": {"loss": "x"}}\n',
                b'{"kind": "epoch", "values": [], "nonfinite": {"loss": "nan"}}\n',
                b'{"nonfinite": 5}\n',
                b'{"kind": "epoch", "step": -5, "epoch": -1, "seconds": -1, "values": {"a": 1}}\n',
                b"9" * 5000 + b"\n",
                b"",
            ]
        )
        path = self.path / "metrics.jsonl"
        place = self.draw.choice(["before", "after", "alone"])
        old = path.read_bytes()
        path.write_bytes({"before": text + old, "after": old + text, "alone": text}[place])
        return f"{text[:40]!r} {place}"

    def samples(self) -> str:
        names = ["samples/words/step-00000003.json", "samples/bars/step-00000003.histograms"]
        name = self.draw.choice([*names, "profile/profile.json"])
        if not (self.path / name).exists():
            return self.run_json()
        if self.draw.random() < 0.3:
            (self.path / name).write_bytes(
                self.draw.choice(
                    [b"", b"\xff\xfe", b"[" * 100_000, b'{"a": 1, "a": 2}', b"9" * 5000]
                )
            )
            return f"{name}, other bytes"
        return f"{name}: {self.rewrite(name)}"

    def lock(self) -> str:
        said = self.draw.choice(
            [
                {"pid": 1, "host": "elsewhere", "began": ""},
                {"pid": 2**31, "host": "x", "began": ""},
                {"pid": -1, "host": None, "began": []},
                {"pid": HUGE},
                {"pid": harmful(self.draw), "host": harmful(self.draw), "began": 1},
            ]
        )
        (self.path / "run.lock").write_bytes(encoded(said))
        return short(said)

    def links(self) -> str:
        """Put a link, a directory or a pipe in the place of a file or a directory."""
        place = self.newest().relative_to(self.path)
        name = self.draw.choice(
            [
                *("run.json", "metrics.jsonl", "run.lock", "report.html", "samples", "events"),
                *(
                    "samples/link.png",
                    "samples/shown/step-00000099.png",
                    "checkpoints/step-00000099",
                ),
                *(
                    f"{place}/{MANIFEST}",
                    f"{place}/{STATE}",
                    f"{place}/data",
                    f"{place}/{POSITION}",
                ),
                *(str(place), "abandoned-1", "profile"),
            ]
        )
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        way = self.draw.choice(["file", "directory", "nothing", "pipe", "itself"])
        if way == "pipe":
            os.mkfifo(path)
        else:
            outside = self.path.parent / "outside"
            target = {"file": outside / "notes.txt", "directory": outside, "itself": path}
            path.symlink_to(target.get(way, outside / "nothing"))
        return f"{name} -> {way}"

    def names(self) -> str:
        """Add files with names that nobody expects."""
        name = self.draw.choice(
            [
                "checkpoints/step-99999999999999999999",
                "checkpoints/step-00000000",
                "checkpoints/step-\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661",
                "checkpoints/unfinished-00000001.00000000000000000000000000000000.tmp",
                "checkpoints/replaced-00000009.old",
                "samples/%2e%2e%2foutside/step-00000001.json",
                "samples/a/step-\u00b2.json",
                "samples/a/step-99999999999999999999999.png",
                f"samples/{'9' * 200}/step-{'9' * 200}.json",
                "samples/\udcff/step-00000001.json",
            ]
        )
        path = self.path / name
        if name.startswith("samples"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b'["text"]')
        else:
            shutil.copytree(self.newest(), path, dirs_exist_ok=True)
        return ascii(name)[:80]

    def written(self) -> str:
        """Let the states of the writers name other sizes and files."""
        place = self.newest()
        said = json.loads((place / MANIFEST).read_bytes())
        hooks = said["facts"]["loop"]["hooks"]
        [writers] = [state for name, state in hooks if name == "Writers"]
        name = self.draw.choice(list(writers))
        own = writers[name]["writer"]
        if name == "metrics":
            own["size_bytes"] = self.draw.choice([-1, 0, 7, 2**62, HUGE, "5", None])
        elif name == "events":
            own["size_bytes"] = {
                self.draw.choice(["../../outside/notes.txt", "/etc/passwd", "x", "\0", "events/a"]):
                self.draw.choice([0, -1, 2**62, "x"])
            }  # fmt: skip
        else:
            stored = {
                "shown": [1, [[0, self.draw.choice(["../../outside/notes.txt", "/a", "\0"])]]]
            }
            own["kept"] = self.draw.choice(
                [json.dumps(stored), "[" * 100_000, 5, '{"a": 1}', '{"a": [1, [["x", 1]]]}']
            )
        self.seal(place, said)
        return f"{name}: {short(own)}"


WAYS: list[Callable[[Directory], str]] = [
    *(Directory.facts, Directory.facts, Directory.all_facts, Directory.loop, Directory.loop),
    *(Directory.callbacks, Directory.callbacks, Directory.attributes, Directory.attributes),
    *(Directory.manifest, Directory.clocks, Directory.far, Directory.position, Directory.position),
    *(Directory.counts, Directory.arrays, Directory.arrays, Directory.numbers, Directory.run_json),
    *(Directory.run_json, Directory.run_json, Directory.records, Directory.records),
    *(Directory.raw_records, Directory.samples, Directory.samples, Directory.lock),
    *(Directory.links, Directory.links, Directory.links, Directory.names, Directory.written),
    Directory.written,
]

# What reads it.


def resumes(path: Path, kind: str) -> None:
    step, history, called = train(path, kind, epochs=3)
    clock = history.clock
    if not is_clock(clock) or (history.resumed_from and not is_clock(history.resumed_from)):
        raise Believed(f"the clock {clock}, resumed from {history.resumed_from}")
    if clock.step > 10**8:
        raise Believed(f"the clock {clock}")
    if history.epoch != list(range(len(history.epoch))):
        raise Believed(f"the epochs {short(history.epoch)}")
    for name, values in history.history.items():
        if not isinstance(name, str) or not all(type(value) is float for value in values):
            raise Believed(f"a history with {short(name)}: {short(values)}")
    look_at(called, step)


def look_at(called: list[Any], step: Any) -> None:
    """Raise if an attribute of the program's objects is not what the program says."""
    counting, _, stopping, reducing, _ = called
    own = callbacks()
    for now, then in zip(called, own, strict=True):
        extra = vars(now).keys() - vars(then).keys() - ASSIGNED
        if extra:
            raise Believed(f"attributes {sorted(map(short, extra))} of {type(now).__name__}")
    fixed = {
        counting: ("path", "patience", "secret", "command", "__class__", "on_epoch_end"),
        stopping: ("monitor", "patience", "restore_best_weights", "__class__"),
        reducing: ("monitor", "factor", "min_lr", "patience", "__class__"),
    }
    for one, (now, names) in zip(
        (own[0], own[2], own[3]), ((k, v) for k, v in fixed.items()), strict=True
    ):
        for name in names:
            ours, theirs = getattr(now, name), getattr(one, name)
            ours, theirs = (getattr(each, "__func__", each) for each in (ours, theirs))
            if ours is not theirs and ours != theirs:
                raise Believed(f"{type(now).__name__}.{name} = {short(ours)}")
    if type(counting.seen) is not int or not isinstance(counting.table, dict):
        raise Believed(f"other types: {short(counting.seen)}, {short(counting.table)}")
    if extra := vars(step).keys() - vars(Line()).keys() - {"_perigee"}:
        raise Believed(f"attributes {sorted(extra)} of the Step")


ASSIGNED = {"stopped_epoch", "best", "best_weights", "best_epoch", "wait", "_model", "params"}


def is_clock(clock: Any) -> bool:
    counts = clock.step, clock.epoch, clock.batch
    return (
        all(type(c) is int and c >= 0 for c in counts) and clock.epoch + clock.batch <= clock.step
    )


def restores(path: Path, kind: str) -> None:
    steps = [int(p.name[5:]) for p in (path / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    for which in ("newest", "best", *steps[:3]):
        step = Line()
        pg.evaluate(step, rows(), batch_size=BATCH, execution="eager")
        try:
            clock = pg.Run(path, best="val_loss").restore(step, which, strict=False)
        except PerigeeError:
            continue
        if not is_clock(clock):
            raise Believed(f"the clock {clock} of {which}")


def prepares(path: Path, kind: str) -> None:
    with pg.prepare(Line(), run=path, execution="eager", progress="off") as trainer:
        if trainer.goes_on(steps=5):
            trainer.train_step(rows()[:BATCH])
    if not is_clock(trainer.clock):
        raise Believed(f"the clock {trainer.clock}")


def reports(path: Path, kind: str) -> None:
    command("report", path)


def reports_two(path: Path, kind: str) -> None:
    command("report", path, path.parent / "good", "-o", path / "both.html")


def lists(path: Path, kind: str) -> None:
    command("runs", path.parent)
    command("runs", path.parent, "--sort", "loss")


def shows(path: Path, kind: str) -> None:
    pg.Run(path)._repr_html_()


def evaluates(path: Path, kind: str) -> None:
    for more in ((), ("--which", "best", "--best", "val_loss")):
        command("evaluate", path.parent / "experiment.py", "--run", path, *more)


def fits(path: Path, kind: str) -> None:
    command("fit", path.parent / "experiment.py", "--run", path, "--progress", "off")


def command(*arguments: Any) -> None:
    """Run a command; raise what it did not answer."""
    answer = CliRunner().invoke(app, [str(each) for each in arguments], prog_name="perigee")
    if answer.exit_code == 1 or (answer.exception and not isinstance(answer.exception, SystemExit)):
        if isinstance(answer.exception, Exception):
            raise answer.exception
        raise RuntimeError(answer.output[-1500:])


READERS: list[Callable[[Path, str], None]] = [
    *(reports, reports_two, lists, shows, restores, evaluates, prepares, resumes, fits)
]

EXPERIMENT = """
import perigee as pg
from tests.reliability import hostile

experiment = pg.Experiment(
    hostile.Line,
    data=hostile.rows,
    validation=hostile.rows,
    fit={"batch_size": 4, "epochs": 3, "execution": "eager"},
)
"""


class Believed(Exception):
    """A reader took for true what cannot be."""


# What watches the reader.


class Guard:
    """Notes whatever the process opens to write, moves or removes, outside of some folders."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None
        self.found: list[str] = []
        sys.addaudithook(self._look)

    @contextmanager
    def watching(self, *folders: Path) -> Iterator[None]:
        self.allowed, self.found = tuple(os.path.realpath(f) for f in folders), []
        try:
            yield
        finally:
            self.allowed = None

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        paths: list[Any] = []
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            )
            paths = [path] if writes else []
        elif event in ("os.rename", "os.link", "os.symlink"):
            paths = list(arguments[:2])[-1:] if event == "os.symlink" else list(arguments[:2])
        elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod"):
            paths = [arguments[0]]
        elif event in ("os.system", "os.exec", "os.posix_spawn", "pickle.find_class"):
            self.found.append(f"{event} {arguments}")
        elif event == "subprocess.Popen" and arguments[1][:2] != ["git", "rev-parse"]:
            self.found.append(f"{event} {arguments[1]}")
        for path in paths:
            if not isinstance(path, str | bytes | os.PathLike):
                continue  # a descriptor, of something that was opened
            place = os.fsdecode(path)
            where = os.path.realpath(os.path.dirname(place) or ".")
            if event in ("open", "os.truncate", "os.mkdir"):
                where = os.path.realpath(place)
            if place == os.devnull or "__pycache__" in place:
                continue
            if not any(f"{where}/".startswith(f"{allowed}/") for allowed in self.allowed or ()):
                self.found.append(f"{event} {place}")


def most_bytes() -> int:
    """Return the most memory that this process has had since the last call."""
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    Path("/proc/self/clear_refs").write_text("5")
    return int(line.split()[1]) * 1024


def tree(path: Path) -> dict[str, Any]:
    return {
        str(each): os.readlink(each) if each.is_symlink() else each.read_bytes()
        for each in sorted(path.rglob("*"))
        if each.is_symlink() or each.is_file()
    }


def tried(
    folder: Path, kind: str, original: Path, seed: int, guard: Guard
) -> tuple[str, list[str]]:
    """Make one directory, and let everything read it; return what was changed, and the faults."""
    draw = random.Random(seed)
    way = WAYS[seed % len(WAYS)]
    faults: list[str] = []
    told = ""
    for reader in READERS:
        place = folder / "place"
        shutil.rmtree(place, ignore_errors=True)
        (place / "outside").mkdir(parents=True)
        (place / "outside" / "notes.txt").write_text("mine\n")
        (place / "experiment.py").write_text(EXPERIMENT)
        shutil.copytree(folder / "good", place / "good", symlinks=True)
        path = place / "run"
        shutil.copytree(original, path, symlinks=True)
        draw = random.Random(seed)
        told = f"{way.__name__}: {way(Directory(path, draw))}"
        before = tree(place / "outside"), tree(place / "good")
        began, held = time.monotonic(), most_bytes()
        try:
            with ExitStack() as stack:
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")  # what is said of it is another test's concern
                stack.enter_context(redirect_stdout(StringIO()))
                stack.enter_context(redirect_stderr(StringIO()))
                stack.enter_context(guard.watching(path))
                reader(path, kind)
        except PerigeeError:
            pass
        except Exception as error:
            faults.append(f"{reader.__name__}: {type(error).__name__}: {short(str(error))}")
            if VERBOSE:
                import traceback

                traceback.print_exception(error)
        most = most_bytes() - held
        if time.monotonic() - began > MOST_SECONDS:
            faults.append(f"{reader.__name__}: it took {time.monotonic() - began:.0f} s")
        if most > MOST_BYTES:
            faults.append(f"{reader.__name__}: it took {most / 2**20:.0f} MiB")
        if (tree(place / "outside"), tree(place / "good")) != before:
            faults.append(f"{reader.__name__}: files outside have changed")
        faults += [f"{reader.__name__}: {each}" for each in guard.found]
    return told, faults


VERBOSE = False


def main() -> int:
    """Try as many as asked, and print what was found."""
    global VERBOSE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args()
    VERBOSE = chosen.verbose
    guard, failed = Guard(), 0
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = originals(folder / "made")
        shutil.copytree(made["arrays"], folder / "good")
        kinds = list(made)
        for seed in range(chosen.seed, chosen.seed + chosen.count):
            kind = kinds[seed // len(WAYS) % len(kinds)]
            told, faults = tried(folder, kind, made[kind], seed, guard)
            failed += bool(faults)
            for fault in faults:
                print(f"{seed} ({kind}), {told}\n    {fault}", flush=True)
    seconds = time.monotonic() - began
    print(f"{chosen.count} directories, {failed} of them with faults; {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
