"""What a measurement must say of itself: versions, machine, command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"

_PACKAGES = {"tensorflow": ("tensorflow-cpu", "tensorflow"), "jax": ("jax",), "torch": ("torch",)}


def facts(backend: str) -> dict[str, Any]:
    """Return what says where and how this was measured."""
    framework = next(filter(None, map(_version, _PACKAGES[backend])), "unknown")
    return {
        "backend": backend,
        "is_quick": "--quick" in sys.argv,
        "versions": {
            "perigee": _perigee(),
            "keras": _version("keras"),
            backend: framework,
            "numpy": _version("numpy"),
            "python": platform.python_version(),
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
        },
        "command": _command(),
    }


def write(result: dict[str, Any], name: str, folder: Path | None = None) -> Path:
    """Write one result as `name`.json and return where."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _perigee() -> str:
    """Return the version, with the commit where this is a checkout."""
    from perigee import __version__

    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "src")
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}, commit {commit}{' with changes' if changes else ''}"


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _command() -> str:
    """Return the command as a reader would repeat it, without paths of this machine."""
    path = Path(sys.argv[0])
    module = path.parent.name if path.stem == "__main__" else path.stem
    words = sys.argv[1:]
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    words = ["PATH" if os.path.isabs(word) else word for word in words]
    return " ".join(["python -m", f"benchmarks.{module}", *words])
