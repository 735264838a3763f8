"""The small files around a tokenizer, read with every malformation reported by file and reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from internvl_rt.errors import CheckpointError
from internvl_rt.prompts.control_tokens import INTERNVL_TOKENS
from internvl_rt.prompts.templates import BOS_TOKENS, END_OF_TEXT_TOKENS

MAX_FILE_BYTES = 256 << 20
"""Far above any tokenizer; a file beyond it is not read."""

MAX_ID = 1 << 24

_CHAT_TOKEN = re.compile(r"<\|.*\|>", re.DOTALL)


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
    """A whole UTF-8 file.

    Raises:
        CheckpointError: if it cannot be read or is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
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


def must_be_special(token: str) -> bool:
    """Whether a token steers the model, so that text must never turn into it."""
    known = (*INTERNVL_TOKENS, *BOS_TOKENS, *END_OF_TEXT_TOKENS)
    return token in known or _CHAT_TOKEN.fullmatch(token) is not None


@dataclass(frozen=True)
class AddedTokens:
    """The tokens that stand beside the model's own vocabulary, by id."""

    by_id: dict[int, AddedToken]
    path: Path
    """The file to name when one of them does not fit."""


def read_added_tokens(checkpoint: Path, config: dict[str, Any]) -> AddedTokens:
    """Joins ``added_tokens_decoder`` of tokenizer_config.json, which has the flags, and added_tokens.json.

    Raises:
        CheckpointError: if one of them is malformed, or they contradict each other.
    """
    path = checkpoint / "tokenizer_config.json"
    by_id: dict[int, AddedToken] = {}
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise CheckpointError(f"{path}: 'added_tokens_decoder' is not an object.")
    for key, entry in decoder.items():
        if not (key.isascii() and key.isdigit() and int(key) < MAX_ID):
            raise CheckpointError(f"{path}: {key!r} in 'added_tokens_decoder' is no token id.")
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str) or not content:
            raise CheckpointError(f"{path}: the token {key} in 'added_tokens_decoder' has no 'content'.")
        by_id[int(key)] = AddedToken(
            content,
            lstrip=entry.get("lstrip") is True,
            rstrip=entry.get("rstrip") is True,
            single_word=entry.get("single_word") is True,
            normalized=False,
            special=entry.get("special") is True or must_be_special(content),
        )
    listed = checkpoint / "added_tokens.json"
    if listed.is_file():
        path = listed
        for content, token_id in read_ids(listed).items():
            known = by_id.get(token_id)
            if known is not None and known.content != content:
                raise CheckpointError(
                    f"{listed}: the id {token_id} is {content!r} here and {known.content!r} in "
                    "tokenizer_config.json. Download both files again."
                )
            if known is None:
                by_id[token_id] = AddedToken(content, normalized=False, special=must_be_special(content))
    seen: dict[str, int] = {}
    for token_id, token in by_id.items():
        if token.content in seen:
            raise CheckpointError(
                f"{path}: the token {token.content!r} has the ids {seen[token.content]} and {token_id}."
            )
        seen[token.content] = token_id
    return AddedTokens(dict(sorted(by_id.items())), path)
