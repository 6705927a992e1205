"""The commands that train, measure and list, and what they say to mistakes."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import perigee as pg
from perigee._cli import training
from perigee._cli.experiments import opened
from perigee._cli.main import app
from tests.cli import experiments
from tests.report.kept import made, points_of

HELP = Path(__file__).parent / "help"
COMMANDS = (
    *("", "fit", "evaluate", "predict", "parity", "verify", "bench"),
    *("runs", "report", "new", "explain", "launch"),
)


def invoke(*arguments):
    environment = {"COLUMNS": "80", "TERMINAL_WIDTH": "80"}
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, given, prog_name="perigee", env=environment)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with right and wrong files in it."""
    experiments.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("right", "data", "step"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_it_was(command):
    answer = invoke(*command.split(), "--help")

    assert answer.exit_code == 0
    golden = HELP / f"{command or 'perigee'}.txt"
    if "WRITE_HELP" in os.environ:
        golden.write_text(answer.stdout)
    assert answer.stdout == golden.read_text()


def test_fit_trains_as_the_file_says_and_keeps_it(folder):
    answer = invoke("fit", "right.py", "--run", "runs/a")

    assert answer.exit_code == 0, answer.output
    assert "Finished at step 8 (2 epochs)" in answer.output
    page = (folder / "runs" / "a" / "report.html").read_text()
    assert [step for step, _ in points_of(page, "loss")] == [4, 8]
    facts = json.loads((folder / "runs" / "a" / "run.json").read_text())
    assert facts["seed"] == 3
    assert facts["configuration"]["arguments"]["batch_size"] == 8


def test_the_same_command_goes_on_with_more(folder):
    invoke("fit", "right.py", "--run", "runs/a")
    answer = invoke("fit", "right.py", "--run", "runs/a", "--epochs", "3")
    straight = invoke("fit", "right.py", "--run", "runs/b", "--epochs", "3")

    assert answer.exit_code == straight.exit_code == 0, answer.output
    assert "Resumes after step 8" in answer.output
    lines = [
        [json.loads(line)["values"] for line in (folder / "runs" / name / "metrics.jsonl").open()]
        for name in ("a", "b")
    ]
    assert lines[0] == lines[1]


def test_options_replace_what_the_file_says(folder):
    answer = invoke(
        "fit", "right.py", "--run", "runs/a", "--steps", "5", "--batch-size", "4", "--no-shuffle",
        "--no-validate", "--accumulate", "1", "--nonfinite", "stop", "--seed", "4",
        "--execution", "eager", "--steps-per-call", "1", "--progress", "lines",
        "--save-every", "2 steps", "--keep", "2", "--resume", "never",
        "--set", "step.slope=3", "--set", "data.rows=64",
    )  # fmt: skip

    assert answer.exit_code == 0, answer.output
    assert "loading 64" in answer.output
    facts = json.loads((folder / "runs" / "a" / "run.json").read_text())
    arguments = facts["configuration"]["arguments"]
    assert (arguments["steps"], arguments["batch_size"], arguments["nonfinite"]) == (5, 4, "stop")
    assert "epochs" not in arguments and arguments["shuffle"] is False
    assert facts["seed"] == 4
    assert facts["plan"]["mode"] == "eager"
    assert facts["configuration"]["attributes"]["slope"] == 3.0
    assert sorted(facts["configuration"]["data"]) == ["data"]
    kept = [path.name for path in sorted((folder / "runs" / "a" / "checkpoints").iterdir())]
    assert kept == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("slope=3", "slope", 3.0),
        ("slope=1e-3", "slope", 1e-3),
        ("name=5", "name", "5"),
        ("name=a b", "name", "a b"),
        ("wide=true", "wide", True),
        ("sizes=(2, 3)", "sizes", (2, 3)),
        ("name=None", "name", None),
    ],
)
def test_settings_are_of_the_kind_of_their_defaults(setting, name, value):
    seen = {}

    def make(slope=2.0, name="line", wide=False, sizes=(1,)):
        seen.update(slope=slope, name=name, wide=wide, sizes=sizes)
        return pg.Step()

    pg.Experiment(make, [1]).make_step(dict([setting.split("=", 1)]))

    assert seen[name] == value and type(seen[name]) is type(value)


