"""Asking for reasoning before the answer, and finding the answer in what was written.

The prompts are those of the InternVL 2.5 paper (one for multiple choice, one for open questions) and of the
MPO checkpoints, word for word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from internvl_rt.answers.thinking import split_thinking
from internvl_rt.errors import PromptError
from internvl_rt.prompts.control_tokens import IMAGE_MARK
from internvl_rt.prompts.messages import Messages

Reasoning = Literal["choice", "open", "mpo"]
"""``choice``: multiple choice, the letter is wanted; ``open``: any question; ``mpo``: as the MPO checkpoints
were trained."""

_COMMON = (
    "If you are uncertain or the problem is too complex, make a reasoned guess based on the information "
    "provided. Avoid repeating steps indefinitely—provide your best guess even if unsure. Think step by step "
    "logically, considering all relevant information before answering."
)
CHOICE_PROMPT = (
    "Answer the preceding multiple choice question. The last line of your response should follow this "
    "format: 'Answer: \\boxed{$LETTER}' (without quotes), where LETTER is one of the options. " + _COMMON
)
OPEN_PROMPT = (
    "Answer the preceding question. The last line of your response should follow this format: "
    "'Answer: \\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion based on the "
    "reasoning provided. " + _COMMON
)
MPO_PROMPT = (
    "Your task is to answer the question below. Give step by step reasoning before you answer, and when "
    "you're "
    'ready to answer, please use the format "Final answer: .."\n\nQuestion:\n\n'
)
DIRECT_SUFFIXES = (
    "Answer with the option's letter from the given choices directly.",
    "Answer the question using a single word or phrase.",
)
"""What asks for the bare answer; it is taken away where reasoning is asked for."""

_MARKS_IN_FRONT = re.compile(rf"(?:(?:(?:Image-|Frame-?)\d+: )?{re.escape(IMAGE_MARK)}\n)*")
_TOLD = (
    re.compile(r"final\s+answer\s*(?:is)?\s*(?:\*\*)?\s*[:：]\s*(.+)", re.IGNORECASE),
    re.compile(r"^[^\w\n]*answer\s*(?:\*\*)?\s*[:：]\s*(.+)", re.IGNORECASE | re.MULTILINE),
    re.compile(r"(?:最终)?答案\s*(?:是|为)?\s*[:：]\s*(.+)"),
)
_BRACE = re.compile(r"\\boxed\{|[{}]")
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"\(?([A-Z])(?:[.:：、,)].*)?", re.DOTALL)


def with_reasoning(question: str | Messages, reasoning: Reasoning) -> str | Messages:
    """A question that asks for reasoning first.

    Args:
        question: a text, or messages of which the last is the user's.
        reasoning: which of the prompts.

    Raises:
        PromptError: if there is no such prompt.
    """
    if reasoning not in get_args(Reasoning):
        raise PromptError(
            f"reasoning must be one of {', '.join(get_args(Reasoning))}, or None, not {reasoning!r}."
        )
    if isinstance(question, str):
        return _asked(question, reasoning)
    if not isinstance(question, (list, tuple)) or not question or not isinstance(question[-1], Mapping):
        return question  # whoever reads it says what is wrong with it
    return [*question[:-1], {**question[-1], "content": _content(question[-1].get("content"), reasoning)}]


def final_answer(text: str, reasoning: Reasoning | None = "open") -> str | None:
    r"""The answer that reasoning ends with.

    The last ``\boxed{...}`` is taken, or what follows the last ``Final answer:`` or ``Answer:`` on its line.
    ``choice`` reduces it to the letter where it begins with one. What the thinking mode writes between
    ``<think>`` and ``</think>`` is no part of it.

    Args:
        text: what the model wrote.
        reasoning: what it was asked for; None takes the whole text.

    Returns:
        the answer, or None where none is told.

    Raises:
        PromptError: if it is no text.
    """
    text = split_thinking(text).answer
    if reasoning is None:
        return text.strip() or None
    found = _last_boxed(text)
    if found is None:
        for told in _TOLD:
            matches = told.findall(text)
            if matches:
                found = matches[-1]
                break
    if found is None:
        return None
    found = _bare(found)
    if reasoning == "choice" and (letter := _LETTER.fullmatch(found)):
        return letter[1]
    return found or None


def same_answer(answer: str) -> str:
    """What answers have in common that say the same: case, white space and a full stop make no difference."""
    return " ".join(answer.casefold().split()).rstrip(".。 ")


def _asked(question: str, reasoning: Reasoning) -> str:
    for suffix in DIRECT_SUFFIXES:
        question = question.replace(suffix, "")
    question = question.rstrip()
    if reasoning == "mpo":
        front = _MARKS_IN_FRONT.match(question)
        marks = front[0] if front else ""
        return marks + MPO_PROMPT + question[len(marks) :]
    return f"{question}\n{CHOICE_PROMPT if reasoning == 'choice' else OPEN_PROMPT}"


def _content(content: Any, reasoning: Reasoning) -> Any:
    if isinstance(content, str):
        return _asked(content, reasoning)
    if not isinstance(content, (list, tuple)):
        return content
    items = list(content)
    for index in range(len(items) - 1, -1, -1):
        item = items[index]
        if isinstance(item, Mapping) and item.get("type") == "text" and isinstance(item.get("text"), str):
            items[index] = {**item, "text": _asked(item["text"], reasoning)}
            break
    return items


def _last_boxed(text: str) -> str | None:
    r"""What stands in the ``\boxed{...}`` that is closed last, with the braces inside of it."""
    found = None
    opened: list[int | None] = []
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            opened.append(brace.end() if len(brace[0]) > 1 else None)
        elif opened:
            begin = opened.pop()
            if begin is not None:
                found = text[begin : brace.start()]
    return found


def _bare(answer: str) -> str:
    """Without the marks of LaTeX and Markdown around it."""
    before = None
    while before != answer:
        before = answer
        answer = _WRAPPER.sub(r"\1", answer).strip().strip("*`").removeprefix("$").removesuffix("$").strip()
    return answer.removesuffix(".").removesuffix("。").strip()
