"""A bundle's tokenizer: text to ids that a user cannot forge, and ids to bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from internvl_rt.bundle.manifest import TOKENIZER_FILE, Prompt
from internvl_rt.errors import BundleError
from internvl_rt.prompts.control_tokens import GROUNDING_TOKENS, steers
from internvl_rt.prompts.decoding import Decoding
from internvl_rt.prompts.detokenise import Detokeniser

KeepTokens = Literal["none", "grounding", "task", "all"]
"""Which special tokens stay visible in decoded text: none; ``<ref> <box> <quad>`` and their ends; all that
are tokens in a question too, which are these and those that a fine-tuning added; or all."""

_TEXT = ""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Control:
    """A special token, ``count`` times. Only templates and image places make these; user text never does."""

    token: str
    count: int = 1


class PromptTokenizer:
    """The tokenizer of one bundle. May be used from several threads.

    Ordinary text is encoded with special tokens switched off, so that ``<|im_end|>`` or ``<IMG_CONTEXT>``
    typed by a user stays text. The exceptions are the grounding tokens and those of a fine-tuning, which the
    models are prompted with: ``control_tokens`` has the rule.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, task_ids: Iterable[int] = (), clean_up_spaces: bool = False
    ) -> None:
        """Takes over ``tokenizer`` and changes its settings; use a copy elsewhere.

        Args:
            tokenizer: encodes a piece of text as if a special token stood in front of it.
            task_ids: special tokens that are tokens in ordinary text, beside the grounding tokens.
            clean_up_spaces: decoded text loses the spaces before punctuation.

        Raises:
            BundleError: if the tokenizer decodes in a way that is not known here, or ``task_ids`` would let
                text become a token that steers the model.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._by_text = {token.content: i for i, token in self._added.items()}
        special = frozenset(i for i, token in self._added.items() if token.special)
        grounding = special.intersection(self._by_text.get(token) for token in GROUNDING_TOKENS)
        task = grounding.union(task_ids)
        for token_id in task:
            if token_id not in special or steers(self._added[token_id].content):
                raise BundleError(
                    f"prompt.task_ids of the manifest has the id {token_id}, which is not a special token "
                    "that text may become. Export the bundle again."
                )
        self._visible: dict[KeepTokens, frozenset[int]] = {
            "none": frozenset(),
            "grounding": grounding,
            "task": task,
            "all": special,
        }
        self._space_mark = _space_mark(tokenizer)
        self._cutter = _Cutter({i: t for i, t in self._added.items() if i in task or not t.special})
        self.decoding = Decoding(tokenizer)
        self.clean_up_spaces = clean_up_spaces

    @classmethod
    def from_bundle(cls, folder: Path, prompt: Prompt) -> PromptTokenizer:
        """Loads ``tokenizer.json`` of a bundle with the manifest's prompt facts.

        Raises:
            BundleError: if the file is missing, unreadable, not a tokenizer of a known kind, or does not fit
                the manifest.
        """
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise BundleError(f"{folder}: has no {TOKENIZER_FILE}. Export the bundle again.")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{path}: is not a tokenizer ({error}). Export the bundle again.") from error
        try:
            return cls(tokenizer, task_ids=prompt.task_ids, clean_up_spaces=prompt.clean_up_spaces)
        except BundleError as error:
            raise BundleError(f"{path}: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Ids that the tokenizer knows, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token: a text is at least its length through this many tokens."""
        return max(map(len, self._tokenizer.get_vocab(with_added_tokens=True)))

    def to_json(self) -> str:
        """The content of a ``tokenizer.json``."""
        return str(self._tokenizer.to_str())

    def token_id(self, token: str) -> int | None:
        """The id of a token by its string, or None."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def control_id(self, token: str) -> int:
        """The id of a special token that prompts are made with.

        Raises:
            BundleError: if the tokenizer has no such special token, so that user text could turn into it.
        """
        token_id = self._by_text.get(token)
        if token_id is None or not self._added[token_id].special:
            raise BundleError(
                f"{token!r} is not a special token of the bundle's tokenizer. Export the bundle again."
            )
        return token_id

    def encode(self, text: str) -> list[int]:
        """Encodes ordinary text: what a user may type."""
        return self.encode_pieces([text])

    def encode_pieces(self, pieces: Iterable[str | Control]) -> list[int]:
        """Encodes ordinary text and control tokens.

        Neighbouring texts are encoded as one; text on the two sides of a special token is encoded apart, as
        the models were trained. A lone surrogate, which is how Python carries a byte that is not UTF-8,
        becomes U+FFFD.

        Raises:
            BundleError: if a control token is not a special token of this tokenizer.
        """
        ids: list[int] = []
        strip_next = False
        for piece in _runs(pieces):
            if isinstance(piece, Control):
                token_id = self.control_id(piece.token)
                strip_next = self._added[token_id].rstrip
                ids += [token_id] * piece.count
                continue
            text = piece.text if self._space_mark is None else piece.text.replace(self._space_mark, " ")
            if strip_next:
                text = text.lstrip()
            if piece.before is not None and self._added[self.control_id(piece.before)].lstrip:
                text = text.rstrip()
            strip_next = False
            if text:
                ids += self._encode(_LONE_SURROGATE.sub("\ufffd", text))
        return ids

    def _encode(self, text: str) -> list[int]:
        """Encodes text between two control tokens, cut at the tokens in it."""
        ids: list[int] = []
        for part in self._cutter.cut(text):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._tokenizer.encode(part, add_special_tokens=False).ids
        return ids

    def decode(self, token_ids: Sequence[int], keep: KeepTokens = "none") -> str:
        """The text of ids, all at once. Bytes that are no character become U+FFFD."""
        detokeniser = Detokeniser(self, keep=keep)
        pieces = [detokeniser.push(token_id) for token_id in token_ids]
        return "".join(pieces) + detokeniser.finish()

    def token_bytes(self, token_id: int, keep: KeepTokens, *, strip_space: bool = False) -> bytes:
        """The bytes that an id adds to decoded text; none for an id beyond the vocabulary.

        ``strip_space`` leaves out a space in front that stands for the beginning of a text.
        """
        added = self._added.get(token_id)
        if added is not None:
            hidden = added.special and token_id not in self._visible[keep]
            return b"" if hidden else added.content.encode()
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        return b"" if token is None else self.decoding.token_bytes(token, strip_space=strip_space)


@dataclass(frozen=True)
class _Run:
    """Ordinary text and the special token that follows it."""

    text: str
    before: str | None


def _runs(pieces: Iterable[str | Control]) -> Iterator[_Run | Control]:
    """Joins neighbouring texts."""
    text: list[str] = []
    for piece in pieces:
        if isinstance(piece, str):
            text.append(piece)
        elif piece.count > 0:
            yield _Run("".join(text), piece.token)
            text.clear()
            yield piece
    yield _Run("".join(text), None)


def _space_mark(tokenizer: Tokenizer) -> str | None:
    """What the tokenizer reads as a space from the start: tokens that eat white space eat it too."""
    normalizer = None if tokenizer.normalizer is None else json.loads(tokenizer.normalizer.__getstate__())
    match normalizer:
        case {"normalizers": [{"type": "Replace", "pattern": {"String": str(mark)}, "content": " "}, *_]}:
            return mark
    return None


class _Cutter:
    """Cuts text at tokens by the library's rules: the longest one first, spaces and words by the flags."""

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        # Text between tokens is one unknown word to a vocabulary without words.
        self._library = Tokenizer(WordLevel({_TEXT: 0}, unk_token=_TEXT))
        self._ids = [0]
        begins = set()
        for token_id, token in tokens.items():
            if not token.special and token.normalized:
                continue  # the bundle's tokenizer cuts at it, once the text is normalised
            flags = {"lstrip": token.lstrip, "rstrip": token.rstrip, "single_word": token.single_word}
            added = AddedToken(token.content, **flags, normalized=False, special=False)
            if self._library.add_tokens([added]):
                self._ids.append(token_id)
                begins.add(re.escape(token.content[0]))
        self._begins = re.compile("|".join(sorted(begins))) if begins else None

    def cut(self, text: str) -> Iterator[str | int]:
        """The parts of a text: ids of tokens, and what is between them."""
        if self._begins is None or self._begins.search(text) is None:
            yield text
            return
        found = self._library.encode(text, add_special_tokens=False)
        for number, (begin, end) in zip(found.ids, found.offsets, strict=True):
            yield self._ids[number] if number else text[begin:end]