def test_a_dry_run_tries_all_and_leaves_nothing(folder, monkeypatch):
    temporary = folder / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}

    answer = invoke("fit", "right.py", "--dry-run", "--run", "runs/a", "--epochs", "100")

    assert answer.exit_code == 0, answer.output
    assert "2 steps trained, validated and saved" in answer.stdout
    assert "resumed for 2 more" in answer.stdout
    assert "Logged: loss, val_loss." in answer.stdout
    after = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    assert after == before


def test_a_few_batches_can_be_learned_by_heart(folder):
    answer = invoke(
        "fit", "right.py", "--overfit-batches", "1", "--epochs", "60", "--progress", "off"
    )

    assert answer.exit_code == 0, answer.output
    said = answer.stdout.splitlines()[-1]
    assert said.startswith("On 1 batch: loss ")
    first, last = (float(word.strip(".,")) for word in said.split("loss ")[1].split(" -> "))
    assert last < first / 100
    assert "val_loss" not in said


@pytest.fixture
def kept(folder):
    """A file whose experiment has a run of its own."""
    text = (folder / "right.py").read_text().replace('"seed": 3}', '"seed": 3, "run": "runs/own"}')
    (folder / "kept.py").write_text(text)
    return folder


def below(path):
    return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("is_there", [False, True], ids=["a new run", "a run"])
@pytest.mark.parametrize(
    "options",
    [
        ["--overfit-batches", "2"],
        ["--dry-run"],
        ["--dry-run", "--overfit-batches", "2"],
        ["--overfit-batches", "2", "--run", "runs/other"],
        ["--overfit-batches", "2", "--run", "runs/own"],
        ["--overfit-batches", "2", "--keep", "1"],
        ["--overfit-batches", "2", "--profile"],
    ],
    ids=" ".join,
)
def test_another_training_than_the_experiments_leaves_its_run_alone(kept, options, is_there):
    if is_there:
        assert invoke("fit", "kept.py", "--epochs", "1").exit_code == 0
    before = below(kept / "runs")

    answer = invoke("fit", "kept.py", *options)

    is_refused = options[-1] in ("runs/own", "1", "--profile")
    assert answer.exit_code == (2 if is_refused else 0), answer.output
    if options[-1] == "runs/own":
        assert "the experiment's own run" in answer.output
    elif is_refused:
        assert "pass --run DIR" in answer.output
    assert (kept / "runs" / "other" / "run.json").exists() == (options[-1] == "runs/other")
    after = {p: held for p, held in below(kept / "runs").items() if "other" not in p.parts}
    assert after == before
    assert "Finished at step 8" in invoke("fit", "kept.py").output  # as documented


def test_a_profile_does_not_follow_a_link(folder):
    (folder / "elsewhere").mkdir()
    (folder / "runs" / "a").mkdir(parents=True)
    (folder / "runs" / "a" / "profile").symlink_to(folder / "elsewhere")

    answer = invoke("fit", "right.py", "--run", "runs/a", "--profile")

    assert answer.exit_code != 0
    assert "profile is a link to" in answer.output
    assert not list((folder / "elsewhere").iterdir())


def test_a_folder_of_another_tool_is_refused_with_the_fix(folder):
    (folder / "runs").mkdir()
    (folder / "runs" / "metrics.jsonl").write_text("{}\n")

    answer = invoke("fit", "right.py", "--run", "runs")

    assert answer.exit_code == 2
    assert "PG502" in answer.output and 'runs/run"`' in answer.output
    assert [path.name for path in (folder / "runs").iterdir()] == ["metrics.jsonl"]


