"""Thinking mode: the exact system message, and answers taken apart."""

from __future__ import annotations

import hashlib

import pytest

import internvl_rt as ivl


def test_the_system_message_is_the_authors() -> None:
    message = ivl.THINKING_SYSTEM_MESSAGE
    lines = message.split("\n")
    assert [bool(line) for line in lines] == [True, False, True, False, True, False, True]
    assert lines[0] == "You are an AI assistant that rigorously follows this response protocol:"
    assert lines[2].endswith("within <think> and </think> tags.")
    assert lines[6].endswith("and not reference the thinking section.")
    # Of the text as the reference page prints it, put down when the two were compared.
    assert hashlib.sha256(message.encode()).hexdigest()[:16] == "a2cb9e8de918a3e3"


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\nTwo and two.\n</think>\n\nFour.", "Two and two.", "Four."),
        ("<think></think>Four.", "", "Four."),
        ("Two and two.</think>\nFour.", "Two and two.", "Four."),
        ("<think>Two and", "Two and", ""),
        ("Four.", "", "Four."),
        ("", "", ""),
        ("<think>a</think>b <think>c</think>", "a", "b <think>c</think>"),
    ],
)
def test_answers_are_taken_apart(text: str, thinking: str, answer: str) -> None:
    found = ivl.split_thinking(text)
    assert (found.thinking, found.answer) == (thinking, answer)
