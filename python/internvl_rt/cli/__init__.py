"""The command line: ``internvl-rt``, and ``python -m internvl_rt``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from internvl_rt import __version__
from internvl_rt.cli import bench, build, chat, demo, doctor, eval, export, inspect, locate, vote  # noqa: A004
from internvl_rt.cli.standard_streams import forget_output, open_standard_streams
from internvl_rt.cli.wording import for_command, options_of
from internvl_rt.errors import InternVLError

_WrongUsage: type[Exception] = typer.BadParameter.__bases__[0]  # Typer does not name it

app = typer.Typer(
    help="Runs InternVL vision-language models on this machine.",
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
    """Runs one command and exits.

    The status is 0 when it is done, 1 for an error, which standard error tells in one line, 2 for wrong
    usage, 130 after Ctrl-C, and 141 where nobody reads the output to its end (``| head``). ``vote`` exits
    with 1 too where no answer was found, ``doctor`` where something needed is missing.

    Args:
        arguments: what stands after ``internvl-rt``; those of the process where None.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    raise SystemExit(_status_of(given))


def _status_of(arguments: list[str]) -> int:
    if not open_standard_streams():
        print("internvl-rt: standard output is closed. Send it to a file, or to /dev/null.", file=sys.stderr)
        return 1
    try:
        status = app(arguments or ["--help"], prog_name="internvl-rt", standalone_mode=False)
        sys.stdout.flush()
    except _WrongUsage as error:
        return _say(_usage_message(error), 2)
    except InternVLError as error:
        return _say(for_command(str(error), _options(arguments)), 1)
    except BrokenPipeError:
        forget_output()
        return 141
    except OSError as error:
        # What is left in the buffer of a full disk would fail once more when the process ends.
        forget_output()
        where = f"{error.filename}: " if error.filename else "the output cannot be written: "
        return _say(f"{where}{error.strerror or error}.", 1)
    except MemoryError:
        return _say("out of memory. Choose a smaller precision, fewer tiles or a smaller KV cache.", 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return status if isinstance(status, int) else 0


def _say(message: str, status: int) -> int:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        print(f"internvl-rt: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return status


def _usage_message(error: Any) -> str:
    """What is wrong, and where the right usage stands."""
    path = error.ctx.command_path if error.ctx is not None else "internvl-rt"
    message = error.format_message().strip()
    return f"{message if message.endswith('.') else message + '.'} See {path} --help."


def _options(arguments: list[str]) -> set[str]:
    """The options of the command that is asked for."""
    commands = getattr(typer.main.get_command(app), "commands")  # noqa: B009  # a group has them
    named = next((commands[word] for word in arguments if word in commands), None)
    return set() if named is None else options_of(named)