def test_a_profile_is_kept_in_the_run_and_said(folder):
    answer = invoke("fit", "right.py", "--run", "runs/a", "--profile")

    assert answer.exit_code == 0, answer.output
    assert list((folder / "runs" / "a" / "profile").rglob("*.xplane.pb"))
    said = answer.stdout.partition("report.html there shows it.\n")[2]
    assert "steps 4 to 6, in runs/a/profile" in said
    assert "time: compiling" in said and "of that" in said
    assert "utilization" in (folder / "runs" / "a" / "report.html").read_text()


def test_evaluate_measures_the_weights_of_a_run(folder):
    invoke("fit", "right.py", "--run", "runs/a", "--best", "val_loss")

    answer = invoke("evaluate", "right.py", "--run", "runs/a")
    fresh = invoke("evaluate", "right.py", "--untrained")
    best = invoke(
        "evaluate", "right.py", "--run", "runs/a", "--which", "best", "--best", "val_loss"
    )

    lines = [json.loads(line) for line in (folder / "runs" / "a" / "metrics.jsonl").open()]
    trained = lines[-1]["values"]["val_loss"]
    assert answer.exit_code == best.exit_code == 0, answer.output + best.output
    assert "Weights of runs/a after step 8" in answer.stdout
    assert float(answer.stdout.split()[-1]) == pytest.approx(trained, rel=1e-4)
    assert float(best.stdout.split()[-1]) == pytest.approx(trained, rel=1e-4)
    assert float(fresh.stdout.split()[-1]) > 1.1 * trained


def last_line(answer):
    assert answer.exit_code == 0, answer.output
    return answer.stdout.splitlines()[-1]


def test_evaluate_takes_the_best_checkpoint_of_the_experiments_run(kept):
    text = (kept / "right.py").read_text()  # it gets worse: the best is not the newest
    (kept / "worse.py").write_text(
        text.replace("SGD(0.05)", "SGD(1.5)").replace(
            '"seed": 3}', '"seed": 3, "run": pg.Run("runs/own", best="val_loss", keep=1)}'
        )
    )
    assert invoke("fit", "worse.py").exit_code == 0
    records = [json.loads(line) for line in (kept / "runs" / "own" / "metrics.jsonl").open()]
    losses = [r["values"]["val_loss"] for r in records if r["kind"] == "epoch"]
    assert losses[0] < losses[1]

    best = invoke("evaluate", "worse.py")
    newest = invoke("evaluate", "worse.py", "--which", "newest")
    of_another_file = invoke("evaluate", "right.py", "--run", "runs/own")

    assert "step 4, best by val_loss" in best.stdout
    assert "runs/own/checkpoints/step-00000004" in best.stdout
    assert last_line(best) == last_line(of_another_file) == f"loss  {losses[0]:.6g}"
    assert "step 8: runs/own/checkpoints/step-00000008" in newest.stdout
    assert last_line(newest) == f"loss  {losses[1]:.6g}"


def test_evaluate_takes_the_newest_checkpoint_where_none_is_best(kept):
    assert invoke("fit", "kept.py").exit_code == 0

    answer = invoke("evaluate", "kept.py")

    assert "step 8: runs/own/checkpoints/step-00000008" in answer.stdout
    best = invoke("evaluate", "kept.py", "--which", "best")
    assert best.exit_code == 2 and "trained with `best=`" in best.output


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["right.py"], "PG601"),
        (["kept.py"], "PG548"),
        (["kept.py", "--run", "runs/empty"], "PG522"),
        (["kept.py", "--which", "newer"], "newest, best, or the number"),
        (["kept.py", "--untrained", "--which", "best"], "omit --run, --which and --best"),
    ],
    ids=" ".join,
)
def test_random_weights_are_used_on_request_only(kept, command, options, said):
    (kept / "runs" / "empty").mkdir(parents=True)
    assert invoke("fit", "right.py", "--run", "runs/made").exit_code == 0
    facts = (kept / "runs" / "made" / "run.json").read_bytes()
    (kept / "runs" / "empty" / "run.json").write_bytes(facts)

    answer = invoke(command, *options)

    assert answer.exit_code == 2, answer.output
    assert said in answer.output
    assert "--untrained" in answer.output or "newer" in options
    assert not (kept / "predictions.npz").exists()


