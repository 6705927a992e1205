"""`perigee new`: a small project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perigee._cli.answering import answering
from perigee._cli.files import FileError

_TEMPLATE = Path(__file__).parent / "project"


@answering
def new(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="The directory to create; it must not exist.")
    ],
) -> None:
    """Create a small project: a step, data, an experiment, and tests that pass."""
    if name.exists():
        raise FileError(f"{name} already exists; name another directory.")
    title = name.resolve().name
    try:
        name.mkdir(parents=True)
    except OSError as error:
        raise FileError(f"{name} cannot be created: {error.strerror}.") from error
    for source in sorted(_TEMPLATE.iterdir()):
        if source.is_file():
            target = name / (".gitignore" if source.name == "gitignore" else source.name)
            text = source.read_text(encoding="utf-8")
            if source.suffix == ".md":
                text = text.replace("{name}", title)
            target.write_text(text, encoding="utf-8")
    typer.echo(f"Created {name}. To start:\n\n  cd {name}\n  perigee fit experiment.py\n")
