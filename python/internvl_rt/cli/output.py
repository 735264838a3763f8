"""What commands print: tables for people on a terminal, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from internvl_rt.cli.wording import one_line
from internvl_rt.errors import ImageError, InternVLError

if TYPE_CHECKING:
    from PIL.Image import Image


def print_json(document: Any) -> None:
    """Writes one JSON document to stdout. Dataclasses become objects."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=_plain))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column is text and whose other columns are aligned right."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        made.add_row(*row)
    return made


def facts(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, without lines."""
    made = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value)
    return made


def warn(message: str) -> None:
    """Tells on standard error what does not keep the command from its work."""
    print(f"internvl-rt: {one_line(message)}", file=sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """A console that leaves brackets in values alone."""
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=False)


def check_picture_name(path: Path, option: str) -> None:
    """Tells before the work is done whether a picture can be written to the file that an option names.

    Raises:
        ImageError: if not, by its name and folder.
    """
    from PIL.Image import SAVE, registered_extensions

    known = registered_extensions()
    if path.suffix.lower() not in known or known[path.suffix.lower()] not in SAVE:
        raise ImageError(
            f"{path}: the picture cannot be saved under this name. Give {option} one such as boxes.png."
        )
    check_writable(path, option, ImageError)


def check_writable(path: Path, option: str, error: type[InternVLError]) -> None:
    """Tells before the work is done whether the file that an option names can be written.

    Raises:
        error: if its folder is not there, or one of the two may not be written.
    """
    if not path.parent.is_dir():
        raise error(f"{path}: there is no folder {path.parent}. Make it first, or give {option} another.")
    if path.is_dir():
        raise error(f"{path}: is a folder; {option} expects the name of a file.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise error(f"{path}: cannot be written (permission denied). Give {option} a place of yours.")


def save_picture(picture: Image, path: Path) -> None:
    """Writes a picture in the format of its name.

    Raises:
        ImageError: if it cannot be written.
    """
    try:
        picture.save(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: the picture cannot be saved ({reason}).") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
