"""The thinking mode of InternVL3 and 3.5: a system message, and the answer taken apart."""

from __future__ import annotations

from dataclasses import dataclass

from internvl_rt.errors import PromptError

THINKING_SYSTEM_MESSAGE = """\
You are an AI assistant that rigorously follows this response protocol:

1. First, conduct a detailed analysis of the question. Consider different angles, potential solutions, and \
reason through the problem step-by-step. \
Enclose this entire thinking process within <think> and </think> tags.

2. After the thinking section, provide a clear, concise, and direct answer to the user's question. \
Separate the answer from the think section with a newline.

Ensure that the thinking process is thorough but remains focused on the query. The final answer should be \
standalone and not reference the thinking section."""
"""Word for word the authors', who recommend ``do_sample=True, temperature=0.6`` and many new tokens."""

_BEGIN, _END = "<think>", "</think>"


@dataclass(frozen=True)
class ThoughtOutAnswer:
    """An answer and the thoughts before it, without their tags."""

    thinking: str
    """Empty if the model did not think."""
    answer: str
    """Empty if the text ends within the thoughts, because there was no room for more tokens."""


def split_thinking(text: str) -> ThoughtOutAnswer:
    """Takes the text of an answer in thinking mode apart.

    Args:
        text: what the model wrote. The tag that opens the thoughts may be missing, where a prompt already
            ended with it.

    Raises:
        PromptError: if it is no text.
    """
    if not isinstance(text, str):
        raise PromptError(
            f"an answer's text is expected, a str such as answer.text; found {type(text).__name__}."
        )
    before, closed, after = text.partition(_END)
    ahead, opened, thoughts = before.partition(_BEGIN)
    if not closed:
        return ThoughtOutAnswer(thoughts.strip(), ahead.strip())
    return ThoughtOutAnswer((thoughts if opened else before).strip(), after.strip())
