"""A table of records: one row a record, whole at any time, with columns that stay."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perigee._errors import FileKindError, LogExistsError, LogShortError
from perigee._events.clock import Clock
from perigee._events.events import Recorded, Started
from perigee.writers import Csv, _appended
from tests.writers import reading

CLOCK = ["kind", "step", "epoch", "batch", "seconds"]


def started(clock=None):
    return Started(None, clock or Clock(), 2, None, 10, 0.0)


def record(step, values, *, scope="steps"):
    return Recorded(Clock(step, 0, step), scope, values, lambda reason: None, 1.5)


def write(path, *records):
    writer = Csv(path)
    writer.on_start(started())
    for each in records:
        writer.on_record(each)
    writer.on_end(None)
    return path


def test_each_record_is_one_row_with_its_clock_and_values(tmp_path):
    path = write(
        tmp_path / "log.csv",
        record(5, {"loss": 0.1, "accuracy": 1 / 3}),
        record(10, {"loss": 0.5, "accuracy": 0.25}, scope="epoch"),
    )
    assert path.read_text().splitlines() == [
        "kind,step,epoch,batch,seconds,loss,accuracy",
        f"steps,5,0,5,1.5,0.1,{1 / 3}",
        "epoch,10,0,10,1.5,0.5,0.25",
    ]


def test_a_new_name_adds_a_column_at_the_right_and_cells_without_a_value_are_empty(tmp_path):
    path = write(
        tmp_path / "log.csv",
        record(1, {"loss": 1.0}),
        record(2, {"val_loss": 2.0}, scope="validation"),
        record(3, {"loss": 3.0}),
    )
    assert path.read_text().splitlines() == [
        "kind,step,epoch,batch,seconds,loss,val_loss",
        "steps,1,0,1,1.5,1.0,",
        "validation,2,0,2,1.5,,2.0",
        "steps,3,0,3,1.5,3.0,",
    ]
    assert os.listdir(tmp_path) == ["log.csv"]


def test_a_reader_sees_the_narrow_or_the_wide_file_and_nothing_between(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    writer = Csv(path)
    writer.on_start(started())
    writer.on_record(record(1, {"loss": 1.0}))
    narrow, replace = path.read_bytes(), os.replace

    def checked(source, target):
        assert path.read_bytes() == narrow
        assert len(reading.rows(source)) == 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", checked)
    writer.on_record(record(2, {"more": 1.0}))
    assert [row["step"] for row in reading.rows(path)] == ["1", "2"]


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_column_that_could_not_be_added_is_added_with_the_next_row(
    tmp_path, monkeypatch, failing
):
    writer = Csv(tmp_path / "log.csv")
    writer.on_start(started())
    writer.on_record(record(1, {"loss": 1.0}))
    before = writer.path.read_bytes()
    with monkeypatch.context() as broken, pytest.raises(OSError, match="full"):

        def full(*arguments):
            raise OSError("full")

        broken.setattr(os, failing, full)
        writer.on_record(record(2, {"more": 2.0}))
    assert writer.path.read_bytes() == before
    writer.on_record(record(3, {"loss": 3.0}))
    writer.on_record(record(4, {"more": 4.0}))
    assert [(row["step"], row["more"]) for row in reading.rows(writer.path)] == [
        ("1", ""),
        ("3", ""),
        ("4", "4.0"),
    ]
    assert os.listdir(tmp_path) == ["log.csv"]


def test_a_file_that_could_not_be_opened_after_it_was_replaced_is_opened_later(
    tmp_path, monkeypatch
):
    writer = Csv(tmp_path / "log.csv")
    writer.on_start(started())
    writer.on_record(record(1, {"loss": 1.0}))
    with monkeypatch.context() as broken, pytest.raises(OSError, match="too many"):

        def too_many(*arguments):
            raise OSError("too many open files")

        broken.setattr(_appended, "FileIO", too_many)
        writer.on_record(record(2, {"more": 2.0}))
    writer.on_record(record(3, {"loss": 3.0}))
    assert [row["step"] for row in reading.rows(writer.path)] == ["1", "3"]


def test_values_that_are_not_finite_come_back(tmp_path):
    values = {"loss": math.nan, "norm": math.inf, "score": -math.inf, "tiny": 5e-324}
    (row,) = reading.rows(write(tmp_path / "log.csv", record(1, values)))
    assert math.isnan(float(row["loss"]))
    assert [float(row[name]) for name in ("norm", "score", "tiny")] == [
        math.inf,
        -math.inf,
        5e-324,
    ]


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("a,b", "a,b"),
        ('quote "', 'quote "'),
        ("snow ☃", "snow ☃"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("lone \udcff", "lone \\udcff"),
        ("", ""),
        ("step", "values/step"),
    ],
)
def test_any_name_makes_one_column_on_one_line(tmp_path, name, column):
    path = write(tmp_path / "log.csv", record(1, {name: 1.0}), record(2, {name: 2.0, "new": 3.0}))
    assert path.read_bytes().count(b"\n") == 3
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == [*CLOCK, column, "new"]
    assert [row[5:] for row in rows] == [["1.0", ""], ["2.0", "3.0"]]


def test_a_file_that_is_there_is_refused_and_stays(tmp_path):
    path = write(tmp_path / "log.csv", record(1, {"loss": 1.0}))
    before = path.read_bytes()
    with pytest.raises(LogExistsError) as caught:
        Csv(path).on_start(started())
    assert caught.value.path == str(path)
    assert path.read_bytes() == before


def test_the_same_writer_may_go_on_where_it_ended(tmp_path):
    writer = Csv(tmp_path / "log.csv")
    for step in (1, 2):
        writer.on_start(started())
        writer.on_record(record(step, {"loss": 1.0}))
        writer.on_end(None)
    assert [row["step"] for row in reading.rows(writer.path)] == ["1", "2"]


def test_columns_that_came_after_the_checkpoint_go_with_their_rows(tmp_path):
    first = Csv(tmp_path / "log.csv")
    first.on_start(started())
    first.on_record(record(1, {"loss": 1.0}))
    narrow = first.path.read_bytes()
    state = json.loads(json.dumps(first.state()))
    first.on_record(record(2, {"more": 1.0}))

    again = Csv(tmp_path / "log.csv")
    again.load_state(state)
    assert first.path.read_bytes() != narrow
    again.on_start(started(Clock(1, 0, 1)))
    assert first.path.read_bytes() == narrow


def test_a_column_of_an_epoch_left_in_the_middle_goes_with_its_row(tmp_path):
    first = Csv(tmp_path / "log.csv")
    first.on_start(started())
    first.on_record(record(1, {"loss": 1.0}))
    narrow = first.path.read_bytes()
    first.on_record(record(2, {"more": 1.0}, scope="epoch"))
    state = first.state()
    first.on_end(None)
    (tmp_path / f"log.csv.{32 * 'a'}.tmp").write_text("left by a process that was killed")

    again = Csv(tmp_path / "log.csv")
    again.load_state(state)
    again.on_start(started(Clock(2, 0, 2)))
    assert first.path.read_bytes() == narrow
    assert os.listdir(tmp_path) == ["log.csv"]


@pytest.mark.parametrize("text", ["", "precious\n"])
def test_a_link_is_refused_and_not_followed(tmp_path, text):
    mine = tmp_path / "thesis.txt"
    mine.write_text(text)
    (tmp_path / "log.csv").symlink_to(mine)
    for is_resumed in (False, True):
        writer = Csv(tmp_path / "log.csv")
        if is_resumed:
            writer.load_state({"rows": 0, "columns": []})
        with pytest.raises(FileKindError, match="is a link to"):
            writer.on_start(started())
    assert mine.read_text() == text
    assert (tmp_path / "log.csv").is_symlink()


def test_other_columns_than_at_the_checkpoint_are_refused(tmp_path):
    first = Csv(tmp_path / "log.csv")
    first.on_start(started())
    first.on_record(record(1, {"loss": 1.0}))
    state = first.state()
    other = first.path.read_text().replace("loss", "cost")
    first.path.write_text(other)
    with pytest.raises(LogShortError, match="cost"):
        Csv(first.path).load_state(state)
    assert first.path.read_text() == other


@pytest.mark.sample
@pytest.mark.process
def test_a_killed_process_leaves_every_row_that_it_recorded(tmp_path):
    steps = 50
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "src")!r})
from perigee._events.clock import Clock
from perigee._events.events import Recorded, Started
from perigee.writers import Csv
writer = Csv({str(tmp_path / "log.csv")!r})
writer.on_start(Started(None, Clock(), 1, None, None, 0.0))
for step in range({steps}):
    writer.on_record(Recorded(Clock(step), "steps", {{"loss": 1.0}}, print, 0.0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [int(row["step"]) for row in reading.rows(tmp_path / "log.csv")] == list(range(steps))
