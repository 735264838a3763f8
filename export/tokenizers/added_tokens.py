"""The tokens that a checkpoint's files add to the model's own vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers.files import MAX_ID, read_ids
from internvl_rt.export.tokenizers.settings import TokenizerSettings
from internvl_rt.prompts.control_tokens import GROUNDING_TOKENS, steers


def must_be_special(token: str) -> bool:
    """Whether a token is special even where a checkpoint's files forget to say so."""
    return steers(token) or token in GROUNDING_TOKENS


@dataclass(frozen=True)
class AddedTokens:
    """The tokens that stand beside the model's own vocabulary, by id."""

    by_id: dict[int, AddedToken]
    path: Path
    """The file to name when one of them does not fit."""


def read_added_tokens(checkpoint: Path, settings: TokenizerSettings) -> AddedTokens:
    """Joins ``added_tokens_decoder`` of tokenizer_config.json, which has the flags, and added_tokens.json.

    Raises:
        CheckpointError: if one of them is malformed, or they contradict each other.
    """
    path = settings.path
    by_id: dict[int, AddedToken] = {}
    for key, entry in settings.added_tokens_decoder.items():
        if not (key.isascii() and key.isdigit() and int(key) < MAX_ID):
            raise CheckpointError(f"{path}: {key!r} in 'added_tokens_decoder' is not a token id.")
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
                special = content in settings.listed or must_be_special(content)
                by_id[token_id] = AddedToken(content, normalized=False, special=special)
    seen: dict[str, int] = {}
    for token_id, token in by_id.items():
        if token.content in seen:
            raise CheckpointError(
                f"{path}: the token {token.content!r} has the ids {seen[token.content]} and {token_id}."
            )
        seen[token.content] = token_id
    return AddedTokens(dict(sorted(by_id.items())), path)