def test_predict_writes_arrays_by_their_names(folder):
    (folder / "named.py").write_text(
        "import perigee as pg\nfrom right import Line, load, others\n"
        "class Named(Line):\n"
        "    def predict_step(self, batch):\n"
        "        y = self.model(batch)\n"
        "        return {'file': y, 'more': (batch, 2 * y[:, 0])}\n"
        "class Plain(Named):\n"
        "    def predict_step(self, batch):\n"
        "        return self.model(batch)\n"
        "fit = {'epochs': 1, 'batch_size': 8, 'run': 'runs/named'}\n"
        "named = pg.Experiment(Named, load, validation=others, fit=fit)\n"
        "plain = pg.Experiment(Plain, load, validation=others, fit=fit)\n"
    )
    assert invoke("fit", "named.py:named").exit_code == 0

    answer = invoke("predict", "named.py:named")
    again = invoke("predict", "named.py:named")
    plain = invoke("predict", "named.py:plain", "--on", "data", "-o", "plain.npz")

    assert answer.exit_code == 0, answer.output
    assert "Weights of runs/named after step 4" in answer.stdout
    assert "more/0  float32 (16, 2)" in answer.stdout
    assert again.exit_code == 2 and "this file exists" in again.output
    arrays = np.load("predictions.npz", allow_pickle=False)
    assert sorted(arrays) == ["file_", "more/0", "more/1"]
    np.testing.assert_array_equal(arrays["more/1"], 2 * arrays["file_"][:, 0])
    assert plain.exit_code == 0, plain.output
    assert np.load("plain.npz")["predictions"].shape == (32, 1)
    missing = invoke("predict", "right.py", "--untrained", "-o", "missing.npz")
    assert missing.exit_code == 2 and "predict_step" in missing.output


@pytest.mark.parametrize(
    "command",
    [
        ["bench", "--steps", "2", "--rounds", "1"],
        ["parity", "kept.py", "experiment", "--steps", "2"],
        ["verify", "--steps", "2"],
        ["check"],
        ["evaluate"],
        ["evaluate", "--untrained"],
        ["predict"],
    ],
    ids=" ".join,
)
def test_the_experiments_run_is_not_touched_by_other_commands(kept, command):
    name, *options = command
    text = (kept / "kept.py").read_text().replace(
        "    def errors", "    def predict_step(self, batch):\n"
        "        return self.model(batch)\n\n    def errors"
    )  # fmt: skip
    (kept / "kept.py").write_text(text)
    assert invoke("fit", "kept.py", "--epochs", "1").exit_code == 0
    places = [kept / "runs", *(kept / "runs").rglob("*")]
    before = below(kept / "runs"), {p: p.stat().st_mtime_ns for p in places}

    given = options if name == "parity" else ["kept.py", *options]
    answer = invoke(name, *given)

    assert answer.exit_code == 0, answer.output
    places = [kept / "runs", *(kept / "runs").rglob("*")]
    assert (below(kept / "runs"), {p: p.stat().st_mtime_ns for p in places}) == before


def test_the_whole_command_line_is_kept(folder, monkeypatch):
    command = ["python", "-X", "utf8", "-m", "perigee", "fit", "right.py", "--run", "runs/a"]
    monkeypatch.setattr(sys, "orig_argv", command)

    assert invoke(*command[5:]).exit_code == 0

    facts = json.loads((folder / "runs" / "a" / "run.json").read_text())
    assert facts["command"] == command


