"""What the scripts have in common on the command line."""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import tempfile
from pathlib import Path

WORKLOAD_NAMES = ("dense", "convolutional", "transformer", "vae", "gan", "accumulation")
MAIN_CONTESTANTS = ("perigee_arrays", "fit", "by_hand", "orbit", "scan")
"""Who is measured where not all are."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows `--backend`, `--quick` and `--out`."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--backend",
        choices=("tensorflow", "jax", "torch"),
        default=os.environ.get("KERAS_BACKEND", "tensorflow"),
    )
    made.add_argument("--quick", action="store_true", help="a smoke test: figures mean nothing")
    made.add_argument("--out", type=Path, help="the folder for the JSON; benchmarks/results")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and choose the framework, which must not be imported yet."""
    chosen = made.parse_args()
    os.environ["KERAS_BACKEND"] = chosen.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # What Perigee remembers of earlier measurements must not decide about this one.
    cache = tempfile.mkdtemp(prefix="benchmark-")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["XDG_CACHE_HOME"] = cache
    return chosen
