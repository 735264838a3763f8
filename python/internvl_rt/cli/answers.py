"""How commands show answers."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from internvl_rt.answers.results import Answer


def answer_document(answer: Answer) -> dict[str, Any]:
    """An answer as JSON."""
    return {**dataclasses.asdict(answer), "token_ids": list(answer.token_ids)}


def counted(number: int, thing: str) -> str:
    """``1 tile``, ``2 tiles``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def write(text: str) -> None:
    """Shows a piece of an answer at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_summary(answer: Answer) -> None:
    """Ends the answer's line, and tells on stderr what it took."""
    print(flush=True)
    usage, timings = answer.usage, answer.timings
    rate = f", {1000 / timings.per_token:.1f} tokens/s" if timings.per_token else ""
    print(
        f"[{counted(usage.tiles, 'tile')}, {usage.prompt_tokens} prompt tokens, "
        f"{counted(usage.new_tokens, 'new token')}; "
        f"first token after {timings.first_token / 1000:.2f} s{rate}; {answer.finish_reason}]",
        file=sys.stderr,
    )
