"""The sequences of an engine in Python: their numbers, and how much of the cache they take."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from internvl_rt.errors import CacheFullError, InternVLError, PromptError


class CachedTokens(Protocol):
    """What is known of every sequence."""

    length: int
    """Tokens."""
    appending: int
    """Tokens that a call is appending: it holds the sequence, and others leave it alone."""


Sequence = TypeVar("Sequence", bound=CachedTokens)


def forked_length(origin: CachedTokens, tokens: int | None) -> int:
    """How many tokens a fork has.

    Raises:
        PromptError: if the origin has fewer than those asked for.
    """
    if tokens is None:
        return origin.length
    if not 0 <= tokens <= origin.length:
        raise PromptError(
            f"the sequence has {origin.length} tokens, and a fork of its first {tokens} was asked for."
        )
    return tokens


class Sequences(Generic[Sequence]):
    """Sequences by their numbers. A fork is a copy. For one thread at a time."""

    def __init__(self, cache_tokens: int) -> None:
        """None yet, in a cache of so many tokens."""
        self.cache_tokens = cache_tokens
        self._sequences: dict[int, Sequence] = {}
        self._last = 0

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that no sequence uses."""
        return self.cache_tokens - sum(one.length + one.appending for one in self._sequences.values())

    def add(self, sequence: Sequence) -> int:
        """The number of a new sequence."""
        self._last += 1
        self._sequences[self._last] = sequence
        return self._last

    def __getitem__(self, number: int) -> Sequence:
        """The sequence of that number.

        Raises:
            InternVLError: if there is none.
        """
        try:
            return self._sequences[number]
        except KeyError:
            raise InternVLError(
                f"there is no sequence {number}: it was dropped, or belongs to another model."
            ) from None

    def idle(self, number: int) -> Sequence:
        """The same, unless a call is appending to it.

        Raises:
            InternVLError: if there is none.
            PromptError: if it is being appended to.
        """
        found = self[number]
        if found.appending:
            raise PromptError(
                f"sequence {number} is being appended to by another call. Wait for it, or fork it before."
            )
        return found

    def remove(self, number: int) -> Sequence:
        """Forgets a sequence, and returns it; errors as ``idle``."""
        found = self.idle(number)
        del self._sequences[number]
        return found

    def numbers(self) -> list[int]:
        """Of all sequences."""
        return list(self._sequences)

    def require_free(self, tokens: int) -> None:
        """Raises CacheFullError unless so many more tokens fit."""
        free = self.free_tokens
        if tokens > free:
            raise CacheFullError(
                f"the KV cache holds {self.cache_tokens} tokens, {free} are free, {tokens} more are needed. "
                "Shorten the prompt, or load the model with a larger cache_tokens."
            )
