"""Checkpoints are whole or not there; a few are kept; errors of the background come out."""

import errno
import fnmatch
import json
import math
import os
import threading

import numpy as np
import pytest
import safetensors.numpy

from perigee._errors import (
    ArgumentError,
    CheckpointContentError,
    CheckpointSaveError,
    CheckpointVersionError,
    NoCheckpointError,
)
from perigee._events.clock import Clock
from perigee.checkpoints import Checkpoints, Content, RunLock, _files, _plain
from tests.checkpoints.saved import content, step_of, tree


def saved_steps(checkpoints, values, start=1):
    for step, value in enumerate(values, start):
        checkpoints.save(content(step), value)
    return checkpoints.steps()


def test_everything_comes_back_as_it_was(tmp_path):
    facts = {
        "text": 'ü"\n\ud800',
        "numbers": [0, -1, 2**70, 0.1, 5e-324, True, None],
        "strange": [math.inf, -math.inf, math.nan],
        "tuple": (1, (2,)),
        "numpy": [np.float32(0.1), np.int8(-3), np.bool_(True)],
        "empty": [{}, [], "", np.zeros((0, 3))],
        "array": {"deep": [np.arange(6, dtype="uint16").reshape(2, 3)[:, ::2]]},
        "order": {"b": 1, "a": 2},
    }
    held = Content(Clock(412, 3, 12), {"x": np.array(1.5)}, facts, {"rng": 2**100})

    path = Checkpoints(tmp_path).save(held)
    loaded = Checkpoints(tmp_path).load()

    found = loaded.content
    assert path == loaded.path == tmp_path / "step-00000412"
    assert (found.clock, found.data) == (held.clock, {"rng": 2**100})
    assert found.arrays["x"].shape == ()
    assert found.arrays["x"] == 1.5
    assert found.facts["text"] == facts["text"]
    assert found.facts["numbers"] == facts["numbers"]
    assert str(found.facts["strange"]) == "[inf, -inf, nan]"
    assert found.facts["tuple"] == [1, [2]]
    assert found.facts["numpy"] == [float(np.float32(0.1)), -3, True]
    assert found.facts["empty"][3].shape == (0, 3)
    np.testing.assert_array_equal(found.facts["array"]["deep"][0], [[0, 2], [3, 5]])
    assert found.facts["array"]["deep"][0].dtype == "uint16"
    assert list(found.facts["order"]) == ["b", "a"]


def test_the_state_is_a_file_that_other_programs_read(tmp_path):
    held = content(1)
    path = Checkpoints(tmp_path).save(held)

    read = safetensors.numpy.load_file(path / "state.safetensors")

    assert {key: (a.dtype, a.tolist()) for key, a in read.items()} == {
        key: (a.dtype, a.tolist()) for key, a in held.arrays.items()
    }


def test_only_what_is_needed_is_written(tmp_path):
    path = Checkpoints(tmp_path).save(Content(Clock(1), {}, {}, {}))

    assert sorted(tree(path)) == [
        "data",
        "data/position.json",
        "manifest.json",
        "state.safetensors",
    ]


def test_all_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    happened = []
    flush, rename = os.fsync, os.rename

    def noted_flush(descriptor):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        name = os.path.basename(path)
        happened.append("beside" if name.endswith(".tmp") else name)
        flush(descriptor)

    def noted_rename(source, target, **more):
        happened.append("renamed")
        rename(source, target, **more)

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(os, "rename", noted_rename)
    checkpoints.save(content(1))

    assert happened[0] == tmp_path.name
    assert set(happened[1:5]) == {
        *("state.safetensors", "position.json", "arrays.safetensors", "facts.safetensors")
    }
    assert happened[5:] == ["manifest.json", "data", "beside", "renamed", "checkpoints"]


def test_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)

    assert saved_steps(checkpoints, [None] * 5) == [4, 5]
    assert step_of(checkpoints.load().content) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


def test_all_are_kept_on_request(tmp_path):
    assert saved_steps(Checkpoints(tmp_path, keep=None), [None] * 5) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "mode", "values", "best"),
    [
        ("val_loss", None, [3.0, 1.0, 2.0, 5.0, 4.0], 2),
        ("val_accuracy", None, [0.1, 0.9, 0.2, 0.3, 0.8], 2),
        ("loss", "max", [1.0, 3.0, 2.0, 0.0, 0.0], 2),
        ("bleu", "max", [1.0, 3.0, 2.0, 0.0, 0.0], 2),
        ("val_loss", None, [math.nan, 5.0, None, math.nan, math.inf], 2),
        ("val_loss", None, [-math.inf, 5.0, 1.0, 1.0, 1.0], 1),
        ("val_loss", None, [1.0, 1.0, 1.0, 2.0, 2.0], 3),
    ],
)
def test_the_best_is_kept_too(tmp_path, name, mode, values, best):
    checkpoints = Checkpoints(tmp_path, keep=1, best=name, mode=mode)

    assert saved_steps(checkpoints, values) == sorted({best, 5})
    assert checkpoints.load("best").content.clock.step == best
    assert checkpoints.load("best").monitored == values[best - 1]


