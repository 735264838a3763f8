"""Files that a user names: regular ones, of a size that is known before they are read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from internvl_rt.errors import InternVLError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@contextmanager
def open_regular_file(
    path: str | os.PathLike[str], *, expected: str, error: type[InternVLError]
) -> Iterator[BinaryIO]:
    """Opens a file for reading, unless it is one that may never end or never begin.

    A pipe without a writer would block for ever, and so would a device or a socket; none of them is opened.

    Args:
        path: of the file; links are followed.
        expected: what the file should be, for the message: ``"an image file"``.
        error: the class of what is raised.

    Raises:
        error: if there is no such file, it is not a regular one, or it cannot be opened.
    """
    try:
        name = Path(path)
        # Looked at before it is opened: opening alone can start a device, or wait for a pipe's other end.
        _check_kind(name.stat(), name, expected, error)
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError as missing:
        raise error(f"{path} does not exist; expected {expected}. Check the path.") from missing
    except PermissionError as denied:
        raise error(
            f"{path} cannot be read ({denied.strerror}); expected {expected}. Change its permissions, or "
            "run as a user who may read it."
        ) from denied
    except (OSError, ValueError, TypeError) as failed:  # ValueError: a null character in the path
        reason = getattr(failed, "strerror", None) or failed
        shown = str(path)
        raise error(
            f"{shown if len(shown) <= 200 else shown[:200] + '…'!r} cannot be opened ({reason}); expected "
            f"{expected}. Check the path."
        ) from failed
    with open(descriptor, "rb") as file:  # noqa: PTH123  # a descriptor, not a path
        # Another file may stand there by now.
        _check_kind(os.fstat(descriptor), name, expected, error)
        yield file


def read_regular_file(
    path: str | os.PathLike[str], *, most_bytes: int, expected: str, error: type[InternVLError]
) -> bytes:
    """Reads a file whole, if it is a regular one and not too large.

    Args:
        path: of the file; links are followed.
        most_bytes: the largest file that is read. A larger one, sparse or not, is refused before anything is
            read.
        expected: what the file should be, for the message: ``"a JSON schema"``.
        error: the class of what is raised.

    Raises:
        error: if there is no such file, it is not a regular one, is too large or cannot be read.
    """
    with open_regular_file(path, expected=expected, error=error) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = _read_up_to(file, most_bytes + 1, size) if size <= most_bytes else b""
        except OSError as failed:
            raise error(
                f"{path} cannot be read ({failed.strerror}); expected {expected}. Check the disk."
            ) from failed
    if max(size, len(content)) > most_bytes:
        raise error(
            f"{path} has {max(size, len(content)) / 1e6:,.1f} MB; expected {expected} of at most "
            f"{most_bytes / 1e6:g} MB."
        )
    return content


def _read_up_to(file: BinaryIO, most: int, size: int) -> bytes:
    """Reads a file of that size. It may have grown, and some files (those of /proc) do not tell theirs."""
    parts = [file.read(min(size + 1, most))]
    while parts[-1] and sum(map(len, parts)) < most:
        parts.append(file.read(min(1 << 20, most - sum(map(len, parts)))))
    return b"".join(part for part in parts if part)


def _check_kind(found: os.stat_result, name: Path, expected: str, error: type[InternVLError]) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kind = next((words for is_kind, words in _KINDS if is_kind(found.st_mode)), "not a file")
    raise error(f"{name} is {kind}; expected {expected}, a regular file. Give one, or pass its content.")
