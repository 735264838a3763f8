"""The command line: ``internvl-rt``, and ``python -m internvl_rt``."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from internvl_rt import __version__
from internvl_rt.cli import bench, build, chat, demo, doctor, eval, export, inspect, locate, vote  # noqa: A004
from internvl_rt.cli.standard_streams import forget_output, open_standard_streams
from internvl_rt.cli.wording import for_command, one_line, options_of
from internvl_rt.errors import InternVLError

_OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
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
    command: Any = typer.main.get_command(app)
    try:
        # Not by calling it: that would choose the exit statuses.
        try:
            with command.make_context("internvl-rt", arguments or ["--help"]) as context:
                command.invoke(context)
            status = 0
        except typer.Exit as done:
            status = done.exit_code
        sys.stdout.flush()
    except _WrongUsage as error:
        return _say(_usage_message(error), 2)
    except InternVLError as error:
        named = next((command.commands[word] for word in arguments if word in command.commands), command)
        return _say(for_command(str(error), options_of(named)), 1)
    except BrokenPipeError:
        forget_output()
        return 141
    except SystemExit as left:
        # So Rich leaves in that case.
        if isinstance(left.__context__, BrokenPipeError):
            return 141
        raise
    except OSError as error:
        reason = f"{error.strerror or error}."
        if error.filename is not None:
            return _say(f"{error.filename}: {reason}", 1)
        return _say(f"the output cannot be written: {reason}" if error.errno in _OF_OUTPUT else reason, 1)
    except MemoryError:
        return _say("out of memory. Choose a smaller precision, fewer tiles or a smaller KV cache.", 1)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    return status


def _say(message: str, status: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        forget_output()
    with contextlib.suppress(OSError):
        print(f"internvl-rt: {one_line(message)}", file=sys.stderr, flush=True)
    return status


def _usage_message(error: Any) -> str:
    """What is wrong, and where the right usage stands."""
    path = error.ctx.command_path if error.ctx is not None else "internvl-rt"
    message = error.format_message().strip()
    return f"{message if message.endswith('.') else message + '.'} See {path} --help."