def test_the_best_is_found_by_the_next_process_too(tmp_path):
    saved_steps(Checkpoints(tmp_path, keep=1, best="val_loss"), [2.0, 1.0, 3.0])

    again = Checkpoints(tmp_path, keep=1, best="val_loss")

    assert saved_steps(again, [5.0], start=4) == [2, 4]


def test_values_of_another_name_are_not_compared(tmp_path):
    saved_steps(Checkpoints(tmp_path, best="val_loss"), [1.0, 2.0])
    checkpoints = Checkpoints(tmp_path, best="val_accuracy")

    with pytest.raises(NoCheckpointError, match="best by val_accuracy"):
        checkpoints.load("best")


@pytest.mark.parametrize("name", ["bleu", "loss_accuracy", ""])
def test_a_name_that_does_not_tell_what_is_better_needs_a_mode(tmp_path, name):
    with pytest.raises(ArgumentError, match="mode='min'"):
        Checkpoints(tmp_path, best=name)


def test_arguments_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="keep=0"):
        Checkpoints(tmp_path, keep=0)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ArgumentError, match="best"):
        checkpoints.save(content(1), 0.5)
    checkpoints.save(content(1))
    with pytest.raises(ArgumentError, match="best"):
        checkpoints.load("best")
    with pytest.raises(ArgumentError, match="oldest"):
        checkpoints.load("oldest")


def test_a_step_is_loaded_by_its_number(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    saved_steps(checkpoints, [None] * 3)

    assert step_of(checkpoints.load(2).content) == 2
    with pytest.raises(NoCheckpointError, match=r"step 7.*1, 2, 3"):
        checkpoints.load(7)


def test_where_nothing_was_saved_there_is_nothing(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")

    assert checkpoints.newest() is None
    assert checkpoints.steps() == []
    with pytest.raises(NoCheckpointError, match="none"):
        checkpoints.load()
    assert not (tmp_path / "none").exists()


def test_other_things_in_the_directory_are_left_alone(tmp_path):
    others = ("notes.txt", "step-1", "step-000000001x", "step-" + 8 * "\N{ARABIC-INDIC DIGIT ONE}")
    for name in others:
        (tmp_path / name).write_text("keep")

    with RunLock(tmp_path / "run") as lock:
        checkpoints = Checkpoints(tmp_path, keep=1, lock=lock)
        assert saved_steps(checkpoints, [None] * 2) == [2]

    assert {path.name for path in tmp_path.iterdir()} == {*others, "run", "step-00000002"}


def foreign(tmp_path):
    """Put what Perigee did not write among checkpoints; return what it is."""
    (tmp_path / "unfinished-00000001.0a.tmp").mkdir()
    (tmp_path / f"step-00000001.{32 * 'b'}.tmp").write_text("a file")
    (tmp_path / "step-00000003.old").write_text("a file")
    for name in (f"unfinished-00000007.{32 * 'c'}.tmp", "step-00000001", "replaced-00000004.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.bin").write_text("precious")
    (tmp_path / "step-00000000").mkdir()
    (tmp_path / "step-00000000" / "manifest.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "state.safetensors").write_text("precious")
    (tmp_path / "step-00000009").symlink_to("elsewhere")
    (tmp_path / f"unfinished-00000009.{32 * 'd'}.tmp").symlink_to("elsewhere")
    return tree(tmp_path)


def test_nothing_that_looks_like_a_checkpoint_but_is_none_is_removed(tmp_path):
    path = tmp_path / "checkpoints"
    path.mkdir()
    before = foreign(path)
    Checkpoints(path).save(content(4))

    with RunLock(tmp_path) as lock:
        checkpoints = Checkpoints(path, keep=1, best="val_loss", lock=lock)
        for step in (5, 6):
            checkpoints.save(content(step), 1.0 / step)

    after = tree(path)
    assert {name: after.get(name) for name in before} == before
    assert [p.name for p in path.glob("step-0000000[4-8]")] == ["step-00000006"]


def test_a_checkpoint_with_a_file_of_ones_own_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for name in ("notes.txt", "data/notes.txt"):
        step = checkpoints.steps()[-1] + 1 if checkpoints.steps() else 1
        (checkpoints.save(content(step)) / name).write_text("keep")
    before = tree(tmp_path)

    saved_steps(checkpoints, [None] * 3, start=3)

    assert checkpoints.steps() == [1, 2, 5]
    assert {name: value for name, value in tree(tmp_path).items() if name in before} == before


def test_what_is_not_a_checkpoint_and_in_the_place_of_one_is_set_aside(tmp_path):
    (tmp_path / "step-00000002").mkdir()
    (tmp_path / "step-00000002" / "photo.png").write_text("precious")
    (tmp_path / "step-00000003").symlink_to("nowhere")
    (tmp_path / "step-00000004").write_text("precious")
    checkpoints = Checkpoints(tmp_path, keep=5)

    assert saved_steps(checkpoints, [None] * 4) == [1, 2, 3, 4]

    assert step_of(checkpoints.load().content) == 4
    [folder, link, file] = sorted(tmp_path.glob("set-aside-step-*"))
    assert (folder / "photo.png").read_text() == file.read_text() == "precious"
    assert os.readlink(link) == "nowhere"


def test_unfinished_checkpoints_do_not_look_like_checkpoints(tmp_path, monkeypatch):
    seen = []
    flush = os.fsync

    def noted(descriptor):
        seen.extend(path.name for path in tmp_path.iterdir())
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    Checkpoints(tmp_path).save(content(1))

    assert {name.partition("-")[0] for name in seen[:-1]} == {"unfinished"}
    assert not fnmatch.filter(seen[:-1], "step-*")


def test_a_step_that_is_saved_again_is_replaced(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content(1, note="first"))

    checkpoints.save(content(1, note="second"))

    assert checkpoints.load().content.facts["note"] == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_replacement_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content(1, note="first"))
    before, rename = tree(tmp_path), os.rename

    def failing(source, target, **more):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "broken")
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(CheckpointSaveError, match="broken"):
        checkpoints.save(content(1, note="second"))

    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("unfinished", "replaced"),
    [("unfinished-{}", "replaced-{}"), ("step-{}", "step-{}")],
    ids=["now", "version 0.1"],
)
def test_what_a_process_killed_between_two_names_left_is_put_back(tmp_path, unfinished, replaced):
    path = Checkpoints(tmp_path).save(content(1))
    path.rename(tmp_path / f"{replaced.format('00000001')}.old")
    begun = tmp_path / f"{unfinished.format('00000002')}.{32 * 'a'}.tmp"
    begun.mkdir()
    (begun / "data").mkdir()
    (begun / "state.safetensors").write_text("part of it")
    old = tmp_path / f"{replaced.format('00000004')}.old"
    Checkpoints(tmp_path).save(content(3)).rename(old)
    Checkpoints(tmp_path).save(content(4))

    with RunLock(tmp_path / "run") as lock:
        assert Checkpoints(tmp_path, lock=lock).steps() == [1, 4]

    assert {p.name for p in tmp_path.iterdir()} == {"run", "step-00000001", "step-00000004"}


