"""The tutorial, done as a new user would: in an empty folder, each command as the page has it."""

import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from tests.project.pages import DOCS, blocks_of, files_of, run_page

ROOT = DOCS.parent
PAGE = "tutorial.md"

_STARTS = re.compile(r"^(WARNING: All log messages before absl::InitializeLog|I0000 ).*\n", re.M)
"""What TensorFlow says when it starts, by the processor that it finds."""
_WARNS = re.compile(r"warn|error|traceback|deprecat|^[WEF]\d{4} |: [WEF] ", re.IGNORECASE)
_END = "the end of block"


def commands():
    """The blocks of commands, each with what the page shows of its output, or `None`."""
    blocks = [(language, content) for language, content, _ in blocks_of(PAGE)]
    after = [*blocks[1:], ("", "")]
    return [
        (content, shown if kind == "text" else None)
        for (language, content), (kind, shown) in zip(blocks, after, strict=True)
        if language == "sh"
    ]


def installed_for(venv):
    """Commands that give an environment what is installed here, but for Perigee and all scripts."""
    packages = Path(sysconfig.get_paths()["purelib"])
    target = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    yield f'ln -sn "{packages}"/* "{target}" 2> /dev/null || true'
    yield f'rm -rf "{target}"/*perigee*'
    yield f'rm -f "{target}"/__pycache__'
    for script in entry_points(group="console_scripts", name="tensorboard"):
        module, _, function = script.value.partition(":")
        run = f"from {module} import {function}; {function}()"
        yield f'printf \'#!/bin/sh\\nexec python -c "{run}" "$@"\\n\' > {venv}/bin/tensorboard'
        yield f"chmod +x {venv}/bin/tensorboard"


def transcript(folder, wheel):
    """Run all commands in one shell; return what each block wrote, and its status."""
    for name, text in files_of(PAGE).items():
        (folder / name).write_text(text, encoding="utf-8")
    lines = []
    for number, (block, _) in enumerate(commands()):
        lines += [f"{block}status=$?", f'echo; echo "{_END} {number}: $status"']
        if number == 0:
            lines += installed_for(folder / ".venv")
        if "cd spirals" in block:  # where the page says to write its files
            lines += [f"mv ../{name} ." for name in files_of(PAGE)]
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "XDG_CACHE_HOME")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "PERIGEE": str(wheel),
        "PIP_NO_DEPS": "1",  # what it needs is there
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with (folder / "transcript").open("w+") as output:
        subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=1800,
            check=False,
        )
        output.seek(0)
        said = _STARTS.sub("", output.read())
        found = re.findall(rf"(.*?)\n?^{_END} \d+: (\d+)$\n?", said, re.DOTALL | re.M)
    return [(written, int(status)) for written, status in found]


def pattern(shown):
    """What a page shows of an output: `...` is anything, as a line of its own any lines."""
    lines = [re.escape(line).replace(r"\.\.\.", ".*") for line in shown.splitlines()]
    parts = ["(?:.*\n)*" if line == ".*" else f"{line}\n" for line in lines]
    return "".join(parts)


def unexplained(output, page):
    """Lines that warn of something, and do not stand on the page."""
    return [line for line in output.splitlines() if _WARNS.search(line) and line not in page]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, ROOT], check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_the_code_of_the_tutorial_runs_and_prints_what_it_shows():
    missing = [
        (line, text) for line, text, printed in run_page(PAGE) if text.strip() not in printed
    ]
    assert missing == []


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.only_tensorflow
def test_a_new_user_gets_from_an_empty_folder_to_a_served_model(tmp_path, wheel):
    page = (DOCS / PAGE).read_text(encoding="utf-8")

    ran = transcript(tmp_path, wheel)

    whole = (tmp_path / "transcript").read_text()
    assert len(ran) == len(commands()), whole
    for (block, shown), (written, status) in zip(commands(), ran, strict=True):
        assert status == 0, f"{block}\n{written}"
        assert unexplained(written, page) == [], f"{block}\n{written}"
        if shown is not None:
            assert re.fullmatch(pattern(shown), f"{written.strip()}\n"), f"{block}\n{written}"
    assert "Killed" in whole
    assert "Resumes after step" in whole
    installed = tmp_path / ".venv" / "lib"
    assert [*installed.rglob("perigee/py.typed")], "the wheel is what ran"
    assert re.search(r"Scalars|scalars", whole), "TensorBoard read the files"


def test_what_a_page_shows_is_held_against_all_of_an_output():
    assert re.fullmatch(pattern("one\n...\nfour ...\n"), "one\ntwo\nthree\nfour 4\n")
    assert not re.fullmatch(pattern("one\nfour\n"), "one\ntwo\nfour\n")
    assert not re.fullmatch(pattern("one\n"), "one\nWARNING: two\n")


def test_a_warning_is_explained_only_by_the_page():
    noise = "I0000 00:00 fine\nW0000 00:00:1 slow\nUserWarning: odd\n2026: E external/x failed\n"

    assert unexplained(noise, "It says `UserWarning: odd`:\nUserWarning: odd") == [
        "W0000 00:00:1 slow",
        "2026: E external/x failed",
    ]
