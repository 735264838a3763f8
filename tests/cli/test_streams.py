"""What a command does with standard streams that are closed, full or unread, and its exit status."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from commands import in_new_process

INTERNVL = f"{shlex.quote(sys.executable)} -m internvl_rt"


def in_shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def commands(bundle: Path) -> list[str]:
    """Commands that print, as people type them."""
    chat = f"{INTERNVL} chat {bundle} Hello --max-new-tokens 2"
    return [chat, f"{chat} --json", f"{INTERNVL} inspect {bundle}", f"{INTERNVL} --help"]


def test_closed_output_is_one_line(tiny_bundle: Path) -> None:
    for command in commands(tiny_bundle):
        done = in_shell(f"{command} >&-")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "standard output is closed" in done.stderr


def test_closed_errors_are_not_written_into_the_output(tiny_bundle: Path) -> None:
    chat = f"{INTERNVL} chat {tiny_bundle} Hello --max-new-tokens 2"
    right = in_shell(f"{chat} 2>/dev/null")
    closed = in_shell(f"{chat} 2>&-")
    assert (closed.returncode, closed.stdout, closed.stderr) == (0, right.stdout, "")
    wrong = in_shell(f"{INTERNVL} chat /nowhere Hello 2>&-")
    assert (wrong.returncode, wrong.stdout) == (1, "")


def test_closed_input_is_empty(tiny_bundle: Path) -> None:
    conversation = in_shell(f"{INTERNVL} chat {tiny_bundle} <&-")
    assert (conversation.returncode, conversation.stdout, conversation.stderr) == (0, "", "")
    question = in_shell(f"{INTERNVL} chat {tiny_bundle} - <&-")
    assert (question.returncode, question.stderr.count("\n")) == (2, 1)
    assert "the question is empty" in question.stderr


def test_a_reader_that_has_enough_ends_the_command_in_silence(tiny_bundle: Path) -> None:
    for command in [*commands(tiny_bundle), f"{INTERNVL} doctor"]:
        done = in_shell(f"{command} 2>/dev/null | true")
        assert done.returncode == 141, command
        errors = in_shell(f"{{ {command} 2>&3 | true; }} 3>&2")
        assert "Traceback" not in errors.stderr
        assert "Errno" not in errors.stderr
        assert "Broken pipe" not in errors.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_line(tiny_bundle: Path) -> None:
    for command in commands(tiny_bundle):
        done = in_shell(f"{command} >/dev/full")
        said = [line for line in done.stderr.splitlines() if not line.startswith("[")]
        assert (done.returncode, len(said)) == (1, 1), done.stderr
        assert said[0] == "internvl-rt: the output cannot be written: No space left on device."


def test_exit_statuses(tiny_bundle: Path) -> None:
    assert in_new_process(["--version"]).returncode == 0
    assert in_new_process([]).stdout == in_new_process(["--help"]).stdout
    assert in_new_process(["chat", "/nowhere", "Hello"]).returncode == 1
    wrong = in_new_process(["chat", tiny_bundle, "Hello", "--top-q", "1"])
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert "--top-q" in wrong.stderr
    assert "See internvl-rt chat --help." in wrong.stderr


def test_no_module_is_imported_from_the_folder_that_the_user_is_in(
    tiny_bundle: Path, photo_file: Path, tmp_path: Path
) -> None:
    """A file that lies there may have the name of any module; that it is run is wrong for each of them."""
    for name in ("numpy", "random", "typer", "json", "dataclasses", "resource", "PIL", "subprocess", "rich"):
        (tmp_path / f"{name}.py").write_text(
            f"open('{tmp_path}/ran', 'a').write('{name} ')\nraise SystemExit(7)\n"
        )
    short = ["--repeats", 1, "--warmup", 0, "--new-tokens", 2, "--prompt-tokens", 4, "--cache-fill", 0]
    for command in (["chat", tiny_bundle, "Hello", "--max-new-tokens", 1], ["bench", tiny_bundle, *short]):
        done = in_new_process([*command, "--json"], cwd=tmp_path)
        assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
        assert done.returncode == 0, done.stderr
