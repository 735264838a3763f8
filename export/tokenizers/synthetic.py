"""Working tokenizers for models that have no trained one: any vocabulary size, the family's special ids.

The vocabulary is all 256 bytes and then every string of a few simple sets (two lowercase letters, a space
and three lowercase letters, Chinese characters, ...) until it is full. Text is cut into the longest strings
of the sets, so English costs about one token per three letters and Chinese one per character: the prompts
of a synthetic model are about as long as those of a trained one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from string import ascii_lowercase as lower
from string import ascii_uppercase as upper
from string import digits

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers.byte_alphabet import BYTE_ALPHABET
from internvl_rt.prompts.control_tokens import INTERNVL_TOKENS


def _numbered(first: int, tokens: tuple[str, ...]) -> dict[str, int]:
    return {token: first + i for i, token in enumerate(tokens)}


_QWEN_CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN2_5 = (
    *_QWEN_CHAT,
    *(f"<|{name}_{side}|>" for name in ("object_ref", "box", "quad", "vision") for side in ("start", "end")),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    *("<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
)
_QWEN3 = (*_QWEN2_5, "<tool_response>", "</tool_response>", "<think>", "</think>")


@dataclass(frozen=True)
class Family:
    """What tells the tokenizers of one family of language models apart."""

    byte_fallback: bool
    """Bytes are ``<0xNN>`` pieces (SentencePiece) instead of characters of the byte-level alphabet."""
    specials: dict[str, int]


FAMILIES: dict[str, Family] = {
    "qwen2": Family(False, _numbered(151643, _QWEN_CHAT + INTERNVL_TOKENS)),
    "qwen2_5": Family(False, _numbered(151643, _QWEN2_5 + INTERNVL_TOKENS)),
    "qwen3": Family(False, _numbered(151643, _QWEN3 + INTERNVL_TOKENS)),
    "internlm2": Family(
        True,
        _numbered(0, ("<unk>", "<s>", "</s>"))
        | _numbered(92538, ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>"))
        | _numbered(92542, ("<|im_end|>", "<|im_start|>", *INTERNVL_TOKENS)),
    ),
    "phi3": Family(
        True,
        _numbered(0, ("<unk>", "<s>", "</s>"))
        | {"<|endoftext|>": 32000, "<|assistant|>": 32001, "<|system|>": 32006, "<|end|>": 32007}
        | _numbered(32010, ("<|user|>", *INTERNVL_TOKENS)),
    ),
    "yi": Family(
        True,
        _numbered(0, ("<unk>", "<|startoftext|>", "<|endoftext|>"))
        | {"<|im_start|>": 6, "<|im_end|>": 7}
        | _numbered(63998, INTERNVL_TOKENS),
    ),
    "internlm3": Family(
        True,
        _numbered(0, ("<unk>", "<s>", "</s>"))
        | _numbered(128130, ("<|im_end|>", "<|im_start|>"))
        | _numbered(128512, INTERNVL_TOKENS),
    ),
    "llama3": Family(
        False,
        _numbered(128000, ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"))
        | _numbered(128256, INTERNVL_TOKENS),
    ),
}
"""The special tokens at the ids of the published models."""

_NOT_SPECIAL = frozenset(("<tool_call>", "</tool_call>", *_QWEN3[len(_QWEN2_5) :]))
"""Added tokens that the published tokenizers do not call special: they stay visible in an answer."""


def synthetic_tokenizer(family: str, vocab_size: int) -> Tokenizer:
    """Makes a tokenizer with exactly ``vocab_size`` ids.

    The family's special tokens stand at their published ids; in a vocabulary too small for those, they are
    the last ids in the same order. Every text survives encoding and decoding. Every id decodes to a text of
    its own, the bytes from 0x80 aside, which are no text by themselves.

    Args:
        family: one of ``FAMILIES``.
        vocab_size: at least 256 more than the family's special tokens.

    Raises:
        CheckpointError: if the family is unknown or the vocabulary too small.
    """
    if family not in FAMILIES:
        raise CheckpointError(
            f"no synthetic tokenizer for the family {family!r}. Known: {', '.join(FAMILIES)}."
        )
    facts = FAMILIES[family]
    specials = facts.specials
    if vocab_size < 256 + len(specials):
        raise CheckpointError(
            f"a synthetic {family} tokenizer needs at least {256 + len(specials)} ids for its bytes and "
            f"special tokens; {vocab_size} were asked for."
        )
    if max(specials.values()) >= vocab_size:
        ordered = sorted(specials, key=lambda token: specials[token])
        specials = _numbered(vocab_size - len(ordered), tuple(ordered))

    patterns: list[tuple[int, str]] = []
    taken = set(specials.values())
    free = (i for i in range(vocab_size) if i not in taken)
    room = vocab_size - len(specials) - 256
    write = _as_it_is if facts.byte_fallback else _byte_level
    vocabulary = dict(specials)
    for token in _byte_tokens(facts.byte_fallback):
        vocabulary[token] = next(free)
    for strings in _STRING_SETS:
        before = len(vocabulary)
        for string in islice(strings.make(), room):
            vocabulary[write(string)] = next(free)
        added = len(vocabulary) - before
        room -= added
        if added == strings.count:
            patterns.append((strings.length, strings.pattern))
        # A set that was cut short fills ids but is not used to cut text: what it lacks would fall to bytes.

    # With ignore_merges a string that is in the vocabulary is one token; anything else falls to its bytes.
    model = BPE(
        vocab=vocabulary,
        merges=[],
        byte_fallback=facts.byte_fallback,
        ignore_merges=True,
        unk_token="<unk>" if "<unk>" in specials else None,
    )
    tokenizer = Tokenizer(model)
    pattern = "|".join(p for _, p in sorted(patterns, key=lambda item: -item[0])) + r"|[\s\S]"
    split = pre_tokenizers.Split(Regex(pattern.lstrip("|")), behavior="isolated")
    if facts.byte_fallback:
        tokenizer.pre_tokenizer = split
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
    # In the order of their ids, so that tokenizer.json lists them so.
    for token in sorted(specials, key=lambda t: specials[t]):
        added_token = AddedToken(token, normalized=False, special=token not in _NOT_SPECIAL)
        if token in _NOT_SPECIAL:
            tokenizer.add_tokens([added_token])
        else:
            tokenizer.add_special_tokens([added_token])
    return tokenizer


@dataclass(frozen=True)
class _StringSet:
    """All strings of one form."""

    length: int
    count: int
    pattern: str
    make: Callable[[], Iterator[str]]


def _letters(*alphabets: str) -> _StringSet:
    classes = {lower: "[a-z]", upper: "[A-Z]", digits: "[0-9]", " ": " "}
    count = 1
    for alphabet in alphabets:
        count *= len(alphabet)
    return _StringSet(
        len(alphabets),
        count,
        "".join(classes[alphabet] for alphabet in alphabets),
        lambda: map("".join, product(*alphabets)),
    )


def _characters(first: int, last: int) -> _StringSet:
    # Longer than one character of Latin text only in bytes; any order among the patterns does.
    return _StringSet(
        1,
        last - first + 1,
        f"[\\x{{{first:x}}}-\\x{{{last:x}}}]",
        lambda: (chr(c) for c in range(first, last + 1)),
    )


# What English and Chinese need most comes first: small vocabularies hold a prefix of this list.
_STRING_SETS = (
    _letters(lower, lower),
    _letters(" ", lower),
    _letters(" ", lower, lower),
    *(_letters(*" " * n) for n in (2, 4, 8, 16)),
    _letters(digits, digits),
    _letters(digits, digits, digits),
    _letters(lower, lower, lower),
    _letters(" ", lower, lower, lower),
    _characters(0x3001, 0x3002),
    _characters(0xFF01, 0xFF5E),
    _characters(0x4E00, 0x9FA5),
    _letters(upper, lower),
    _letters(" ", upper),
    _letters(" ", upper, lower),
    _letters(upper, lower, lower),
    _letters(" ", upper, lower, lower),
    _letters(lower, lower, lower, lower),
)


def _byte_tokens(byte_fallback: bool) -> list[str]:
    if byte_fallback:
        return [f"<0x{byte:02X}>" for byte in range(256)]
    return list(BYTE_ALPHABET)


def _byte_level(string: str) -> str:
    return "".join(BYTE_ALPHABET[byte] for byte in string.encode())


def _as_it_is(string: str) -> str:
    return string
