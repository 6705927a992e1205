"""`metrics.jsonl`: valid JSON always, one line a record, whatever happens."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perigee._events.clock import Clock
from perigee._events.events import Ended, Recorded, Started
from perigee.writers.json_lines import JsonLines, read_json_lines


def started():
    return Started(step=None, clock=Clock(), epochs=2, steps=None, steps_per_epoch=10, seconds=0.0)


def record(step, values, *, scope="epoch", epoch=1, batch=0, seconds=1.5):
    clock = Clock(step=step, epoch=epoch, batch=batch)
    return Recorded(
        clock=clock, scope=scope, values=values, stop=lambda reason: None, seconds=seconds
    )


def ended():
    return Ended(clock=Clock(step=20, epoch=2), reason="epochs", seconds=3.0)


def write(directory, *records):
    writer = JsonLines(directory)
    writer.on_start(started())
    for each in records:
        writer.on_record(each)
    writer.on_end(ended())
    return writer.path


def forbid_constant(word):
    raise AssertionError(f"{word} is not JSON")


def test_each_record_is_one_line_with_its_clock_and_values(tmp_path):
    path = write(
        tmp_path,
        record(5, {"val_loss": 0.5}, scope="validation", epoch=0, batch=5, seconds=0.7),
        record(10, {"loss": 0.1, "accuracy": 1 / 3}),
    )
    assert path == tmp_path / "metrics.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "kind": "validation",
            "step": 5,
            "epoch": 0,
            "batch": 5,
            "seconds": 0.7,
            "values": {"val_loss": 0.5},
        },
        {
            "kind": "epoch",
            "step": 10,
            "epoch": 1,
            "batch": 0,
            "seconds": 1.5,
            "values": {"loss": 0.1, "accuracy": 1 / 3},
        },
    ]


def test_values_that_json_has_no_word_for_are_null_and_said(tmp_path):
    values = {"loss": math.nan, "norm": math.inf, "score": -math.inf, "accuracy": 0.5}
    line = write(tmp_path, record(10, values)).read_text()
    stored = json.loads(line, parse_constant=forbid_constant)
    assert stored["values"] == {"loss": None, "norm": None, "score": None, "accuracy": 0.5}
    assert stored["nonfinite"] == {"loss": "nan", "norm": "inf", "score": "-inf"}


def test_reading_gives_back_the_floats_that_were_recorded(tmp_path):
    values = {
        "loss": math.nan,
        "norm": math.inf,
        "score": -math.inf,
        "tiny": 5e-324,
        "third": 1 / 3,
    }
    (stored,) = read_json_lines(write(tmp_path, record(10, values)))
    assert math.isnan(stored["values"].pop("loss"))
    del values["loss"]
    assert stored["values"] == values
    assert "nonfinite" not in stored


def test_numpy_scalars_are_written_as_numbers(tmp_path):
    numpy = pytest.importorskip("numpy")
    values = {"loss": numpy.float32(0.5), "count": numpy.int64(3), "bad": numpy.float32("nan")}
    (stored,) = read_json_lines(write(tmp_path, record(10, values)))
    assert stored["values"]["loss"] == 0.5
    assert stored["values"]["count"] == 3.0
    assert math.isnan(stored["values"]["bad"])


@pytest.mark.parametrize("name", ["two\nlines", "snow ☃", 'quote "', "", "lone \udcff"])
def test_any_name_makes_one_line_and_comes_back(tmp_path, name):
    path = write(tmp_path, record(10, {name: 1.0}), record(20, {name: 2.0}))
    assert path.read_bytes().count(b"\n") == 2
    assert [stored["values"] for stored in read_json_lines(path)] == [{name: 1.0}, {name: 2.0}]


def test_a_line_can_be_read_by_others_as_soon_as_it_is_recorded(tmp_path):
    writer = JsonLines(tmp_path)
    writer.on_start(started())
    for number in range(1, 4):
        writer.on_record(record(number, {"loss": 1.0}))
        assert len(read_json_lines(writer.path)) == number
    writer.on_end(ended())


def test_each_line_is_one_write(tmp_path):
    writer = JsonLines(tmp_path)
    writer.on_start(started())
    file, writes = writer._file._file, []

    class Counted:
        def write(self, data):
            writes.append(bytes(data))
            return file.write(data)

        close, fileno = file.close, file.fileno

    writer._file._file = Counted()
    values = {f"metric_{number}": 0.1 * number for number in range(2000)}
    writer.on_record(record(10, values))
    writer.on_record(record(20, values))
    writer.on_end(ended())
    assert len(writes) == 2
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in writes)


@pytest.mark.process
def test_a_killed_process_leaves_every_line_that_it_recorded(tmp_path):
    recorded = 50
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
from perigee._events.clock import Clock
from perigee._events.events import Recorded, Started
from perigee.writers.json_lines import JsonLines
writer = JsonLines({str(tmp_path)!r})
writer.on_start(Started(None, Clock(), 1, None, None, 0.0))
for step in range({recorded}):
    writer.on_record(Recorded(Clock(step), "steps", {{"loss": 1.0}}, print, 0.0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    stored = read_json_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in stored] == list(range(recorded))


def test_a_file_torn_at_any_byte_reads_as_its_whole_lines(tmp_path):
    path = write(tmp_path, *(record(step, {"loss": step / 7}) for step in (1, 2, 3)))
    content = path.read_bytes()
    whole = read_json_lines(path)
    ends = [index for index, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        # A line that lacks nothing but its newline is whole.
        assert read_json_lines(path) == whole[: sum(size >= end for end in ends)]


def test_going_on_after_a_tear_at_any_byte_loses_the_torn_line_only(tmp_path):
    path = write(tmp_path, *(record(step, {"loss": step / 7}) for step in (1, 2)))
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        before = read_json_lines(path)
        write(tmp_path, record(3, {"loss": 0.3}))
        lines = path.read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [
            *(stored["step"] for stored in before),
            3,
        ]


def test_a_tear_that_left_other_bytes_and_a_newline_counts_as_torn(tmp_path):
    path = write(tmp_path, record(1, {"loss": 0.1}))
    with path.open("ab") as file:
        file.write(b"\0\0\0\n")
    assert [stored["step"] for stored in read_json_lines(path)] == [1]
    write(tmp_path, record(2, {"loss": 0.2}))
    assert [stored["step"] for stored in read_json_lines(path)] == [1, 2]


def test_damage_before_the_last_line_is_named_and_nothing_is_removed(tmp_path):
    path = write(tmp_path, record(1, {"loss": 0.1}), record(2, {"loss": 0.2}))
    damaged = b"{broken\n" + path.read_bytes()
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="Line 1 of 3"):
        read_json_lines(path)
    with pytest.raises(ValueError, match="Line 1 of 3"):
        JsonLines(tmp_path).on_start(started())
    assert path.read_bytes() == damaged


def test_an_empty_file_has_no_records(tmp_path):
    assert read_json_lines(write(tmp_path)) == []


def test_a_directory_that_cannot_be_made_is_known_at_the_start(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(OSError, match="taken"):
        JsonLines(tmp_path / "taken").on_start(started())


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_write_that_the_system_refuses_comes_out_as_its_error(tmp_path):
    import resource

    writer = JsonLines(tmp_path)
    writer.on_start(started())
    _, most = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, most))
    try:
        with pytest.raises(OSError, match="File too large"):
            writer.on_record(record(1, {"loss": 0.1}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.on_end(ended())
    assert writer.path.read_bytes() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs such a device")
def test_a_log_that_another_file_has_replaced_is_not_written_to(tmp_path):
    writer = JsonLines(tmp_path)
    writer.on_start(started())
    assert writer._file._file is not None
    with open("/dev/full", "wb") as full:
        os.dup2(full.fileno(), writer._file._file.fileno())
    with pytest.raises(FileExistsError, match="another file is in its place"):
        writer.on_record(record(1, {"loss": 0.1}))
    writer.on_end(ended())


def test_ending_without_a_start_makes_no_file(tmp_path):
    JsonLines(tmp_path).on_end(ended())
    assert list(tmp_path.iterdir()) == []
