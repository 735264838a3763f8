"""Ids to text while they are generated: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

from internvl_rt.prompts.clean_up import SpaceCleaner

if TYPE_CHECKING:
    from internvl_rt.prompts.tokenizer import KeepTokens, PromptTokenizer


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


# SentencePiece writes one U+FFFD for every stray byte, the byte-level decoder one for every broken character.
codecs.register_error("internvl_rt.replace_each_byte", _replace_each_byte)


class Detokeniser:
    """Turns one sequence of ids into pieces of text.

    The pieces of ``push`` and the rest from ``finish`` together are the text that decoding all ids at once
    gives. The cost of a token does not grow with the text before it. Not for several threads at once.
    """

    def __init__(
        self,
        tokenizer: PromptTokenizer,
        *,
        keep: KeepTokens = "none",
        stop: Sequence[str] = (),
        verbatim: bool = False,
    ) -> None:
        """Starts a text.

        Args:
            tokenizer: the bundle's tokenizer.
            keep: which special tokens stay visible.
            stop: the text ends before the one of these strings that is complete first; empty ones are
                ignored.
            verbatim: spaces before punctuation stay whatever the tokenizer's settings are: the text was
                written to a form, which they are part of.
        """
        self._tokenizer = tokenizer
        self._keep = keep
        self._stop = tuple(s for s in stop if s)
        self._artificial_spaces = tokenizer.decoding.artificial_spaces
        errors = "internvl_rt.replace_each_byte" if tokenizer.decoding.byte_fallback else "replace"
        self._characters = codecs.getincrementaldecoder("utf-8")(errors=errors)
        self._cleaner = None if verbatim or not tokenizer.clean_up_spaces else SpaceCleaner()
        self._held = ""
        self.stopped: str | None = None
        """The stop string that ended the text."""

    def push(self, token_id: int) -> str:
        """Takes the next id and returns the text that is certain by now, often none."""
        if self.stopped is not None:
            return ""
        data = self._tokenizer.token_bytes(token_id, self._keep)
        if self._artificial_spaces and data:
            data = self._at_start(token_id, data)
        text = self._characters.decode(data)
        if self._cleaner is not None:
            text = self._cleaner.push(text)
        return self._release(text, final=False)

    def finish(self) -> str:
        """The rest of the text; a character that was never completed is U+FFFD."""
        if self.stopped is not None:
            return ""
        text = self._characters.decode(b"", final=True)
        if self._cleaner is not None:
            text = self._cleaner.push(text) + self._cleaner.finish()
        return self._release(text, final=True)

    def _at_start(self, token_id: int, data: bytes) -> bytes:
        """A token without its artificial space, while nothing but such spaces came before it."""
        stripped = self._tokenizer.token_bytes(token_id, self._keep, strip_space=True)
        self._artificial_spaces -= stripped != data
        if stripped:
            self._artificial_spaces = 0
        return stripped

    def _release(self, new: str, *, final: bool) -> str:
        text = self._held + new
        if self._stop:
            # By where they end: which one stops does not depend on how the text came in tokens.
            found = min(((i + len(s), i, s) for s in self._stop if (i := text.find(s)) >= 0), default=None)
            if found is not None:
                self._held = ""
                self.stopped = found[2]
                return text[: found[1]]
        cut = len(text) if final else len(text) - self._undecided(text)
        self._held = text[cut:]
        return text[:cut]

    def _undecided(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        longest = max((len(s) for s in self._stop), default=0) - 1
        for length in range(min(longest, len(text)), 0, -1):
            tail = text[-length:]
            if any(s.startswith(tail) for s in self._stop):
                return length
        return 0