def test_who_does_not_hold_the_lock_clears_nothing_away(tmp_path):
    under_way = tmp_path / f"unfinished-00000002.{32 * 'a'}.tmp"
    under_way.mkdir()

    Checkpoints(tmp_path).newest()

    assert under_way.is_dir()


def test_a_course_that_was_given_up_makes_room_for_the_new_one(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    saved_steps(checkpoints, [None] * 5)
    assert checkpoints.load(4).content.clock.step == 4

    checkpoints.save(content(5, note="again"))
    checkpoints.save(content(3))

    assert checkpoints.steps() == [3]
    assert checkpoints.load().content.clock.step == 3


@pytest.mark.parametrize(
    ("facts", "path"),
    [
        ({"a": [object()]}, "facts/a/0 is of type object"),
        ({"a": {1: 2}}, "facts/a has the key 1"),
        ({"$array": "0"}, r"facts has the key '\$array'"),
        ({"a": b"x"}, "of type bytes"),
        ({"a": np.array(["x"])}, "an array of <U1"),
        ({"a": np.array([object()])}, "an array of object"),
        ({"a": np.array([1.0], ">f8")}, "an array of >f8"),
        ({"a": 2**2000}, "1024 bits"),
        ({"a": 1j}, "of type complex"),
        ({"a": {1, 2}}, "of type set"),
    ],
)
@pytest.mark.parametrize("background", [False, True])
def test_what_cannot_be_stored_is_refused_at_once_with_its_path(tmp_path, facts, path, background):
    with pytest.raises(CheckpointContentError, match=path):
        Checkpoints(tmp_path).save(Content(Clock(1), {}, facts, {}), background=background)
    with pytest.raises(CheckpointContentError):
        Checkpoints(tmp_path).save(Content(Clock(1), {}, {}, facts), background=background)

    assert list(tmp_path.iterdir()) == []


def test_what_holds_itself_is_refused(tmp_path):
    loop: list = []
    loop.append(loop)

    with pytest.raises(CheckpointContentError, match="64 levels"):
        Checkpoints(tmp_path).save(Content(Clock(1), {}, {"a": loop}, {}))


@pytest.mark.parametrize("background", [False, True])
def test_json_that_would_not_be_read_again_is_not_written(tmp_path, monkeypatch, background):
    monkeypatch.setattr(_plain, "MOST_BYTES", 5000)
    long = {"a": list(range(5000))}
    with Checkpoints(tmp_path) as checkpoints:
        for facts, data in ((long, {}), ({}, long)):
            with pytest.raises(CheckpointContentError, match="bytes that are not arrays"):
                checkpoints.save(Content(Clock(1), {}, facts, data), background=background)
                checkpoints.wait()
        assert list(tmp_path.iterdir()) == []


def test_a_state_array_of_an_unknown_dtype_is_refused(tmp_path):
    with pytest.raises(CheckpointContentError, match="x is an array of object"):
        Checkpoints(tmp_path).save(Content(Clock(1), {"x": np.array([None])}, {}, {}))


def test_a_later_format_is_not_passed_over(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    saved_steps(checkpoints, [None] * 2)
    manifest = tmp_path / "step-00000002" / "manifest.json"
    said = json.loads(manifest.read_bytes())
    del said["checksum"]
    said["format_version"] = 2
    said["checksum"] = _files.checksum_of([json.dumps(said).encode()])
    manifest.write_bytes(json.dumps(said).encode())

    with pytest.raises(CheckpointVersionError, match="format 2"):
        checkpoints.newest()


# In the background.


class Gate:
    """Holds every flush to the disk until it is opened."""

    def __init__(self, monkeypatch):
        self.open = threading.Event()
        self.reached = threading.Event()
        self.error = None
        flush = os.fsync

        def held(descriptor):
            self.reached.set()
            assert self.open.wait(30)
            if self.error is not None:
                raise self.error
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", held)


@pytest.fixture
def gate(monkeypatch):
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def test_a_save_in_the_background_returns_before_it_is_done(tmp_path, gate):
    (tmp_path / "checkpoints").mkdir()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(content(1), background=True)
        assert gate.reached.wait(30)
        assert checkpoints.steps() == []

        gate.open.set()
        checkpoints.wait()

        assert checkpoints.steps() == [1]


def test_what_changes_after_the_call_is_not_saved(tmp_path, gate):
    (tmp_path / "checkpoints").mkdir()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        buffer, history, pending = np.arange(3), [1], np.arange(3)
        facts, data = {"buffer": buffer, "history": history}, {"pending": pending}
        checkpoints.save(Content(Clock(1), {}, facts, data), background=True)
        buffer[0] = pending[0] = 99
        history.append(2)
        gate.open.set()

        held = checkpoints.load().content

    assert held.facts["buffer"].tolist() == [0, 1, 2]
    assert held.facts["history"] == [1]
    assert held.data["pending"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("call", ["save", "wait", "close", "newest", "load"])
def test_an_error_in_the_background_comes_out_at_the_next_call_once(tmp_path, gate, call):
    calls = {
        "save": lambda: checkpoints.save(content(3)),
        "wait": lambda: checkpoints.wait(),
        "close": lambda: checkpoints.close(),
        "newest": lambda: checkpoints.newest(),
        "load": lambda: checkpoints.load(),
    }
    (tmp_path / "checkpoints").mkdir()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    gate.open.set()
    checkpoints.save(content(1))
    before = tree(tmp_path)
    gate.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    checkpoints.save(content(2), background=True)

    with pytest.raises(CheckpointSaveError, match=r"step-00000002.*No space left") as caught:
        calls[call]()

    gate.error = None
    assert caught.value.errno == errno.ENOSPC
    assert tree(tmp_path) == before
    calls[call]()
    checkpoints.save(content(4), background=True)
    assert step_of(checkpoints.load().content) == 4
    checkpoints.close()


def test_at_most_one_save_is_under_way(tmp_path, gate):
    (tmp_path / "checkpoints").mkdir()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(content(1), background=True)
        second = threading.Thread(target=checkpoints.save, args=(content(2),))
        second.start()
        second.join(0.05)
        assert second.is_alive()

        gate.open.set()
        second.join(30)

        assert checkpoints.steps() == [1, 2]


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content(1))
    before = tree(tmp_path)

    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(content(2))

    assert tree(tmp_path) == before


def test_a_directory_that_is_cleared_meanwhile_holds_no_checkpoints(tmp_path):
    place = tmp_path / "checkpoints"
    is_over = threading.Event()

    def clear_again_and_again():
        while not is_over.is_set():
            place.mkdir()
            place.rmdir()

    clearing = threading.Thread(target=clear_again_and_again)
    clearing.start()
    try:
        for _ in range(3000):
            assert Checkpoints(place).steps() == []
    finally:
        is_over.set()
        clearing.join()
