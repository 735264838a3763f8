"""Streaming: pieces are whole text, their concatenation is the one-shot decode, stop strings never leak."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_rt.export.tokenizers import synthetic_tokenizer
from internvl_rt.prompts.tokenizer import Detokeniser, KeepTokens, PromptTokenizer

RAW = {
    "byte level": synthetic_tokenizer("qwen2_5", 3000),
    "byte fallback": synthetic_tokenizer("internlm2", 3000),
}
TOKENIZERS = {name: PromptTokenizer(tokenizer.to_str()) for name, tokenizer in RAW.items()}
both = pytest.mark.parametrize("kind", RAW)
# Mostly bytes, so that broken and completed characters are frequent.
ids_of_all_kinds = st.lists(
    st.integers(0, 300) | st.integers(0, 2999) | st.sampled_from([2980, 2999, 3000, 10**9, -1]), max_size=60
)


def stream(kind: str, ids: list[int], **options: object) -> tuple[list[str], Detokeniser]:
    detokeniser = Detokeniser(TOKENIZERS[kind], **options)  # type: ignore[arg-type]
    pieces = [detokeniser.push(i) for i in ids]
    return [*pieces, detokeniser.finish()], detokeniser


@both
@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd")))
def test_text_streams_without_a_broken_character(kind: str, text: str) -> None:
    ids = RAW[kind].encode(text).ids if "<" not in text else TOKENIZERS[kind].encode(text)
    pieces, _ = stream(kind, ids, keep="all")
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert pieces[-1] == ""


@settings(max_examples=300, deadline=None)
@given(ids=ids_of_all_kinds)
def test_any_ids_are_the_librarys_one_shot_decode(ids: list[int]) -> None:
    known = [i for i in ids if 0 <= i < 3000]
    expected = RAW["byte level"].decode(known, skip_special_tokens=True)
    pieces, _ = stream("byte level", ids)
    assert "".join(pieces) == expected


@both
@settings(max_examples=300, deadline=None)
@given(ids=ids_of_all_kinds)
def test_a_piece_is_final(kind: str, ids: list[int]) -> None:
    """What was given out never changes: it is a prefix of the decode of any continuation."""
    detokeniser = Detokeniser(TOKENIZERS[kind])
    given_out = ""
    whole = TOKENIZERS[kind].decode(ids)
    for i in ids:
        given_out += detokeniser.push(i)
        given_out.encode("utf-8")
        assert whole.startswith(given_out)
    assert given_out + detokeniser.finish() == whole


def cleaned(text: str) -> str:
    """What transformers' decode makes of a text where clean_up_tokenization_spaces is set."""
    for old, new in (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
        (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ):  # fmt: skip
        text = text.replace(old, new)
    return text


CLEANERS = {
    name: PromptTokenizer(tokenizer.to_str(), clean_up_spaces=True) for name, tokenizer in RAW.items()
}
punctuated = st.lists(
    st.sampled_from(
        [*" .?!,'nt", "'", " ' ", "n't", " '", "'m", "'s", "'ve", "'re", "a", "中", "  ", " ' ' "]
    ),
    max_size=30,
).map("".join)


@both
@settings(max_examples=300, deadline=None)
@given(text=punctuated, stop=st.lists(punctuated.map(lambda text: text[:4]), max_size=2))
def test_spaces_before_punctuation_go_in_a_stream_as_in_the_whole(
    kind: str, text: str, stop: list[str]
) -> None:
    tokenizer = CLEANERS[kind]
    ids, expected = tokenizer.encode(text), cleaned(text)
    assert tokenizer.decode(ids) == expected
    detokeniser = Detokeniser(tokenizer, stop=stop)
    given_out = ""
    for i in ids:
        given_out += detokeniser.push(i)
        assert expected.startswith(given_out)
    cuts = [(expected.find(s) + len(s), expected.find(s)) for s in stop if s and s in expected]
    assert given_out + detokeniser.finish() == expected[: min(cuts)[1] if cuts else None]
    verbatim = Detokeniser(tokenizer, verbatim=True)
    assert "".join(map(verbatim.push, ids)) + verbatim.finish() == text


def test_the_rule_for_spaces_is_that_of_transformers() -> None:
    try:
        from transformers import PreTrainedTokenizerBase
    except ImportError as error:
        pytest.skip(f"transformers cannot be imported ({error})")
    for text in ("a . b ?c ! , ' ' x n't 'm 's 've 're", " ' s", "' 's  n't", "do n't ' ' ' ,"):
        assert cleaned(text) == PreTrainedTokenizerBase.clean_up_tokenization(None, text)


@both
def test_a_character_is_held_until_its_last_byte(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("a😀b")
    assert len(ids) == 6
    pieces, _ = stream(kind, ids)
    assert pieces == ["a", "", "", "", "😀", "b", ""]
    assert stream(kind, ids[:3])[0] == ["a", "", "", "\ufffd" * (1 if kind == "byte level" else 2)]


@both
@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("none", "the cup[[1, 2, 3, 4]]"),
        ("grounding", "<ref>the cup</ref><box>[[1, 2, 3, 4]]</box>"),
        ("all", "<ref>the cup</ref><box>[[1, 2, 3, 4]]</box><|im_end|>"),
    ],
)
def test_special_tokens_are_kept_as_asked(kind: str, keep: KeepTokens, expected: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = [
        *tokenizer.encode("<ref>the cup</ref><box>[[1, 2, 3, 4]]</box>"),
        tokenizer.control_id("<|im_end|>"),
    ]
    assert tokenizer.decode(ids, keep) == expected
    assert "".join(stream(kind, ids, keep=keep)[0]) == expected


def test_tokens_that_are_added_but_not_special_stay() -> None:
    tokenizer = PromptTokenizer(synthetic_tokenizer("qwen3", 151936).to_str())
    ids = [tokenizer.token_id("<think>"), *tokenizer.encode("hm"), tokenizer.token_id("</think>")]
    assert tokenizer.decode([i for i in ids if i is not None]) == "<think>hm</think>"


@both
@settings(max_examples=200, deadline=None)
@given(text=st.text("ab😀 "), stop=st.lists(st.text("ab😀 ", max_size=4), max_size=3))
def test_the_text_ends_before_the_stop_string_that_is_complete_first(
    kind: str, text: str, stop: list[str]
) -> None:
    ids = TOKENIZERS[kind].encode(text)
    detokeniser = Detokeniser(TOKENIZERS[kind], stop=stop)
    cuts = [(text.find(s) + len(s), text.find(s)) for s in stop if s and s in text]
    end = min(cuts)[1] if cuts else len(text)
    out = ""
    for count, i in enumerate(ids):
        out += detokeniser.push(i)
        # Known as soon as the stop string is complete, and never given out in part.
        so_far = TOKENIZERS[kind].decode(ids[: count + 1]).rstrip("\ufffd")
        assert (detokeniser.stopped is not None) == any(s in so_far for s in stop if s)
        assert text[:end].startswith(out)
    assert out + detokeniser.finish() == text[:end]
    assert (detokeniser.stopped is not None) == bool(cuts)
    assert detokeniser.finish() == ""
    assert detokeniser.push(ids[0] if ids else 0) == "" or not cuts


@both
def test_text_that_begins_like_a_stop_string_is_held_and_released(kind: str) -> None:
    ids = [TOKENIZERS[kind].encode(c)[0] for c in "aENENDb"]
    pieces, detokeniser = stream(kind, ids, stop=["END"])
    assert pieces == ["a", "", "", "EN", "", "", "", ""]
    assert detokeniser.stopped == "END"
    pieces, detokeniser = stream(kind, ids[:3], stop=["END"])
    assert pieces == ["a", "", "", "EN"]
    assert detokeniser.stopped is None


@both
def test_the_cost_of_a_token_does_not_grow(kind: str) -> None:
    ids = TOKENIZERS[kind].encode("word 中 " * 10_000)
    stream(kind, ids[:1000], stop=["never", "ever"])

    def seconds(count: int) -> float:
        """Of this thread's own processor time, which other processes take nothing of."""
        start = time.thread_time()
        stream(kind, ids[:count], stop=["never", "ever"])
        return time.thread_time() - start

    short, long = min(seconds(2000) for _ in range(3)), min(seconds(32_000) for _ in range(2))
    assert long < 16 * short * 4