def test_verify_finds_a_step_that_resumes_and_one_that_does_not(folder):
    (folder / "drawing.py").write_text(
        "import numpy as np, perigee as pg\nfrom right import Line, load\n"
        "class Drawing(Line):\n"
        "    draw = np.random.default_rng(0)\n"
        "    def train_step(self, batch):\n"
        "        return super().train_step(batch * float(self.draw.normal()))\n"
        "experiment = pg.Experiment(Drawing, load, fit={'execution': 'eager', 'batch_size': 8})\n"
    )

    right = invoke("verify", "right.py", "--steps", "4")
    wrong = invoke("verify", "drawing.py", "--steps", "4")

    assert right.exit_code == 0, right.output
    assert "4 steps, and 2 and 2: equal in" in right.stdout
    assert wrong.exit_code == 1
    assert "differs from one that was not stopped" in wrong.stderr
    assert "Traceback" not in wrong.output


OTHERS = """
from right import Line, experiment, load, make

class Halved(Line):
    def errors(self, batch):
        return super().errors(batch) / 2

halved = Halved

def loop(batch):
    step.train_step(batch)

step = make()
plain = (loop, [step.model, step.optimizer])
number = 3
"""


@pytest.mark.parametrize(
    ("against", "status", "said"),
    [
        ("experiment", 0, "Equal, bit for bit: 4 steps"),
        ("right.py", 0, "Equal, bit for bit: 4 steps"),
        ("step", 0, "Equal"),
        ("plain", 0, "Equal"),
        ("halved", 1, "They differ at step 0: model/"),
        ("nothing", 2, "has no 'nothing'"),
        ("number", 2, "provides a int"),
        ("nowhere.py", 2, "nowhere.py is missing"),
    ],
)
def test_parity_holds_an_experiment_against_something_else(folder, against, status, said):
    (folder / "others.py").write_text(OTHERS)

    answer = invoke("parity", "others.py", against, "--steps", "4")

    assert answer.exit_code == status, answer.output
    assert said in answer.output
    assert "Traceback" not in answer.output


def test_bench_measures_every_way_and_keeps_nothing(folder):
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}

    answer = invoke("bench", "right.py", "--steps", "4", "--rounds", "2", "--set", "data.rows=64")

    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if "steps/s" in line)
    *ways, shares = lines[head + 1 :]
    names = [way.partition("  ")[0] for way in ways]
    assert names[0] == "graph, many steps per call" and "eager, one step per call" in names
    rates = {name: float(way.split()[-2]) for name, way in zip(names, ways, strict=True)}
    ratios = {name: float(way.split()[-1]) for name, way in zip(names, ways, strict=True)}
    assert ratios[names[0]] == 1.0
    for name in names:
        assert ratios[name] == pytest.approx(rates[name] / rates[names[0]], rel=0.02, abs=0.01)
    parts = dict(part.rsplit(" ", 2)[:2] for part in shares.split(": ")[1].split(", "))
    assert sum(map(float, parts.values())) == pytest.approx(100, abs=0.5)
    assert "compiling" not in parts
    running = [line for line in answer.stderr.splitlines() if line.endswith(" per call")]
    turns = ("compiling", "round 1 of 2", "round 2 of 2")
    assert running == [f"{turn}: {name}" for turn in turns for name in names]
    after = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    assert after == before


def test_the_options_of_fit_are_its_arguments():
    options = set(inspect.signature(training.fit).parameters) - {"file", "set_", "traceback"}
    own = {"accept_changes", "validate", "dry_run", "overfit_batches", "profile"}
    of_execution = {"execution", "steps_per_call"}
    run = {field.name for field in fields(pg.Run)} & options

    arguments = {*inspect.signature(pg.fit).parameters, *of_execution}
    assert options - own - run <= arguments
    missing = arguments - options
    assert missing == {"step", "data", "validation", "callbacks", "guards"}


def test_completion_can_be_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # no shell runs this
    installed = invoke("--install-completion", "bash")
    asked = {"_PERIGEE_COMPLETE": "complete_bash", "COMP_WORDS": "perigee ev", "COMP_CWORD": "1"}

    answer = CliRunner().invoke(app, [], prog_name="perigee", env=asked)

    assert installed.exit_code == 0, installed.output
    script = (tmp_path / ".bash_completions" / "perigee.sh").read_text()
    assert "_PERIGEE_COMPLETE=complete_bash" in script
    assert "perigee.sh" in (tmp_path / ".bashrc").read_text()
    assert answer.stdout.split() == ["evaluate"]


