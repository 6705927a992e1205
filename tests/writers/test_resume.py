"""Logs after a kill and a resume are those of a run that never died, times excepted."""

import json
import random
import shutil

import pytest

from perigee._errors import LogShortError
from perigee._events.clock import Clock
from perigee._events.events import Started
from perigee.writers import Csv, JsonLines, TensorBoard
from tests.writers import pretended, reading

EPOCHS = 4


def seen(directory):
    return reading.lines(directory), reading.scalars(directory), csv_of(directory)


def csv_of(directory):
    return (directory / "metrics.csv").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    pretended.train(directory, EPOCHS)
    return directory


def cut_short(straight, directory, step):
    """Make `directory` what a process leaves that was killed some time after it saved `step`."""
    shutil.copytree(straight, directory)
    at_step = directory.parent / "at"
    at_step.mkdir()
    pretended.train(at_step, EPOCHS, stop_at=step)
    shutil.copy(at_step / "checkpoint.json", directory)
    return directory


def test_the_straight_run_shows_each_step_once(straight):
    steps = EPOCHS * pretended.STEPS_PER_EPOCH
    for (_, tag), points in reading.scalars(straight).items():
        numbers = [number for number, _ in points]
        if tag.startswith("batch"):
            assert numbers == list(range(3, steps + 1, pretended.RECORD_EVERY))
        elif tag.startswith("evaluation"):
            assert numbers == list(range(4, steps + 1, pretended.VALIDATE_EVERY))
        else:
            first = pretended.NEW_NAME_AT_EPOCH - 1 if tag == "epoch_late" else 0
            assert numbers == list(range(first, EPOCHS))
    assert len(reading.rows(straight / "metrics.csv")) == len(reading.lines(straight))


@pytest.mark.process
@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_the_logs_are_those_of_a_straight_run(tmp_path):
    epochs, most_kills, kills = 40, 8, 0
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    pretended.train(straight, epochs)
    size_bytes = (straight / "metrics.jsonl").stat().st_size
    whole, metrics = reading.lines(straight), killed / "metrics.jsonl"
    for at_bytes in sorted(random.sample(range(size_bytes), most_kills)):

        def is_far_enough(at_bytes=at_bytes):
            return metrics.exists() and metrics.stat().st_size > at_bytes

        kills += pretended.run(killed, epochs, kill_when=is_far_enough)
        if metrics.exists():  # valid up to the last line, each step once
            *found, last = metrics.read_text().split("\n")
            assert [json.loads(line) for line in found] == whole[: len(found)]
            assert last == "" or json.dumps(whole[len(found)]).startswith(last)
    pretended.run(killed, epochs)
    assert kills >= most_kills // 2
    assert seen(killed) == seen(straight)
    assert json.loads((killed / "run.json").read_text())["resumed"] != []
    assert not list(killed.glob("*.tmp"))


@pytest.mark.parametrize("step", [5, 20, 40, 45, 80])
def test_what_was_written_after_the_checkpoint_is_written_again_once(straight, tmp_path, step):
    killed = cut_short(straight, tmp_path / "killed", step)
    pretended.train(killed, EPOCHS)
    assert seen(killed) == seen(straight)


def test_stopped_in_mid_epoch_and_gone_on_with_the_epoch_stands_there_once(straight, tmp_path):
    pretended.train(tmp_path, EPOCHS, stop_at=27)
    assert [line["batch"] for line in reading.lines(tmp_path) if line["kind"] == "epoch"] == [0, 7]
    pretended.train(tmp_path, EPOCHS)
    assert seen(tmp_path) == seen(straight)


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.csv"])
@pytest.mark.parametrize("torn_bytes", [1, 2, 30])
def test_a_torn_end_beyond_the_checkpoint_is_cut_off(straight, tmp_path, name, torn_bytes):
    killed = cut_short(straight, tmp_path / "killed", 45)
    content = (killed / name).read_bytes()
    (killed / name).write_bytes(content[:-torn_bytes])
    pretended.train(killed, EPOCHS)
    assert seen(killed) == seen(straight)


def writer_of(name, directory):
    return {
        "metrics": lambda: JsonLines(directory),
        "events": lambda: TensorBoard(directory),
        "table": lambda: Csv(directory / "metrics.csv"),
    }[name]()


