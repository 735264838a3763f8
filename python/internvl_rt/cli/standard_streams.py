"""Standard input, output and error, whatever the caller made of them."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path


def open_standard_streams() -> bool:
    """Makes the three streams usable.

    Input that is closed becomes empty, and messages to a closed standard error are dropped.

    Returns:
        false if standard output is closed.
    """
    for descriptor in range(3):
        if not _is_open(descriptor):
            # Else the next file that is opened would have the number, and be written to. The lowest free
            # number is the one that is given out.
            os.open(os.devnull, os.O_RDWR)
    is_open = sys.stdout is not None
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Answers hold any character; a terminal that lacks one shows a question mark.
            stream.reconfigure(errors="replace")
    return is_open


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def forget_output() -> None:
    """Gives up what was printed and could not be written: it would fail once more when the process ends."""
    sys.stdout = io.StringIO()
