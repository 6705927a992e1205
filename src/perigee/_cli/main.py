"""The `perigee` command.

`perigee --help` pays for every import here, so no module that it reaches may import a framework.
"""

from pathlib import Path
from typing import Annotated

import typer

from perigee._cli.check import check
from perigee._cli.comparing import bench, parity
from perigee._cli.launching import launch as launch_workers
from perigee._cli.new import new
from perigee._cli.pages import all_pages, find_page, near_pages
from perigee._cli.runs import report, runs
from perigee._cli.training import fit, verify
from perigee._cli.using import evaluate, predict
from perigee._version import __version__

_UNKNOWN_CODE = 2

app = typer.Typer(
    name="perigee",
    help="Run custom training steps for Keras 3 models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich would take longer to import than all the rest
)
app.command()(fit)
app.command()(evaluate)
app.command()(predict)
app.command()(check)
app.command()(parity)
app.command()(verify)
app.command()(bench)
app.command()(runs)
app.command()(report)
app.command()(new)


def main() -> None:
    """Run the command line and exit with its status."""
    app(prog_name="perigee")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"perigee {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[  # read by its callback
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Run custom training steps for Keras 3 models."""


@app.command()
def explain(
    code: Annotated[
        str | None,
        typer.Argument(help="A code such as PG101, or the name of an error."),
    ] = None,
) -> None:
    """Explain an error or finding: what it means and what usually causes it."""
    if code is None:
        for page in all_pages().values():
            typer.echo(f"{page.code}  {page.name}: {page.summary}")
        return
    page = find_page(code)
    if page is None:
        typer.echo(_unknown(code), err=True)
        raise typer.Exit(_UNKNOWN_CODE)
    also = f" (also caught as {', '.join(page.caught_as)})" if page.caught_as else ""
    typer.echo(f"{page.name} [{page.code}]{also}\n\n{page.text}")


@app.command(
    context_settings={"allow_extra_args": True, "allow_interspersed_args": False},
    options_metavar="--workers N [--grace SECONDS]",
)
def launch(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="A Python file.", exists=True, dir_okay=False, metavar="FILE")
    ],
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="The number of processes.")],
    grace: Annotated[
        float,
        typer.Option(min=0.0, metavar="SECONDS", help="The time for the others to end."),
    ] = 15.0,
) -> None:
    """Run FILE in several processes on this machine that train together.

    Options come before FILE; arguments after it are passed to it. Each process finds the others by
    TF_CONFIG on TensorFlow, and by `keras.distribution.initialize()` on JAX. If one fails, all are
    ended, and its exit code is returned.
    """
    ending = launch_workers(
        file, context.args, workers, grace, lambda line, is_error: typer.echo(line, err=is_error)
    )
    if ending.reason:
        typer.echo(ending.reason, err=True)
    raise typer.Exit(ending.code)


def _unknown(code: str) -> str:
    lines = [f"No error has the code {code!r}."]
    near = near_pages(code)
    if near:
        lines.append("Did you mean one of these?")
        lines += [f"  {page.code}  {page.name}" for page in near]
    lines.append("`perigee explain` lists all codes.")
    return "\n".join(lines)
