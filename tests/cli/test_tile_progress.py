"""The bar while pictures are encoded: on a terminal, and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import internvl_rt as ivl
from commands import in_new_process


def on_a_terminal(*arguments: object) -> tuple[str, str]:
    """What a command writes to stdout, a pipe, and to stderr, a terminal."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "internvl_rt", *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=its, text=True, env=environment) as process:
        os.close(its)
        shown = b""
        while True:
            try:
                more = os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            shown += more
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    return out, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_terminal_shows_a_bar_and_the_answer_is_the_same(tiny_bundle: Path, photo_file: Path) -> None:
    about = ("chat", tiny_bundle, "What?", "-i", photo_file, "-i", photo_file, "--max-new-tokens", 6)
    plain = in_new_process(about)
    out, err = on_a_terminal(*about)
    assert out == plain.stdout
    tiles = int(plain.stderr.split("[")[1].split(" tiles")[0])
    assert f"/{tiles} tiles" in err
    assert "encoding" in err
    assert "encoding" not in plain.stderr
    assert "encoding" not in on_a_terminal(*about, "--json")[1]


def test_other_commands_show_it_too(roomy_bundle: Path, photo_file: Path) -> None:
    short = ("-i", photo_file, "--max-new-tokens", 2, "--detail", "low")
    few = ("-n", 1, "--reasoning", "none")
    for arguments in (
        ("locate", roomy_bundle, "cup", *short),
        ("vote", roomy_bundle, "Hi", *few, *short, "--choice", "a"),
        ("best-of", roomy_bundle, "Hi", *few, "--critic", roomy_bundle, *short),
    ):
        assert "/1 tiles" in on_a_terminal(*arguments)[1], arguments


def test_progress_counts_the_tiles_of_all_pictures(model: ivl.Model, photo_file: Path) -> None:
    told: list[tuple[int, int]] = []
    features = model.encode(photo_file, max_tiles=2)
    answer = model.chat(
        "What?",
        [features, photo_file, photo_file],
        max_tiles=4,
        max_new_tokens=1,
        progress=lambda done, tiles: told.append((done, tiles)),
    )
    new = answer.usage.tiles - features.tiles
    assert (told[0], told[-1]) == ((0, new), (new, new))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert {tiles for _, tiles in told} == {new}


def test_progress_may_end_a_call(model: ivl.Model, photo_file: Path) -> None:
    free = model._engine.free_tokens

    def enough(done: int, tiles: int) -> None:
        raise ValueError(f"{done} of {tiles}")

    for call in (
        lambda: model.chat("What?", photo_file, max_tiles=1, progress=enough),
        lambda: model.encode(photo_file, max_tiles=1, progress=enough),
    ):
        with pytest.raises(ValueError, match="0 of 1"):
            call()
    assert model._engine.free_tokens == free


def test_no_progress_without_pictures(model: ivl.Model) -> None:
    model.chat("What?", max_new_tokens=1, progress=lambda done, tiles: pytest.fail("nothing is encoded"))
