"""A checkpoint's tokenizer, whatever its files, as one fast tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from internvl_rt.errors import BundleError, CheckpointError
from internvl_rt.export.tokenizers.added_tokens import AddedTokens, must_be_special, read_added_tokens
from internvl_rt.export.tokenizers.byte_level import convert_byte_level
from internvl_rt.export.tokenizers.facts import PromptRules
from internvl_rt.export.tokenizers.files import read_object
from internvl_rt.export.tokenizers.sentencepiece_bpe import convert_sentencepiece
from internvl_rt.export.tokenizers.sentencepiece_model import read_sentencepiece_model
from internvl_rt.export.tokenizers.settings import TokenizerSettings, read_settings
from internvl_rt.prompts.control_tokens import steers
from internvl_rt.prompts.tokenizer import PromptTokenizer

TOKENIZER_JSON, TOKENIZER_MODEL = "tokenizer.json", "tokenizer.model"


def convert_tokenizer(checkpoint: Path, vocab_size: int | None = None) -> Tokenizer:
    """Makes the tokenizer of a bundle from the files of a checkpoint folder.

    In this order: ``tokenizer.json``; ``vocab.json`` and ``merges.txt`` (Qwen2, byte-level BPE);
    ``tokenizer.model`` (SentencePiece BPE: InternLM2, Llama, Phi-3). With each, ``added_tokens.json`` and
    ``tokenizer_config.json``. Every text gets the ids that the checkpoint's own library gives it behind a
    special token, which is where all text of a prompt stands. Tokens that steer the model are special tokens
    in the result even where the files forget to say so.

    Args:
        checkpoint: the folder.
        vocab_size: the tokens that the language model has an embedding of, where that is known. Added tokens
            beyond them, which nothing was trained with, are left out: they are text.

    Raises:
        CheckpointError: if there are no such files, or one is malformed or of an unsupported kind.
    """
    settings = read_settings(checkpoint)
    added = read_added_tokens(checkpoint, settings)
    tokenizer = _convert(checkpoint, settings, added)
    _check_unforgeable(checkpoint, tokenizer)
    if vocab_size is not None:
        tokenizer = _embedded(tokenizer, vocab_size)
    _check_known(checkpoint, tokenizer)
    return tokenizer


def _convert(checkpoint: Path, settings: TokenizerSettings, added: AddedTokens) -> Tokenizer:
    if (checkpoint / TOKENIZER_JSON).is_file():
        return _from_tokenizer_json(checkpoint / TOKENIZER_JSON, added)
    if _is_byte_level(checkpoint):
        return convert_byte_level(checkpoint, settings, added)
    if _is_sentencepiece(checkpoint):
        model = read_sentencepiece_model(checkpoint / TOKENIZER_MODEL)
        return convert_sentencepiece(model, settings, added)
    raise CheckpointError(
        f"{checkpoint}: has no tokenizer. Expected tokenizer.json, or vocab.json with merges.txt, or "
        "tokenizer.model; download the checkpoint's tokenizer files too."
    )


def _check_known(checkpoint: Path, tokenizer: Tokenizer) -> None:
    """The runtime has no library for a normaliser, a pattern or a decoder of another kind."""
    try:
        PromptTokenizer(tokenizer.to_str())
    except BundleError as error:
        named = TOKENIZER_JSON if (checkpoint / TOKENIZER_JSON).is_file() else ""
        raise CheckpointError(f"{checkpoint / named}: {error}") from error


def _is_byte_level(checkpoint: Path) -> bool:
    return (checkpoint / "vocab.json").is_file() and (checkpoint / "merges.txt").is_file()


def _is_sentencepiece(checkpoint: Path) -> bool:
    others = (checkpoint / TOKENIZER_JSON).is_file() or _is_byte_level(checkpoint)
    return (checkpoint / TOKENIZER_MODEL).is_file() and not others


def prompt_rules(checkpoint: Path) -> PromptRules:
    """What the files of a checkpoint's tokenizer say of whole prompts and answers.

    Raises:
        CheckpointError: if a file is malformed.
    """
    settings = read_settings(checkpoint)
    roles = settings.roles
    slow = _is_sentencepiece(checkpoint)
    if slow:
        added = {token.content for token in read_added_tokens(checkpoint, settings).by_id.values()}
        roles |= read_sentencepiece_model(checkpoint / TOKENIZER_MODEL).control_pieces - added
    return PromptRules(
        add_bos=_adds_bos(checkpoint, settings),
        bos=settings.bos,
        begins_with_space=slow and settings.prefixes_prompt,
        listed=settings.listed,
        roles=roles,
        # InternLM2's own class does so whatever its settings are.
        clean_up_spaces=settings.clean_up_spaces or (slow and settings.kind == "InternLM2Tokenizer"),
    )


def _adds_bos(checkpoint: Path, settings: TokenizerSettings) -> bool:
    """Whether the checkpoint's tokenizer puts its beginning-of-text token in front of a prompt.

    ``add_bos_token`` of tokenizer_config.json decides; without it the template of tokenizer.json, which is
    all that transformers 5 writes of it; and without either the InternLM and Llama classes do.
    """
    if settings.add_bos is not None:
        return settings.add_bos
    if (checkpoint / TOKENIZER_JSON).is_file():
        written = _starts_with_special(read_object(checkpoint / TOKENIZER_JSON).get("post_processor"))
        if written is not None:
            return written
    if settings.kind:
        return settings.kind.startswith(("InternLM", "Llama"))
    # A SentencePiece model without a word on its class: InternLM2's and Llama's tokenizers both do.
    return _is_sentencepiece(checkpoint)


def _starts_with_special(processor: object) -> bool | None:
    """Whether the template of a post-processor begins with a special token; None where it has no template."""
    match processor:
        case {"type": "Sequence", "processors": list(parts)}:
            return next((found for found in map(_starts_with_special, parts) if found is not None), None)
        case {"type": "TemplateProcessing", "single": list(single)}:
            return bool(single) and isinstance(single[0], dict) and "SpecialToken" in single[0]
    return None


def _from_tokenizer_json(path: Path, added: AddedTokens) -> Tokenizer:
    document = read_object(path)
    entries = document.get("added_tokens") or []
    model = document.get("model")
    if not isinstance(model, dict) or not isinstance(entries, list):
        raise CheckpointError(f"{path}: has no 'model' or no list of 'added_tokens'. Download it again.")
    if (model.get("type") or "BPE") != "BPE":
        raise CheckpointError(f"{path}: holds a {model['type']!r} model; only 'BPE' is supported.")
    flagged = {token.content for token in added.by_id.values() if token.special}
    for entry in entries:
        content = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(content, str):
            raise CheckpointError(f"{path}: an entry of 'added_tokens' has no 'content'.")
        if content in flagged or must_be_special(content):
            entry["special"] = True
        for flag in ("single_word", "lstrip", "rstrip", "special"):
            entry[flag] = entry.get(flag) is True
        if entry.get("normalized") is None:
            entry["normalized"] = not entry["special"]
    document["added_tokens"] = entries
    model["type"] = "BPE"
    _never_prepend_to_the_first(document.get("pre_tokenizer"))
    try:
        tokenizer = Tokenizer.from_str(json.dumps(document, ensure_ascii=False))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{path}: is not a tokenizer ({error}). Download the file again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for token_id, token in added.by_id.items():
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        found = tokenizer.token_to_id(token.content)
        if found != token_id:
            raise CheckpointError(
                f"{path}: {token.content!r} has the id {found}; it is {token_id} in {added.path.name}. "
                "The files are of different models: download all of them again."
            )
    return tokenizer


def _never_prepend_to_the_first(pre_tokenizer: object) -> None:
    """Makes "first" of a Metaspace "never": no text of a prompt is the first, a special token is."""
    match pre_tokenizer:
        case {"type": "Sequence", "pretokenizers": list(parts)}:
            for part in parts:
                _never_prepend_to_the_first(part)
        case dict() if pre_tokenizer.get("type") == "Metaspace":
            if pre_tokenizer.get("prepend_scheme") == "first":
                pre_tokenizer["prepend_scheme"] = "never"


def _embedded(tokenizer: Tokenizer, vocab_size: int) -> Tokenizer:
    added = tokenizer.get_added_tokens_decoder().items()
    # Tokens that steer never come out of text. Where a prompt needs one, its id is checked by name.
    beyond = {token.content for i, token in added if i >= vocab_size and not steers(token.content)}
    if not beyond:
        return tokenizer
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] not in beyond]
    for content in beyond:
        document["model"]["vocab"].pop(content, None)
    return Tokenizer.from_str(json.dumps(document, ensure_ascii=False))


def _check_unforgeable(checkpoint: Path, tokenizer: Tokenizer) -> None:
    """Text must never become a special token, not through the model's own merges either."""
    special = {i: token.content for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    tokenizer.encode_special_tokens = True
    for content in special.values():
        for token_id in tokenizer.encode(content, add_special_tokens=False).ids:
            # The unknown token is what text without a piece of its own becomes.
            if token_id in special and special[token_id] != getattr(tokenizer.model, "unk_token", None):
                raise CheckpointError(
                    f"{checkpoint}: the text {content!r} is encoded as the special token "
                    f"{special[token_id]!r}, so that users could forge it. Check the tokenizer files."
                )
    tokenizer.encode_special_tokens = False
