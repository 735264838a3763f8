"""Answers that are one of several texts, against a search through the whole vocabulary."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from internvl_rt import _core
from internvl_rt.errors import PromptError
from internvl_rt.export.tokenizers import synthetic_tokenizer
from internvl_rt.prompts.tokenizer import PromptTokenizer

VOCABULARY = 1024
FAMILIES = ("qwen2_5", "internlm2", "phi3")
TEXTS = (
    ("yes", "no"),
    ("red", "redder", "reddest", "blue"),
    ("yes", "yes, please", "yes, please!"),
    ("a cup", "a  cup", "a cup."),
    ("红色", "红", "蓝色 cup"),
    ("🙂", "🙃", "é"),
    ("the same", "the same"),
    ("<|im_end|>", "<box>[[1, 2]]</box>", "</s>"),
    ("only this one",),
    tuple(str(number) for number in range(120)),
)


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest) -> PromptTokenizer:
    return PromptTokenizer(synthetic_tokenizer(request.param, 1000).to_str())


def written(tokenizer: PromptTokenizer, ids: Sequence[int]) -> bytes:
    return b"".join(tokenizer.token_bytes(i, "all") for i in ids)


def stops(tokenizer: PromptTokenizer) -> list[int]:
    stop = tokenizer.token_id("<|end|>") or tokenizer.token_id("<|im_end|>")
    assert stop is not None
    return [stop]


def wanted(tokenizer: PromptTokenizer, texts: Sequence[str]) -> set[bytes]:
    """What an answer may be, with the space that may stand for the beginning of a text."""
    whole = {text.encode() for text in texts}
    return whole | ({b" " + text for text in whole} if tokenizer.artificial_spaces else set())


@pytest.mark.parametrize("texts", TEXTS)
def test_every_step_allows_what_can_still_become_one_of_the_texts(
    tokenizer: PromptTokenizer, texts: tuple[str, ...]
) -> None:
    table, stop = _core.TokenTable(tokenizer, VOCABULARY), stops(tokenizer)
    whole = wanted(tokenizer, texts)
    tokens = {
        i: tokenizer.token_bytes(i, "all")
        for i in range(VOCABULARY)
        if not tokenizer.is_special(i) and tokenizer.token_bytes(i, "all")
    }
    found = set()
    for seed in range(40):
        draw = random.Random(seed)
        choices, ids = _core.Choices(tokenizer, table, texts, stop), list[int]()
        while not choices.complete():
            done = written(tokenizer, ids)
            left = {text for text in whole if text.startswith(done)}
            assert left, "what was written is the beginning of a text"
            bits = np.unpackbits(choices.allowed(), count=VOCABULARY, bitorder="little")
            allowed = set(map(int, np.flatnonzero(bits)))
            possible = {i for i, b in tokens.items() if any(text.startswith(done + b) for text in left)}
            if done in left:
                possible |= set(stop)
            assert allowed <= possible
            if len(allowed) == 1 and allowed != possible:  # the tokenizer's own next token of all of them
                (only,) = allowed
                assert all(text.startswith(done + tokens[only]) for text in left)
            else:
                assert allowed == possible
            forced = choices.forced()
            assert (forced is not None) == (len(allowed) == 1)
            token = draw.choice(sorted(allowed)) if forced is None else forced
            choices.take(token)
            if token in stop:
                break
            ids.append(token)
        assert written(tokenizer, ids) in whole
        found.add(written(tokenizer, ids).strip().decode())
    assert len(found) > min(len(set(texts)), 2) - 1


def test_the_rest_of_the_one_text_that_is_left_is_written_as_the_tokenizer_writes_it() -> None:
    tokenizer = PromptTokenizer(synthetic_tokenizer("qwen2_5", 1000).to_str())
    text = "a table with three red cups"
    choices = _core.Choices(tokenizer, _core.TokenTable(tokenizer, VOCABULARY), [text, "nothing"], [1])
    choices.take(tokenizer.encode("a")[0])
    forced = []
    while not choices.complete():
        token = choices.forced()
        assert token is not None
        forced.append(token)
        choices.take(token)
    assert forced == tokenizer.encode(text[1:])


def test_what_all_texts_begin_with_is_written_as_the_tokenizer_writes_it() -> None:
    tokenizer = PromptTokenizer(synthetic_tokenizer("qwen2_5", 1000).to_str())
    texts = [f"answer number {number} of many" for number in ("one", "two", "three")]
    choices = _core.Choices(tokenizer, _core.TokenTable(tokenizer, VOCABULARY), texts, [1])
    forced = []
    while (token := choices.forced()) is not None:
        forced.append(token)
        choices.take(token)
    written_so_far = written(tokenizer, forced).decode()
    assert len(written_so_far) > 5
    encoded = [tokenizer.encode(text) for text in texts]
    assert all(ids[: len(forced)] == forced for ids in encoded)
    assert len({tuple(ids[: len(forced) + 1]) for ids in encoded}) > 1


def test_a_text_that_no_tokens_write_is_refused_by_name() -> None:
    tokenizer = PromptTokenizer(synthetic_tokenizer("qwen2_5", 1000).to_str())
    few = _core.TokenTable(tokenizer, 40)  # not all bytes are among the first ids
    with pytest.raises(PromptError, match=r"choices cannot be kept: .* to write 'ü' with"):
        _core.Choices(tokenizer, few, ["!", "ü"], [1])
