"""The command line: ``internvl-rt``, and ``python -m internvl_rt``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from internvl_rt import __version__
from internvl_rt.cli import bench, build, chat, demo, doctor, eval, export, inspect, locate, vote  # noqa: A004
from internvl_rt.errors import InternVLError

app = typer.Typer(
    help="Runs InternVL vision-language models on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export")(export.command)
app.command("build")(build.command)
app.command("chat")(chat.command)
app.command("locate")(locate.command)
app.command("vote")(vote.vote)
app.command("best-of")(vote.best_of)
app.command("bench")(bench.command)
app.command("inspect")(inspect.command)
app.command("doctor")(doctor.command)
app.command("demo")(demo.command)
app.command("eval")(eval.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"internvl-rt {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0 when it is done, 1 for an error of this package, 2 for wrong usage.

    Args:
        arguments: what stands after ``internvl-rt``; those of the process where None.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Answers hold any character; a terminal that lacks one shows a question mark.
            stream.reconfigure(errors="replace")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="internvl-rt")
    except InternVLError as error:
        print(f"internvl-rt: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        # What is left in the buffer of a full disk would fail once more when the process ends.
        sys.stdout = io.StringIO()
        print(f"internvl-rt: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
