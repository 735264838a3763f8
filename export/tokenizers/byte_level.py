"""``vocab.json`` and ``merges.txt`` to one tokenizer, as transformers' Qwen2Tokenizer reads them."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers.added_tokens import AddedTokens
from internvl_rt.export.tokenizers.byte_alphabet import BYTE_ALPHABET
from internvl_rt.export.tokenizers.files import read_ids, read_text
from internvl_rt.export.tokenizers.settings import TokenizerSettings

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen 2, 2.5 and 3 cut text before merging."""


def convert_byte_level(checkpoint: Path, settings: TokenizerSettings, added: AddedTokens) -> Tokenizer:
    """Builds the tokenizer of a folder with ``vocab.json`` and ``merges.txt``.

    Raises:
        CheckpointError: if a file is malformed, the files contradict each other, or tokenizer_config.json
            names a class other than Qwen2Tokenizer, whose rules for cutting text are not known here.
    """
    if settings.kind not in ("", "Qwen2Tokenizer", "Qwen2TokenizerFast", "Qwen3Tokenizer"):
        raise CheckpointError(
            f"{settings.path}: the tokenizer class {settings.kind!r} with vocab.json and "
            "merges.txt is not supported; 'Qwen2Tokenizer' is. Save a tokenizer.json with transformers."
        )
    path = checkpoint / "vocab.json"
    vocabulary = read_ids(path)
    for character in BYTE_ALPHABET:
        if character not in vocabulary:
            raise CheckpointError(f"{path}: the token {character!r}, one of the 256 bytes, is missing.")
    merges = _read_merges(checkpoint / "merges.txt", vocabulary)
    owners = {token_id: token for token, token_id in vocabulary.items()}
    for token_id, token in added.by_id.items():
        if owners.get(token_id, token.content) != token.content:
            raise CheckpointError(
                f"{added.path}: the id {token_id} is {token.content!r} here and {owners[token_id]!r} in "
                f"{path.name}."
            )
        if vocabulary.get(token.content, token_id) != token_id:
            raise CheckpointError(
                f"{added.path}: {token.content!r} has the id {token_id} here and "
                f"{vocabulary[token.content]} in {path.name}."
            )
        # In the model's vocabulary too: the library gives an added token the id that it finds there.
        vocabulary[token.content] = token_id
    try:
        tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{path}: does not make a tokenizer ({error}).") from error
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for token in added.by_id.values():
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    return tokenizer


def _read_merges(path: Path, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise CheckpointError(
                f"{path}: line {number} is {line[:80]!r}; two tokens and a space were expected."
            )
        for token in (*pair, "".join(pair)):
            if token not in vocabulary:
                raise CheckpointError(f"{path}: line {number} merges {token!r}, which vocab.json lacks.")
        merges.append((pair[0], pair[1]))
    return merges
