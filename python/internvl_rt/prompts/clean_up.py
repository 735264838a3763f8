"""Taking away the spaces before punctuation, for tokenizers whose settings ask for it."""

from __future__ import annotations

_REPLACEMENTS = (
    *((f" {mark}", mark) for mark in (".", "?", "!", ",")),
    (" ' ", "'"),
    *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")),
)
"""The rule of transformers' ``clean_up_tokenization``: one after the other, each over the whole text."""


class SpaceCleaner:
    """Cleans a text that comes in pieces: together they are the cleaned whole text."""

    def __init__(self) -> None:
        self._steps = [_Replacer(old, new) for old, new in _REPLACEMENTS]

    def push(self, text: str) -> str:
        """Takes what comes next and returns what is certain by now."""
        for step in self._steps:
            text = step.push(text)
        return text

    def finish(self) -> str:
        """The rest of the text."""
        text = ""
        for step in self._steps:
            text = step.push(text) + step.finish()
        return text


class _Replacer:
    """``str.replace`` for a text that comes in pieces."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._held = ""

    def push(self, text: str) -> str:
        if not text:
            return ""
        *done, rest = (self._held + text).split(self._old)
        # What may be the beginning of the next match waits for what follows.
        held = next((n for n in range(len(self._old) - 1, 0, -1) if rest.endswith(self._old[:n])), 0)
        cut = len(rest) - held
        self._held = rest[cut:]
        return self._new.join((*done, rest[:cut]))

    def finish(self) -> str:
        rest, self._held = self._held, ""
        return rest