def test_check_takes_an_experiment(folder):
    answer = invoke("check", "right.py:experiment")

    assert answer.exit_code == 0, answer.output
    assert (
        invoke("check", "right.py").stdout.partition("\n")[2] == (answer.stdout.partition("\n")[2])
    )


def test_runs_and_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"a": [3.0, 1.0], "b": [2.0, 0.5]}
    for name, losses in values.items():
        made(tmp_path / "runs" / name, [{"loss": loss} for loss in losses])
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "c" / "run.json").write_text("damaged")

    listed = invoke("runs", "--sort", "loss")
    one = invoke("report", "runs/a")
    both = invoke("report", "runs/a", "runs/b", "-o", "both.html")

    assert listed.exit_code == one.exit_code == both.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["run", "b", "a"]
    assert "runs/c is skipped" in listed.stderr
    assert one.stdout.strip() == "runs/a/report.html"
    page = (tmp_path / "both.html").read_text()
    for number, losses in enumerate(values.values()):
        assert [value for _, value in points_of(page, "loss", run=number)] == losses


USAGE = [
    ("fit",),
    ("fit", "nowhere.py"),
    ("fit", "."),
    ("fit", "right.py:nothing"),
    ("fit", "right.py:make"),
    ("fit", "empty.py"),
    ("fit", "script.py"),
    ("fit", "syntax.py"),
    ("fit", "bytes.py"),
    ("fit", "leaves.py"),
    ("fit", "several.py"),
    ("fit", "no_step.py"),
    ("fit", "no_argument.py"),
    ("fit", "no_default.py"),
    ("fit", "no_made.py"),
    ("fit", "no_data.py"),
    ("fit", "no_dict.py"),
    ("fit", "right.py", "--epochs", "0"),
    ("fit", "right.py", "--epochs", "many"),
    ("fit", "right.py", "--epoch", "2"),
    ("fit", "right.py", "--execution", "fast"),
    ("fit", "right.py", "--steps-per-call", "1000"),
    ("fit", "right.py", "--nonfinite", "ignore"),
    ("fit", "right.py", "--validate-every", "sometimes"),
    ("fit", "right.py", "--validate-every", "0 steps"),
    ("fit", "right.py", "--save-every", "1 step"),
    ("fit", "right.py", "--best", "val_loss"),
    ("fit", "right.py", "--run", "r", "--best", "beauty"),
    ("fit", "right.py", "--run", "r", "--resume", "required"),
    ("fit", "right.py", "--profile"),
    ("fit", "right.py", "--run", "r", "--profile", "--dry-run"),
    ("fit", "right.py", "--set", "slope=3"),
    ("fit", "right.py", "--set", "step.slope"),
    ("fit", "right.py", "--set", "model.slope=3"),
    ("fit", "right.py", "--set", "step.slop=3"),
    ("fit", "right.py", "--set", "step.slope=steep"),
    ("fit", "right.py", "--set", "data.columns=3"),
    ("fit", "plain_data.py", "--set", "data.rows=3"),
    ("fit", "no_validation.py", "--validate-every", "1 epoch", "--validation-steps", "x"),
    ("evaluate", "no_validation.py"),
    ("evaluate", "right.py", "--run", "nowhere"),
    ("evaluate", "right.py", "--run", "nowhere", "--which", "last"),
    ("verify", "right.py", "--steps", "1"),
    ("verify", "right.py", "--steps", "4", "--at", "4"),
    ("bench",),
    ("bench", "nowhere.py"),
    ("bench", "right.py", "--steps", "0"),
    ("bench", "right.py", "--rounds", "x"),
    ("bench", "empty.py"),
    ("parity", "right.py"),
    ("parity", "right.py", "nothing"),
    ("parity", "right.py", "nowhere.py"),
    ("parity", "empty.py", "make"),
    ("parity", "right.py", "np"),
    ("parity", "right.py", "make", "--tolerance", "-1"),
    ("runs", "nowhere"),
    ("runs", "kept", "--value", "beauty"),
    ("report",),
    ("report", "nowhere"),
    ("report", "."),
    ("new", "kept"),
    ("new",),
    ("explain", "PG999"),
    ("train", "right.py"),
]
"""Mistakes of the command line and of files, which Perigee refuses."""

