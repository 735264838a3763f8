"""A bar on standard error while pictures are encoded: the tiles that are done, and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from internvl_rt.model.prompt import TileProgress


@contextmanager
def tile_progress(*, quiet: bool = False) -> Iterator[TileProgress | None]:
    """What to give as ``progress``: it draws a bar that vanishes when all tiles are encoded.

    Args:
        quiet: draw nothing. Nothing is drawn either where standard error is no terminal.
    """
    from internvl_rt.cli.output import console

    err = console(stderr=True)
    if quiet or not err.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("encoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        TimeRemainingColumn(),
        console=err,
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
    )
    task = bar.add_task("")

    def told(done: int, tiles: int) -> None:
        if done == 0:
            bar.reset(task, total=tiles)
            bar.start()
        bar.update(task, completed=done)
        if done == tiles:
            bar.stop()

    try:
        yield told
    finally:
        bar.stop()
