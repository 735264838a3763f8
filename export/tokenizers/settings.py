"""``tokenizer_config.json`` and ``special_tokens_map.json``: how a checkpoint's tokenizer is set up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers.files import read_object

_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the two files say. A key without a value is a key that is not there."""

    path: Path
    """``tokenizer_config.json``, there or not: to be named when something in it does not fit."""
    kind: str
    """The class of the tokenizer, ``Fast`` or not; empty where it is not named."""
    add_bos: bool | None
    bos: str | None
    """The token that begins a text, where it is named."""
    legacy: bool
    """The slow Llama tokenizer puts SentencePiece's prefix in front of every piece of text, not of the prompt
    alone. That is what it does unless the key ``legacy`` is false."""
    add_prefix_space: bool
    clean_up_spaces: bool
    """Decoded text loses the spaces before punctuation."""
    roles: frozenset[str]
    """The tokens that begin, end, pad or separate texts, or stand for what is unknown."""
    listed: frozenset[str]
    """What transformers calls ``all_special_tokens``: those of the roles, and those listed as special."""
    added_tokens_decoder: Mapping[str, Any]

    @property
    def prefixes_prompt(self) -> bool:
        """The slow tokenizer puts SentencePiece's prefix in front of a prompt, and of no text within it."""
        return not self.legacy and not self.is_internlm and self.add_prefix_space

    @property
    def is_internlm(self) -> bool:
        """The class is InternLM2's or InternLM3's own, which knows no ``legacy``."""
        return self.kind.startswith("InternLM")


def read_settings(checkpoint: Path) -> TokenizerSettings:
    """Reads the settings of a checkpoint's tokenizer; where there are no files, the defaults.

    Raises:
        CheckpointError: if a file is malformed.
    """
    path = checkpoint / "tokenizer_config.json"
    config = _without_null(read_object(path)) if path.is_file() else {}
    map_path = checkpoint / "special_tokens_map.json"
    special = _without_null(read_object(map_path)) if map_path.is_file() else {}
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise CheckpointError(f"{path}: 'added_tokens_decoder' is not an object.")
    # transformers reads special_tokens_map.json for checkpoints from before added_tokens_decoder alone.
    holders = (config,) if "added_tokens_decoder" in config else (config, special)
    return TokenizerSettings(
        path=path,
        kind=_kind(config),
        add_bos=_flag(config, "add_bos_token"),
        bos=next(_tokens(config.get("bos_token", special.get("bos_token"))), None),
        legacy=_flag(config, "legacy") is not False,
        add_prefix_space=_flag(config, "add_prefix_space") is not False,
        clean_up_spaces=_flag(config, "clean_up_tokenization_spaces") is True,
        roles=frozenset(
            t for holder in (special, config) for role in _ROLES for t in _tokens(holder.get(role))
        ),
        listed=frozenset(
            token
            for holder in holders
            for key in (*_ROLES, "additional_special_tokens", "extra_special_tokens")
            for token in _tokens(holder.get(key))
        ),
        added_tokens_decoder=decoder,
    )


def _without_null(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _kind(config: dict[str, Any]) -> str:
    match config:
        case {"tokenizer_class": str(name)}:
            return name
        case {"auto_map": {"AutoTokenizer": [str(name), *_]}}:
            return name.rpartition(".")[2]
    return ""


def _flag(config: dict[str, Any], key: str) -> bool | None:
    value = config.get(key)
    return value if isinstance(value, bool) else None


def _tokens(value: object) -> Iterator[str]:
    """The tokens of a setting: a string, an object with flags, a list of these, or named ones."""
    match value:
        case str():
            yield value
        case {"content": str(content)}:
            yield content
        case list():
            for entry in value:
                yield from _tokens(entry)
        case dict():
            for entry in value.values():
                yield from _tokens(entry)