RAISING = [
    ("fit", "raises.py"),
    ("fit", "missing.py"),
    ("fit", "bad_step.py"),
    ("fit", "bad_data.py"),
    ("fit", "bad_step.py", "--dry-run"),
    ("evaluate", "raises.py"),
    ("verify", "bad_step.py"),
    ("bench", "bad_step.py"),
    ("bench", "bad_data.py"),
    ("parity", "raises.py", "make"),
    ("parity", "bad_step.py", "make"),
]
"""Files whose own code raises."""

SAID = {
    ("fit", "right.py:nothing"): "experiment",
    ("fit", "script.py"): "python script.py",
    ("fit", "syntax.py"): "syntax.py:1",
    ("fit", "several.py"): "a, b",
    ("fit", "no_argument.py"): "`epochs`",
    ("fit", "right.py", "--set", "step.slop=3"): "`step.slope`",
    ("fit", "right.py", "--set", "step.slope=steep"): "float",
    ("fit", "right.py", "--best", "val_loss"): "--run DIR",
    ("report", "."): "kept",
    ("runs", "kept", "--value", "beauty"): "loss",
    ("fit", "bad_step.py"): "ZeroDivisionError: of the step",
    ("fit", "missing.py"): "a_package_that_is_not_there",
    ("fit", "bad_data.py"): "bad_data.py:4: ",
}


def test_the_table_of_mistakes_is_long_enough():
    assert len({*USAGE, *RAISING}) >= 40
    assert SAID.keys() <= {*USAGE, *RAISING}


@pytest.mark.parametrize("arguments", USAGE + RAISING, ids=" ".join)
def test_mistakes_are_answered_without_a_traceback(folder, arguments):
    made(folder / "kept", [{"loss": 1.0}])

    answer = invoke(*arguments)

    assert answer.exit_code == (1 if arguments in RAISING else 2), answer.output
    assert "Traceback" not in answer.output
    assert answer.stderr.strip(), "it says nothing"
    assert len(answer.stderr) < 1500
    assert SAID.get(arguments, "") in answer.stderr
    assert answer.exception is None or isinstance(answer.exception, SystemExit)


def test_a_traceback_is_shown_where_it_is_asked_for(folder):
    answer = invoke("fit", "bad_step.py", "--traceback")

    assert answer.exit_code == 1
    assert "Traceback" in answer.stderr and 'bad_step.py", line' in answer.stderr


def test_nothing_of_a_file_stays_behind(folder):
    path, modules = list(sys.path), set(sys.modules)

    with opened("right.py") as experiment:
        assert experiment.fit["epochs"] == 2

    assert sys.path == path
    assert "right" not in set(sys.modules) - modules


@pytest.mark.process
@pytest.mark.slow
def test_a_new_project_passes_its_own_tests_and_runs(tmp_path, monkeypatch):
    assert invoke("new", tmp_path / "mine").exit_code == 0
    monkeypatch.chdir(tmp_path / "mine")

    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(tests, capture_output=True, text=True, timeout=300)
    trained = invoke("fit", "experiment.py", "--epochs", "12")
    measured = invoke("evaluate", "experiment.py", "--run", "runs/first")

    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
    assert trained.exit_code == measured.exit_code == 0, trained.output + measured.output
    assert float(measured.stdout.split()[-1]) > 0.8
    assert len(list(Path("runs/first/samples").rglob("*.png"))) == 12
