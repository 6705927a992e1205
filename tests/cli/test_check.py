"""`perigee check`: what of a file is checked, how it is told, and what is answered to mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from typer.testing import CliRunner

import perigee as pg
from perigee._cli.main import app

HELP = Path(__file__).with_name("check_help.txt")

HEAD = """\
import keras
import numpy as np
import perigee as pg

def made(activation=None):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, activation=activation)])
    model.compile("adam", "mse")
    return model

x = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - 0.5 * x[:, 1:2]
"""

SICK = 'model = made("sigmoid")\nmodel.fit(x, y, epochs=300)\n'
"""Its targets lie outside what a sigmoid can return: PG226, a warning."""

HEALTHY = "model = made()\nmodel.fit(x, y, epochs=300)\n"


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Return what runs `perigee check` on a file of this text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def run(text, *options, name="", head=HEAD):
        Path("train.py").write_text(head + text)
        return CliRunner().invoke(app, ["check", f"train.py{name}", *options])

    return run


def codes(answer):
    return [finding["code"] for finding in json.loads(answer.stdout)["findings"]]


BY_NAME = """\
model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, activation="relu"),
                          keras.layers.Dense(3, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
"""


def test_a_loss_by_name_is_what_it_computes(check):
    healthy = check(BY_NAME + "model.fit(x, x[:, :3].argmax(axis=1), epochs=300)\n")
    sick = check(BY_NAME + "model.fit(x, x.argmax(axis=1), epochs=300)\n", "--format", "json")

    assert healthy.exit_code == 0, healthy.output
    assert codes(sick) == ["PG205"]  # two classes more than the model has


def test_what_is_meant_in_keras_fit_is_left_out(check):
    wide = "model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])\n"
    fit = wide + 'model.compile("adam", "mse")\npg.keras_fit(model, x, y'

    told = check(fit + ")\n", "--format", "json")
    left_out = check(fit + ', ignore_findings=["PG203"])\n', "--format", "json")

    assert codes(told)[0] == "PG203"
    assert "PG203" not in codes(left_out)


def test_a_clean_file_is_left_with_0(check):
    answer = check(HEALTHY)

    assert (answer.exit_code, answer.stderr) == (0, "")
    # Keras numbers its models.
    line = r"train\.py:13: Sequential 'sequential(_\d+)?'\nNothing found\.\n"
    assert re.fullmatch(line, answer.stdout)


def test_a_finding_is_told_with_its_line_and_fails(check):
    answer = check(SICK)

    assert answer.exit_code == 1
    first, count, _, finding = answer.stdout.splitlines()[:4]
    assert first.startswith("train.py:13: Sequential ")
    assert count == "1 warning."
    assert finding.startswith("warning: UnreachableTargets [PG226]: ")
    assert "Traceback" not in answer.output


def test_nothing_is_trained_and_nothing_behind_the_call_runs(check):
    answer = check(f"{HEALTHY}open('after', 'w')\n")

    assert answer.exit_code == 0
    assert not Path("after").exists()
    assert "fit" not in vars(keras.Model)
    assert "fit" not in vars(pg) or pg.fit.__module__ == "perigee._api.fit"


def test_what_a_file_prints_does_not_come_between(check):
    answer = check(f"print('hello')\n{SICK}", "--format", "json")

    assert codes(answer) == ["PG226"]
    assert "hello" in answer.stderr


STEPS = {
    "pg.fit": 'pg.fit(pg.KerasStep(made("sigmoid")), (x, y), epochs=300)\n',
    "imported before": 'from perigee import fit\nfit(pg.KerasStep(made("sigmoid")), data=(x, y))\n',
    "pg.keras_fit": 'pg.keras_fit(made("sigmoid"), x, y, epochs=300)\n',
    "model.fit by keywords": 'made("sigmoid").fit(y=y, x=x, validation_split=0.25)\n',
    "a generator": 'g = iter([(x, y)] * 20)\nmade("sigmoid").fit(g, steps_per_epoch=10)\n',
    "guarded by __name__": f"if __name__ == '__main__':\n    {SICK.splitlines()[0]}\n"
    "    model.fit(x, y)\n",
    "caught by the file": "try:\n    made('sigmoid').fit(x, y)\nexcept BaseException:\n    pass\n",
}


@pytest.mark.parametrize("way", STEPS)
def test_the_first_training_of_a_file_is_checked(check, way):
    answer = check(STEPS[way], "--format", "json")

    assert (answer.exit_code, codes(answer)) == (1, ["PG226"])


NAMED = {
    "a function that returns a pair": "def it(epochs=300):\n    return made('sigmoid'), (x, y)\n",
    "a function that trains": "def it():\n    made('sigmoid').fit(x, y)\n",
    "a pair": "it = made('sigmoid'), (x, y)\n",
    "an experiment": "class it:\n    step, data = made('sigmoid'), (x, y)\n"
    "    validation = x + 1, y\n",
    "a function behind a training": "made().fit(x, y)\ndef it():\n    made('sigmoid').fit(x, y)\n",
    "a model, trained after another one": "other = made()\nother.fit(x, y)\n"
    "it = made('sigmoid')\nit.fit(x, y)\n",
    "what is not guarded": "it = made('sigmoid'), (x, y)\n"
    "if __name__ == '__main__':\n    raise ValueError\n",
}


@pytest.mark.parametrize("way", NAMED)
def test_a_name_says_what_is_checked(check, way):
    answer = check(NAMED[way], "--format", "json", name=":it")

    assert (answer.exit_code, codes(answer)) == (1, ["PG226"])


def test_arguments_behind_two_dashes_are_those_of_the_file(check):
    text = "import sys\nmade(sys.argv[1]).fit(x, y)\n"
    answer = check(text, "--format", "json", "--", "sigmoid")

    assert codes(answer) == ["PG226"]


def test_annotations_are_those_of_a_workflow(check):
    answer = check(SICK, "--format", "github")

    assert answer.exit_code == 1
    (line,) = answer.stdout.splitlines()
    head, _, message = line.removeprefix("::").partition("::")
    assert head == "warning file=train.py,line=13,title=PG226 UnreachableTargets"
    assert "%25 of the targets" in message and "%0AFix: " in message


def test_a_clean_file_has_no_annotations(check):
    assert check(HEALTHY, "--format", "github").stdout == ""


def test_codes_that_are_ignored_do_not_fail(check):
    answer = check(SICK, "--ignore", "pg226,PG220", "--ignore", "PG233")

    assert (answer.exit_code, answer.stdout.splitlines()[-1]) == (0, "Nothing found.")


HINT = "x[:, 2] = 3.0\nmade().fit(x, y)\n"
"""A constant feature: PG322, a hint."""


@pytest.mark.parametrize(
    ("text", "severity", "status"),
    [(HINT, None, 0), (HINT, "hint", 1), (SICK, "warning", 1), (SICK, "error", 0)],
)
def test_what_fails_is_a_choice(check, text, severity, status):
    options = [] if severity is None else ["--fail-on", severity]

    assert check(text, *options).exit_code == status


def test_the_project_says_what_is_ignored_and_what_fails(check, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text('[tool.perigee.check]\nfail-on = "hint"\n')
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    (inner / "pyproject.toml").write_text("[project]\nname = 'other'\n")

    assert check(HINT).exit_code == 1

    (inner / "pyproject.toml").write_text('[tool.perigee.check]\nignore = ["PG226"]\n')

    assert check(HINT).exit_code == 0
    assert check(SICK).exit_code == 0


TABLE = "[tool.perigee.check]\n"

WRONG = {
    "no such file": (["nothing.py"], "", "nothing.py is missing"),
    "a directory": (["."], "", "is a directory, not a Python file"),
    "syntax": (["train.py"], "def f(:\n", "train.py:12: "),
    "no name": (["train.py:modle"], "model = 1\n", "has no 'modle'. Did you mean model"),
    "needs arguments": (["train.py:it"], "def it(a, *, b): ...\n", "no call of `it` in it"),
    "no pair": (["train.py:it"], "it = 3\n", "provides a int"),
    "never trained": (["train.py:it"], "it = made()\n", "does not train it"),
    "no training": (["train.py"], "", "ended without a call of `pg.fit`"),
    "its own loop": (["train.py"], "for _ in range(2): pass", "into `train_step` of a `pg.Step`"),
    "left": (["train.py"], "import sys\nsys.exit(3)\n", "called `sys.exit(3)`"),
    "raised": (["train.py"], "x = 1\n1 / 0\n", "train.py:13: ZeroDivisionError: division by zero"),
    "level": (["train.py", "--level", "ful"], "", "Did you mean full"),
    "format": (["train.py", "--format", "jsn"], "", "Did you mean json"),
    "fail-on": (["train.py", "--fail-on", "never"], "", "not one of error, warning, hint"),
    "code": (["train.py", "--ignore", "PG2200"], "", "Did you mean PG220 ("),
    "not compiled": (["train.py"], "keras.Sequential().fit(x, y)\n", "not compiled"),
    "no step": (["train.py"], "pg.fit(3, (x, y))\n", "subclass `pg.Step`"),
    "no data": (["train.py"], "pg.fit(3)\n", "missing a required argument: 'data'"),
    "no x": (["train.py"], "made().fit()\n", "x=None cannot be used"),
}

WRONG_PROJECTS = {
    "toml": ("[tool", "cannot be read"),
    "setting": (TABLE + "ignored = []\n", "no setting 'ignored', but ignore, level, fail-on."),
    "codes": (TABLE + 'ignore = "PG220"\n', "ignore must be a list of codes"),
    "code": (TABLE + 'ignore = ["PG2200"]\n', "Did you mean PG220"),
    "level": (TABLE + 'level = "fulll"\n', "Did you mean full"),
    "severity": (TABLE + 'fail-on = "warn"\n', "Did you mean warning"),
    "table": ("[tool.perigee]\ncheck = 3\n", "is not a table"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_answered_without_a_traceback(check, mistake):
    arguments, text, message = WRONG[mistake]
    check(text)
    answer = CliRunner().invoke(app, ["check", *arguments])

    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("mistake", WRONG_PROJECTS)
def test_a_mistake_in_the_project_is_answered(check, mistake):
    project, message = WRONG_PROJECTS[mistake]
    Path("pyproject.toml").write_text(project)
    answer = check(HEALTHY)

    assert answer.exit_code == 2
    assert message in answer.stderr and "pyproject.toml" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_what_the_file_raised_is_shown_where_asked_for(check):
    answer = check("1 / 0\n", "--traceback")

    assert answer.exit_code == 2
    assert "Traceback" in answer.stderr and 'train.py", line 12' in answer.stderr


def test_what_the_step_raises_is_told_with_its_line(check):
    text = "def loss(y, p):\n    raise ZeroDivisionError('mine')\n"
    answer = check(f"{text}m = made()\nm.compile('sgd', loss)\nm.fit(x, y)\n")

    assert answer.exit_code == 2
    assert "train.py:13: ZeroDivisionError: mine" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_help_is_as_it_is_written_down(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    answer = CliRunner().invoke(app, ["check", "--help"], prog_name="perigee")

    assert answer.exit_code == 0
    assert answer.stdout == HELP.read_text()


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_a_file_may_choose_its_framework(tmp_path):
    """The file imports Keras itself, after it has said which framework is to run."""
    text = f"import os\nos.environ['KERAS_BACKEND'] = 'jax'\n{HEAD}{SICK}"
    text = text.replace("model.fit", "assert keras.backend.backend() == 'jax'\nmodel.fit")
    (tmp_path / "train.py").write_text(text)
    answer = subprocess.run(
        [sys.executable, "-m", "perigee", "check", "train.py", "--format", "json"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )

    assert answer.returncode == 1, answer.stderr
    assert [f["code"] for f in json.loads(answer.stdout)["findings"]] == ["PG226"]
