"""What commands print: tables for people on a terminal, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


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


def console(*, stderr: bool = False) -> Console:
    """A console that leaves brackets in values alone."""
    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=False)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
