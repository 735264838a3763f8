"""A bundle's tokenizer: text to ids that a user cannot forge, and ids to bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Tokenizer

from internvl_rt.bundle.manifest import TOKENIZER_FILE
from internvl_rt.errors import BundleError
from internvl_rt.prompts.control_tokens import GROUNDING_TOKENS
from internvl_rt.prompts.decoding import Decoding
from internvl_rt.prompts.detokenise import Detokeniser

KeepTokens = Literal["none", "grounding", "all"]
"""Which special tokens stay visible in decoded text: none, ``<ref> <box> <quad>`` and their ends, or all."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Control:
    """A special token, ``count`` times. Only templates and image places make these; user text never does."""

    token: str
    count: int = 1


class PromptTokenizer:
    """The tokenizer of one bundle. May be used from several threads.

    Ordinary text is encoded with special tokens switched off, so that ``<|im_end|>`` or ``<IMG_CONTEXT>``
    typed by a user stays text. The grounding tokens are the exception: the models are prompted with them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Takes over ``tokenizer`` and changes its settings; use a copy elsewhere.

        Raises:
            BundleError: if the tokenizer decodes in a way that is not known here.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._added: dict[int, AddedToken] = tokenizer.get_added_tokens_decoder()
        self._by_text = {token.content: i for i, token in self._added.items()}
        grounding = [token for token in GROUNDING_TOKENS if token in self._by_text]
        self._grounding_ids = frozenset(self._by_text[token] for token in grounding)
        self._grounding = re.compile("(" + "|".join(grounding) + ")") if grounding else None
        self.decoding = Decoding(tokenizer)

    @classmethod
    def from_bundle(cls, folder: Path) -> PromptTokenizer:
        """Loads ``tokenizer.json`` of a bundle.

        Raises:
            BundleError: if the file is missing, unreadable or not a tokenizer of a known kind.
        """
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise BundleError(f"{folder}: has no {TOKENIZER_FILE}. Export the bundle again.")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"{path}: is not a tokenizer ({error}). Export the bundle again.") from error
        try:
            return cls(tokenizer)
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
        """Encodes ordinary text: no token but the grounding tokens is special in it."""
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
        for piece in self._runs(pieces):
            if isinstance(piece, Control):
                token_id = self.control_id(piece.token)
                strip_next = self._added[token_id].rstrip
                ids += [token_id] * piece.count
                continue
            run = piece.text.lstrip() if strip_next else piece.text
            if piece.before is not None and self._added[self._by_text[piece.before]].lstrip:
                run = run.rstrip()
            strip_next = False
            if run:
                run = _LONE_SURROGATE.sub("\ufffd", run)
                ids += self._tokenizer.encode(run, add_special_tokens=False).ids
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
            visible = (
                not added.special
                or keep == "all"
                or (keep == "grounding" and token_id in self._grounding_ids)
            )
            return added.content.encode() if visible else b""
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        return b"" if token is None else self.decoding.token_bytes(token, strip_space=strip_space)

    def _runs(self, pieces: Iterable[str | Control]) -> Iterable[_Run | Control]:
        """Joins neighbouring texts, and cuts them at grounding tokens."""
        text: list[str] = []
        for piece in pieces:
            if isinstance(piece, str):
                text.append(piece)
            elif piece.count > 0:
                yield from self._cut("".join(text), piece.token)
                text.clear()
                yield piece
        yield from self._cut("".join(text), None)

    def _cut(self, text: str, before: str | None) -> Iterable[_Run | Control]:
        if self._grounding is None:
            yield _Run(text, before)
            return
        parts = self._grounding.split(text)  # text, token, text, token, ..., text
        for i, part in enumerate(parts):
            if i % 2:
                yield Control(part)
            else:
                yield _Run(part, parts[i + 1] if i + 1 < len(parts) else before)


@dataclass(frozen=True)
class _Run:
    """Ordinary text and the special token that follows it."""

    text: str
    before: str | None
