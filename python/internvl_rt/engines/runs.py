"""Runs of tokens that are appended together, and yet as if they came one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from internvl_rt.bundle.manifest import Rope
from internvl_rt.errors import PromptError


def check_runs(sequences: Sequence[int], tokens: int, counts: Sequence[int] | None) -> Sequence[int]:
    """The counts, or ones where there are none.

    Args:
        sequences: which are appended to.
        tokens: how many there are, all runs together.
        counts: how many of them each sequence gets; None for one each.

    Raises:
        PromptError: if a sequence is named twice, there is none, or the counts do not add up to the tokens.
    """
    each = [1] * len(sequences) if counts is None else counts
    different = len(set(sequences)) == len(sequences) == len(each) > 0
    if not different or min(each) < 1 or sum(each) != tokens:
        raise PromptError(
            "decode takes one token for each of several different sequences, or as many as its count says; "
            f"got the sequences {list(sequences)}, {tokens} tokens and the counts {counts}."
        )
    return each


def steps_together(rope: Rope, length: int, tokens: int, most: int) -> Iterator[slice]:
    """Cuts tokens that follow a sequence into parts that may be computed together.

    In a part every token has the rotary frequencies that it has when it is decoded by itself.

    Args:
        rope: of the language model.
        length: of the sequence before.
        tokens: how many follow it.
        most: tokens of a part.
    """
    begin = 0
    for end in range(1, tokens + 1):
        together = end < tokens and end - begin < most
        if not (together and rope.same_frequencies(length + begin + 1, length + end + 1)):
            yield slice(begin, end)
            begin = end
