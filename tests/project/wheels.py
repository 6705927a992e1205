"""The wheel, installed with each extra into an empty environment, and tried there.

Newest versions of all three frameworks, the oldest that pyproject.toml allows, and other packages
in place of extras:

python -m tests.project.wheels
python -m tests.project.wheels jax --lowest
python -m tests.project.wheels tensorflow=tensorflow-cpu torch=torch==2.13.0
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "wheels"
EXTRAS = ("tensorflow", "jax", "torch")
SHIPPED = ("py.typed", "report/page.js", "report/page.css", "_cli/project/gitignore")

INSTALLED = """
import importlib.metadata, importlib.util, pathlib, sys
import perigee as pg

folder = pathlib.Path(pg.__file__).parent
assert "site-packages" in folder.parts, folder
missing = [name for name in {shipped} if not (folder / name).is_file()]
assert not missing, missing
loaded = {frameworks} & sys.modules.keys()
assert not loaded, loaded
others = [name for name in {others} if importlib.util.find_spec(name)]
assert not others, others
[getattr(pg, name) for name in pg.__all__]
import keras

assert keras.backend.backend() == "{backend}"
names = ["perigee", "keras", "numpy", "{package}"]
versions = [f"{{name}} {{importlib.metadata.version(name)}}" for name in names]
print(", ".join(["python " + sys.version.split()[0], *versions]))
"""


def build():
    """Build the wheel as its users get it, and return its path."""
    shutil.rmtree(FOLDER / "dist", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", FOLDER / "dist", ROOT], check=True)
    (wheel,) = (FOLDER / "dist").glob("perigee-*.whl")
    return wheel


def lower_ends(extra):
    """The oldest versions that `pyproject.toml` allows, as requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return [requirement.replace(">=", "==") for requirement in wanted if ">=" in requirement]


def install(wheel, extra, package, is_lowest, python):
    """Return the folder of the programs of a new environment with the wheel in it."""
    venv = FOLDER / extra
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([python, "-m", "venv", venv], check=True)
    wanted = [f"{wheel}[{extra}]"] if package is None else [str(wheel), package]
    if is_lowest:
        named = re.split(r"[=<>]", package or extra)[0]
        wanted += [pin.replace(f"{extra}==", f"{named}==") for pin in lower_ends(extra)]
    pip = [venv / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", *wanted, "pytest", "scikit-learn"], check=True)
    subprocess.run([*pip, "check"], check=True)
    return venv / "bin"


def attempt(programs, extra, package):
    """Do what a user does first; return a line that says with which versions."""
    place = FOLDER / f"{extra}-tried"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "digits.py", place)
    kept = ("HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS")
    environment = {name: os.environ[name] for name in kept if name in os.environ} | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "KERAS_BACKEND": extra,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "XDG_CACHE_HOME": str(place / "cache"),
    }

    def run(*command, folder=place):
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
        return done.stdout

    facts = {
        "shipped": SHIPPED,
        "frameworks": {"keras", *EXTRAS},
        "others": [name for name in EXTRAS if name != extra],
        "backend": extra,
        "package": re.split(r"[=<>\[]", package or extra)[0],
    }
    versions = run("python", "-c", INSTALLED.format(**facts)).splitlines()[-1]
    run("perigee", "--version")
    run("python", "digits.py", "--run", "runs/digits")
    assert (place / "runs" / "digits" / "report.html").stat().st_size > 10_000
    run("perigee", "new", "first")
    assert "Nothing found." in run("perigee", "check", "experiment.py", folder=place / "first")
    run("perigee", "fit", "experiment.py", "--epochs", "2", folder=place / "first")
    run("perigee", "report", "runs/first", folder=place / "first")
    run("python", "-m", "pytest", "-q", folder=place / "first")
    return versions


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("extras", nargs="*", default=EXTRAS, metavar="EXTRA[=PACKAGE]")
    parser.add_argument("--lowest", action="store_true", help="The oldest versions allowed.")
    parser.add_argument("--python", default=sys.executable, help="Of the new environments.")
    asked = parser.parse_args()
    wheel = build()
    print(f"{wheel.name}: {wheel.stat().st_size} bytes", flush=True)
    failed = False
    for given in asked.extras:
        extra, _, package = given.partition("=")
        package = package or None
        try:
            programs = install(wheel, extra, package, asked.lowest, asked.python)
            print(f"{extra}: passed ({attempt(programs, extra, package)})", flush=True)
        except (AssertionError, subprocess.SubprocessError) as error:
            failed = True
            print(f"{extra}: failed\n{error}", flush=True)
        shutil.rmtree(FOLDER / extra, ignore_errors=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