FILES = {
    "metrics": "metrics.jsonl",
    "table": "metrics.csv",
    "events": "events/train/events.out.tfevents.0000000001.perigee",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_shorter_than_at_the_checkpoint_is_refused_and_stays(straight, tmp_path, name):
    killed = cut_short(straight, tmp_path / "killed", 45)
    state = json.loads((killed / "checkpoint.json").read_text())["writers"][name]["writer"]
    file = killed / FILES[name]
    short = file.read_bytes()[:300]
    file.write_bytes(short)
    with pytest.raises(LogShortError) as caught:
        writer_of(name, killed).load_state(state)
    assert caught.value.path == str(file)
    assert file.read_bytes() == short


@pytest.mark.parametrize("name", ["metrics", "table"])
def test_a_file_with_other_content_is_refused_and_stays(straight, tmp_path, name):
    killed = cut_short(straight, tmp_path / "killed", 45)
    state = json.loads((killed / "checkpoint.json").read_text())["writers"][name]["writer"]
    file = killed / FILES[name]
    other = b"x," * 50_000 + b"\n"
    file.write_bytes(other)
    with pytest.raises(LogShortError):
        writer_of(name, killed).load_state(state)
    assert file.read_bytes() == other


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_deleted_is_begun_anew_and_it_is_said(straight, tmp_path, name):
    killed = cut_short(straight, tmp_path / "killed", 45)
    (killed / FILES[name]).unlink()
    with pytest.warns(RuntimeWarning, match="is missing"):
        pretended.train(killed, EPOCHS)
    if name == "metrics":
        assert reading.lines(killed) == [
            line for line in reading.lines(straight) if line["step"] > 45
        ]
    elif name == "table":
        assert {int(row["step"]) for row in reading.rows(killed / "metrics.csv")} == {
            line["step"] for line in reading.lines(straight) if line["step"] > 45
        }
    else:
        points = reading.scalars(killed)[("train", "batch_loss")]
        assert points == [
            point for point in reading.scalars(straight)[("train", "batch_loss")] if point[0] > 45
        ]


@pytest.mark.parametrize("name", FILES)
def test_a_state_taken_before_the_first_record_begins_anew(straight, tmp_path, name):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    writer = writer_of(name, fresh)
    writer.on_start(Started(None, Clock(), EPOCHS, None, 20, 0.0))
    state = json.loads(json.dumps(writer.state()))
    killed = tmp_path / "killed"
    shutil.copytree(straight, killed)
    (killed / "checkpoint.json").write_text(
        json.dumps(
            {
                "clock": {"step": 0, "epoch": 0, "batch": 0},
                "writers": {name: {"writer": state, "failed": 0, "lost": 0}},
            }
        )
    )
    again = writer_of(name, killed)
    again.load_state(state)
    again.on_start(Started(None, Clock(), EPOCHS, None, 20, 0.0))
    again.on_end(None)
    if name == "metrics":
        assert reading.lines(killed) == []
    elif name == "table":
        assert csv_of(killed) == b""
    else:
        assert reading.scalars(killed) == {}


def test_an_older_checkpoint_than_the_newest_file_takes_that_file_away(straight, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    pretended.train(run, EPOCHS, stop_at=25)
    first = (run / "checkpoint.json").read_text()
    pretended.train(run, EPOCHS, stop_at=65)
    (run / "checkpoint.json").write_text(first)
    pretended.train(run, EPOCHS)
    assert seen(run) == seen(straight)


def test_a_state_that_names_a_file_elsewhere_touches_nothing(tmp_path):
    outside = tmp_path / "events.out.tfevents.0000000001.perigee"
    outside.write_bytes(b"precious")
    run = tmp_path / "run"
    (run / "events" / "train").mkdir(parents=True)
    writer = TensorBoard(run)
    with pytest.warns(RuntimeWarning, match="is missing"):
        writer.load_state({"size_bytes": {f"../../{outside.name}": 0, str(outside): 0}})
    writer.on_start(Started(None, Clock(step=1), 1, None, None, 0.0))
    writer.on_end(None)
    assert outside.read_bytes() == b"precious"
