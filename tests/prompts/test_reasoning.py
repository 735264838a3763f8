"""The prompts that ask for reasoning, word for word, and the answers that are found in it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_rt.answers.reasoning import final_answer, same_answer, with_reasoning
from internvl_rt.errors import PromptError

END = (
    "If you are uncertain or the problem is too complex, make a reasoned guess based on the information "
    "provided. Avoid repeating steps indefinitely—provide your best guess even if unsure. Think step by step "
    "logically, considering all relevant information before answering."
)
OPEN = (
    "Answer the preceding question. The last line of your response should follow this format: "
    "'Answer: \\boxed{$FINAL_ANSWER}' (without quotes), where 'FINAL_ANSWER' is your conclusion based on "
    "the reasoning provided. " + END
)
CHOICE = (
    "Answer the preceding multiple choice question. The last line of your response should follow this "
    "format: 'Answer: \\boxed{$LETTER}' (without quotes), where LETTER is one of the options. " + END
)
MPO = (
    "Your task is to answer the question below. Give step by step reasoning before you answer, and when "
    'you\'re ready to answer, please use the format "Final answer: .."\n\nQuestion:\n\n'
)


def test_the_prompts_of_the_papers() -> None:
    assert with_reasoning("How many?", "open") == f"How many?\n{OPEN}"
    assert with_reasoning("Which?\nA. one\nB. two", "choice") == f"Which?\nA. one\nB. two\n{CHOICE}"
    assert with_reasoning("How many?", "mpo") == f"{MPO}How many?"


def test_what_asks_for_the_bare_answer_is_taken_away() -> None:
    suffix = "\nAnswer with the option's letter from the given choices directly."
    assert with_reasoning("Which?\nB. two" + suffix, "choice") == with_reasoning("Which?\nB. two", "choice")
    suffix = " Answer the question using a single word or phrase."
    assert with_reasoning("How?" + suffix, "mpo") == with_reasoning("How?", "mpo")


def test_pictures_stay_in_front() -> None:
    for marks in ("<image>\n", "Image-1: <image>\nImage-2: <image>\n", "Frame1: <image>\nFrame2: <image>\n"):
        asked = with_reasoning(marks + "How many?", "mpo")
        assert asked == marks + str(with_reasoning("How many?", "mpo"))
        assert str(with_reasoning(marks + "How many?", "open")).startswith(marks + "How many?\nAnswer the")


def test_messages() -> None:
    picture = {"type": "image", "image": "a.jpg"}
    for content, expected in (
        ("How?", with_reasoning("How?", "open")),
        (
            [picture, {"type": "text", "text": "How?"}],
            [picture, {"type": "text", "text": with_reasoning("How?", "open")}],
        ),
        ([picture], [picture]),
    ):
        messages = [{"role": "system", "content": "s"}, {"role": "user", "content": content}]
        asked: Any = with_reasoning(messages, "open")
        assert asked[0] == messages[0]
        assert asked[1] == {"role": "user", "content": expected}
        assert messages[1]["content"] is content, "what was given is not changed"
    for malformed in ([], ["a"], 3, [{"role": "user", "content": 3}]):
        assert with_reasoning(malformed, "open") == malformed  # type: ignore[arg-type]


def test_a_prompt_that_there_is_not() -> None:
    with pytest.raises(PromptError, match="reasoning must be one of choice, open, mpo, or None, not 'deep'"):
        with_reasoning("How?", "deep")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First.\nSecond.\nAnswer: \\boxed{42}", "42"),
        ("Answer: \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{\\text{red cube}}", "red cube"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\boxed{$7$}", "7"),
        ("{ \\boxed{5}", "5"),
        ("\\boxed{4} and then \\boxed{5", "4"),
        ("So it is.\nAnswer: red cube.", "red cube"),
        ("**Answer:** three", "three"),
        ("Final answer: B", "B"),
        ("The final answer is: **12**", "12"),
        ("Answer: 1\nNo, wait.\nAnswer: 2", "2"),
        ("Answer: 1\nFinal Answer: 2", "2"),
        ("因此，\n答案：红色。", "红色"),
        ("最终答案是：3", "3"),
        ("I cannot tell.", None),
        ("Answer:", None),
        ("\\boxed{}", None),
        ("", None),
    ],
)
def test_the_answer_that_reasoning_ends_with(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed{(C)}", "C"),
        ("Answer: D. the cup", "D"),
        ("Answer: A) red", "A"),
        ("Answer: B：红色", "B"),
        ("Answer: \\boxed{the cup}", "the cup"),
        ("Answer: A cup", "A cup"),
        ("Answer: None", "None"),
    ],
)
def test_the_letter_of_a_choice(text: str, answer: str) -> None:
    assert final_answer(text, "choice") == answer


def test_without_reasoning_the_text_is_the_answer() -> None:
    assert final_answer(" red \n", None) == "red"
    assert final_answer("Answer: red", None) == "Answer: red"
    assert final_answer(" ", None) is None


def test_thoughts_are_no_part_of_the_answer() -> None:
    for reasoning in ("open", None):
        assert final_answer("<think>\nAnswer: 1?\n</think>\nAnswer: 2", reasoning) in ("2", "Answer: 2")  # type: ignore[arg-type]
    assert final_answer("<think>\nAnswer: 1", None) is None
    assert final_answer("<think>\n\\boxed{1}</think>\n\\boxed{2}") == "2"


def test_answers_that_say_the_same() -> None:
    assert same_answer(" Red  cube.") == same_answer("red cube") != same_answer("red cup")
    assert same_answer("红色。") == same_answer("红色")


@given(st.text(alphabet="\\boxed{}answerfinal: *\n答案：$", max_size=300))
def test_any_text(text: str) -> None:
    for reasoning in ("open", "choice", "mpo", None):
        found = final_answer(text, reasoning)  # type: ignore[arg-type]
        assert found is None or found.strip() == found != ""


def test_long_text_takes_time_in_proportion() -> None:
    begun = time.thread_time()
    for text in (
        "\\boxed{" * 20_000,
        "\n" * 100_000,
        "answer " * 20_000,
        "final answer " * 10_000,
        "{" * 100_000,
    ):
        final_answer(text)
    assert time.thread_time() - begun < 5
