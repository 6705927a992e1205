"""The page about writers runs, and the writer on it keeps what it promises."""

import json
import sqlite3

from perigee._events.clock import Clock
from perigee._events.events import Recorded, Started
from tests.project.pages import blocks_of, run_page

PAGE = "writers.md"


def test_the_code_of_the_page_runs_and_prints_what_it_shows():
    shown = run_page(PAGE)
    assert {language for language, _, _ in blocks_of(PAGE)} == {"python", "text"}
    assert shown != []
    assert [(line, text) for line, text, printed in shown if text.strip() != printed.strip()] == []


def test_the_writer_of_the_page_shows_each_step_once_after_a_resume(tmp_path):
    namespace = {"__name__": PAGE}
    exec(blocks_of(PAGE)[0][1], namespace)
    path = tmp_path / "records.db"

    def write(clock, steps, state=None):
        writer = namespace["Sqlite"](path)
        if state is not None:
            writer.load_state(state)
        writer.on_start(Started(None, clock, 1, None, None, 0.0))
        states = {}
        for step in steps:
            at = Clock(step, 0, step)
            writer.on_record(Recorded(at, "steps", {"loss": step / 2}, lambda reason: None, 0.0))
            states[step] = json.loads(json.dumps(writer.state()))
        writer.on_end(None)
        return states

    saved = write(Clock(), [1, 2, 3, 4])[2]
    write(Clock(2, 0, 2), [3, 4, 5], saved)
    rows = sqlite3.connect(path).execute("select step, value from records order by rowid")
    assert list(rows) == [(step, step / 2) for step in (1, 2, 3, 4, 5)]
