"""Files that a user names and that are no ordinary files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from internvl_rt.errors import ImageError, PromptError
from internvl_rt.files.regular import open_regular_file, read_regular_file


def read(path: object, most_bytes: int = 1000) -> bytes:
    return read_regular_file(path, most_bytes=most_bytes, expected="a schema", error=PromptError)  # type: ignore[arg-type]


def test_a_regular_file_and_a_link_to_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    (tmp_path / "link").symlink_to("a")
    for path in (tmp_path / "a", str(tmp_path / "a"), tmp_path / "link"):
        assert read(path) == b"x" * 1000
    (tmp_path / "empty").touch()
    assert read(tmp_path / "empty") == b""


def test_a_file_that_does_not_tell_its_size_is_bounded_too() -> None:
    assert read("/proc/self/stat", 100_000).startswith(b"%d " % os.getpid())
    with pytest.raises(PromptError, match="at most 1e-05 MB"):
        read("/proc/self/stat", 10)


def test_what_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(PromptError, match=r"1,099,511\.6 MB; expected a schema of at most 0\.001 MB"):
        read(sparse)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, says in (
            (tmp_path / "pipe", "is a named pipe"),
            (tmp_path / "socket", "is a socket"),
            (tmp_path, "is a folder"),
            ("/dev/zero", "is a device"),
            ("/dev/tty", "is a device"),
            (tmp_path / "none", "does not exist"),
            ("a\0b", "cannot be opened"),
            ("x" * 5000, "cannot be opened"),
        ):
            with (
                pytest.raises(ImageError, match=says),
                open_regular_file(path, expected="x", error=ImageError),
            ):
                raise AssertionError("it was opened")


def test_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(PromptError, match=r"cannot be read \(Permission denied\)"):
        read(path)
