"""The progress bar of an export: bytes written, and the tensor in work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from internvl_rt.export.writer import Advance


@contextlib.contextmanager
def progress_bar(total_bytes: int, shown: bool | None) -> Iterator[Advance]:
    """Shows a bar on standard error while the block runs.

    Args:
        total_bytes: of the weights file.
        shown: None shows it if standard error is a terminal.
    """
    console = Console(stderr=True, force_terminal=shown or None)
    if not (console.is_terminal if shown is None else shown):
        yield _ignore
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total_bytes)

        def advance(name: str, written: int) -> None:
            bar.update(task, advance=written, description=name)

        yield advance


def _ignore(name: str, written: int) -> None:
    del name, written
