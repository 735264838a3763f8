"""Synthetic tokenizers: exact size, published ids, no text lost."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers import synthetic_tokenizer

SIZES = [
    ("qwen2", 151655),
    ("qwen2_5", 151674),
    ("qwen3", 151936),
    ("internlm2", 92553),
    ("phi3", 32020),
    ("llama3", 128265),
    ("qwen2_5", 512),
    ("internlm2", 300),
]
INTERNVL = ("<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")


@pytest.mark.parametrize(("family", "size"), SIZES)
def test_every_id_is_there_and_decodes_to_a_text_of_its_own(family: str, size: int) -> None:
    tokenizer = synthetic_tokenizer(family, size)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(size))
    texts = tokenizer.decode_batch([[i] for i in range(size)], skip_special_tokens=False)
    assert texts.count("\ufffd") == 128
    assert len(set(texts)) == size - 127


@pytest.mark.parametrize(
    ("family", "size", "ids"),
    [
        ("qwen2", 151655, {"<|im_end|>": 151645, "<|endoftext|>": 151643, "<img>": 151646}),
        ("qwen2_5", 151674, {"<|im_start|>": 151644, "<|im_end|>": 151645, "<img>": 151665}),
        ("qwen3", 151936, {"<|im_start|>": 151644, "<|im_end|>": 151645, "<img>": 151669}),
        ("internlm2", 92553, {"</s>": 2, "<|im_end|>": 92542, "<|im_start|>": 92543, "<img>": 92544}),
        ("phi3", 32020, {"<|endoftext|>": 32000, "<|end|>": 32007, "<|user|>": 32010, "<img>": 32011}),
    ],
)
def test_special_tokens_have_the_published_ids(family: str, size: int, ids: dict[str, int]) -> None:
    tokenizer = synthetic_tokenizer(family, size)
    ids = ids | {token: ids["<img>"] + i for i, token in enumerate(INTERNVL)}
    assert {token: tokenizer.token_to_id(token) for token in ids} == ids
    assert tokenizer.encode("".join(ids), add_special_tokens=False).ids == list(ids.values())


TOKENIZERS = [synthetic_tokenizer(*case) for case in SIZES]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda t: str(t.get_vocab_size()))
@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_text_survives(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert max(ids, default=0) < tokenizer.get_vocab_size()


def test_prompts_are_about_as_long_as_a_trained_models() -> None:
    tokenizer = synthetic_tokenizer("qwen2_5", 151674)
    english = "The quick brown fox jumps over the lazy dog, and then Rotterdam sends 1234 letters to nobody. "
    assert len(tokenizer.encode(english).ids) < len(english) / 2.4
    chinese = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室"
    assert len(tokenizer.encode(chinese).ids) <= len(chinese)


def test_the_largest_is_quick_and_small() -> None:
    start = time.thread_time()
    text = synthetic_tokenizer("qwen3", 151936).to_str()
    assert time.thread_time() - start < 3
    assert len(text.encode()) < 5_000_000
    assert Tokenizer.from_str(text).get_vocab_size() == 151936


def test_impossible_requests() -> None:
    with pytest.raises(CheckpointError, match=r"'gpt-5'.*qwen2"):
        synthetic_tokenizer("gpt-5", 1000)
    with pytest.raises(CheckpointError, match="at least 268 ids"):
        synthetic_tokenizer("qwen2", 267)
