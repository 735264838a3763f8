"""The small files around a tokenizer, read with every malformation reported by file and reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from internvl_rt.errors import CheckpointError

MAX_FILE_BYTES = 256 << 20
"""Far above any tokenizer; a file beyond it is not read."""

MAX_ID = 1 << 24


def read_bytes(path: Path) -> bytes:
    """A whole file.

    Raises:
        CheckpointError: if it cannot be read or is larger than any tokenizer file.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(
                f"{path}: has {size} bytes; a tokenizer file of more than {MAX_FILE_BYTES} is not read."
            )
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from error


def read_text(path: Path) -> str:
    """A whole UTF-8 file, without the byte order mark that editors on Windows put in front.

    Raises:
        CheckpointError: if it cannot be read or is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is not UTF-8 ({error}). Download the file again.") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: if the file is not one.
    """
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not JSON ({error}). Download the file again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds {type(value).__name__}; a JSON object was expected.")
    return value


def read_ids(path: Path) -> dict[str, int]:
    """A JSON object of token strings to ids, no id twice.

    Raises:
        CheckpointError: if the file is not such an object.
    """
    table = read_object(path)
    owners: dict[int, str] = {}
    for token, token_id in table.items():
        check_id(path, token, token_id)
        if token_id in owners:
            raise CheckpointError(
                f"{path}: the id {token_id} belongs to {owners[token_id]!r} and to {token!r}."
            )
        owners[token_id] = token
    return table


def check_id(path: Path, token: str, token_id: object) -> None:
    """Raises CheckpointError unless ``token_id`` is a possible id."""
    if type(token_id) is not int or not 0 <= token_id < MAX_ID:
        raise CheckpointError(f"{path}: the token {token!r} has the id {token_id!r}, which is no token id.")
