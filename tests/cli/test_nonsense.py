"""Every option of every command, given nonsense: done, or one line that says what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from commands import Run
from internvl_rt.bench import measure
from internvl_rt.bench import run as bench_run
from internvl_rt.cli import app

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
VALUES = (
    *("", "-1", "0", "nan", "inf", "1e-320", "99999999999999999999", "0x10"),
    *("\udcff", "/", "/dev/zero", "nothing here", "x" * 5000, "{", "💥" * 20),
)
LONG_WORK = {"--repeats", "--warmup", "--new-tokens"}
"""A large number of these is no nonsense, and takes as long as it says."""


def options_with_values(command: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.is_flag:
            continue
        option = max(parameter.opts, key=len)
        yield option, tuple(v for v in VALUES if not (option in LONG_WORK and v.startswith("999")))


@pytest.fixture
def lines(
    tiny_bundle: Path, roomy_bundle: Path, photo_file: Path, tmp_path: Path
) -> dict[str, tuple[Any, ...]]:
    """Every command with what it needs, so that it is quickly done."""
    short = ("--max-new-tokens", 1)
    return {
        "chat": (tiny_bundle, "Hi", *short),
        "locate": (tiny_bundle, "cup", "-i", photo_file, "--detail", "low", *short),
        "vote": (tiny_bundle, "Hi", "-n", 1, "--reasoning", "none", *short),
        "best-of": (roomy_bundle, "Hi", "-n", 1, "--reasoning", "none", "--critic", roomy_bundle, *short),
        "bench": (
            *(tiny_bundle, "--repeats", 1, "--warmup", 0, "--new-tokens", 2, "--prompt-tokens", 4),
            *("--cache-fill", 0, "--image-size", "20x20"),
        ),
        "eval": (tiny_bundle, "--every", 500),
        "inspect": (tiny_bundle,),
        "doctor": (),
        "demo": ("Hi", "--out", tmp_path / "boxes.png", *short),
        "build": (tiny_bundle,),
        "export": (tmp_path / "nothing", tmp_path / "out"),
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_nonsense_is_one_line(
    run: Run,
    lines: dict[str, tuple[Any, ...]],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "demo-cache"))
    monkeypatch.setattr(
        bench_run,
        "_in_own_process",
        lambda bundle, engine, options, _: measure.measure_engine(bundle, engine, options, lambda _: None),
    )
    for option, values in options_with_values(COMMANDS[name]):
        for value in values:
            done = run(name, *lines[name], option, value, status=None)
            said = [line for line in done.err.splitlines() if line.startswith("internvl-rt: ")]
            told = (name, option, value[:40], done.err)
            assert done.status in (0, 1, 2), told
            assert len(said) == (0 if done.status == 0 else 1), told
            assert all(len(line) < 2000 for line in said), told


def test_arguments_that_are_no_text(run: Run, tiny_bundle: Path) -> None:
    for command in (("chat", tiny_bundle), ("vote", tiny_bundle, "-n", 1)):
        assert run(*command, "What \udcff?", "--max-new-tokens", 1, status=None).status in (0, 1)
    assert run("chat", "\udcff", "Hi", status=1).err.count("\n") == 1
    assert run("\udcff", status=2).err.count("\n") == 1
