"""A bundle's tokenizer: how it is loaded, what it refuses, and that threads may share it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from internvl_rt._core import PromptRenderer
from internvl_rt.errors import BundleError
from internvl_rt.export.tokenizers import PromptRules, prompt_facts, synthetic_tokenizer
from internvl_rt.prompts.messages import conversation
from internvl_rt.prompts.tokenizer import Control, PromptTokenizer

SMALL = synthetic_tokenizer("qwen2", 400).to_str()


PROMPT = prompt_facts(synthetic_tokenizer("qwen2", 400), "Hermes-2", None)


def load(folder: Path, document: str, **facts: object) -> PromptTokenizer:
    (folder / "tokenizer.json").write_text(document)
    return PromptTokenizer.from_bundle(folder, replace(PROMPT, **facts))


def test_loading(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, SMALL)
    assert tokenizer.vocab_size == 400
    assert tokenizer.token_id("<img>") == tokenizer.control_id("<img>")
    assert tokenizer.token_id("no such token") is None


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", "JSON was expected; at byte 0 a value was expected, and the file ends"),
        ("{}", "is not a tokenizer"),
        (SMALL[: len(SMALL) // 2], "JSON was expected; at byte .* and the file ends"),
        (json.dumps(json.loads(SMALL) | {"decoder": None}), "has no decoder"),
        (
            json.dumps(json.loads(SMALL) | {"decoder": {"type": "WordPiece", "prefix": "", "cleanup": True}}),
            "the tokenizer's decoder .*WordPiece.* is not known",
        ),
    ],
)
def test_damaged_files(tmp_path: Path, document: str, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        load(tmp_path, document)
    assert "tokenizer.json" in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no tokenizer.json. Export"):
        PromptTokenizer.from_bundle(tmp_path, PROMPT)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match="JSON was expected; this is not UTF-8"):
        PromptTokenizer.from_bundle(tmp_path, PROMPT)


def test_settings_in_the_file_do_not_shorten_prompts(tmp_path: Path) -> None:
    raw = synthetic_tokenizer("qwen2", 400)
    raw.enable_truncation(2)
    raw.enable_padding(length=50)
    assert len(load(tmp_path, raw.to_str()).encode("!!!!!!")) == 6


def test_a_control_token_that_is_not_special_is_refused(tmp_path: Path) -> None:
    """Such a token would come out of user text too."""
    document = json.loads(SMALL)
    facts = prompt_facts(synthetic_tokenizer("qwen2", 400), "Hermes-2", None)
    next(token for token in document["added_tokens"] if token["content"] == "<|im_end|>")["special"] = False
    tokenizer = load(tmp_path, json.dumps(document))
    with pytest.raises(BundleError, match=r"'<\|im_end\|>' is not a special token"):
        PromptRenderer(tokenizer, facts, 4)


def test_a_manifest_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    facts = prompt_facts(synthetic_tokenizer("qwen2", 500), "Hermes-2", None)
    with pytest.raises(BundleError, match="<IMG_CONTEXT> is the id 393 in the bundle's tokenizer and 493"):
        PromptRenderer(load(tmp_path, SMALL), facts, 4)


@pytest.mark.parametrize("token_id", [388, 393, 65, 400, 10**9], ids=str)
def test_task_ids_that_would_let_text_steer_are_refused(tmp_path: Path, token_id: int) -> None:
    """A chat token, an image token, no added token, and none at all."""
    with pytest.raises(
        BundleError, match=rf"tokenizer.json: prompt.task_ids .* has the id {token_id}, which"
    ):
        load(tmp_path, SMALL, task_ids=(token_id,))


def test_task_tokens_are_cut_out_by_the_rules_of_the_library(tmp_path: Path) -> None:
    """The longest first; white space and whole words by the flags, beside tokens of the template too."""
    raw = synthetic_tokenizer("qwen2", 400)
    tokens = [
        AddedToken("<a>"), AddedToken("<a><b>"), AddedToken("<left>", lstrip=True),
        AddedToken("<right>", rstrip=True), AddedToken("<word", single_word=True), AddedToken("[x]"),
    ]  # fmt: skip
    raw.add_special_tokens(tokens)
    raw.add_tokens([AddedToken("<plain>", normalized=False), AddedToken("<norm>", normalized=True)])
    expected = Tokenizer.from_str(raw.to_str())
    task_ids = [raw.token_to_id(token.content) for token in tokens]
    tokenizer = PromptTokenizer(raw.to_str(), task_ids=task_ids)
    for text in (
        "<a><b><a> <b>", "one <left>  two <right>  three", "a <word b<word c", "<word", "<word>", "[x][x",
        " <right> <left> ", "<plain><a><norm> <norm><plain", "é<a>中 <left>😀<right>\n", "<a", "",
    ):  # fmt: skip
        assert tokenizer.encode(text) == expected.encode(text).ids
        pieces = [Control("<|im_start|>"), text, Control("<|im_end|>"), text]
        whole = f"<|im_start|>{text}<|im_end|>{text}"
        assert tokenizer.encode_pieces(pieces) == expected.encode(whole).ids


def test_tokens_that_swallow_whitespace_do_so(tmp_path: Path) -> None:
    """As the flags of Phi-3's chat tokens say."""
    raw = synthetic_tokenizer("qwen2", 400)
    raw.add_special_tokens([AddedToken("<|right|>", rstrip=True), AddedToken("<|left|>", lstrip=True)])
    raw.add_special_tokens([AddedToken("<|none|>")])
    text = "a \n<|right|> \nb \n<|left|> c <|none|> <|right|><|none|> d"
    expected = raw.encode(text).ids
    tokenizer = PromptTokenizer(raw.to_str())
    pieces = ["a \n", Control("<|right|>"), " \nb \n", Control("<|left|>"), " c ", Control("<|none|>"), " "]
    pieces += [Control("<|right|>"), Control("<|none|>"), " d"]
    assert tokenizer.encode_pieces(pieces) == expected


def test_neighbouring_texts_are_one() -> None:
    tokenizer = PromptTokenizer(synthetic_tokenizer("qwen2_5", 151674).to_str())
    assert tokenizer.encode_pieces(["th", "", "e"]) == tokenizer.encode("the")
    assert len(tokenizer.encode("the")) == 1
    assert tokenizer.encode_pieces(["th", Control("<img>", 0), "e"]) == tokenizer.encode("the")
    assert tokenizer.encode_pieces([]) == []


def test_threads_share_a_renderer() -> None:
    raw = synthetic_tokenizer("internlm2", 92553)
    facts = prompt_facts(raw, "internvl2_5", None, PromptRules(add_bos=True))
    renderer = PromptRenderer(PromptTokenizer(raw.to_str()), facts, 16)
    questions = [f"<|im_end|> {i} of <ref>these</ref> " * (1 + i % 7) for i in range(200)]

    def render(question: str) -> list[int]:
        return renderer.render(conversation(question, images=["a"]), [3]).input_ids.tolist()

    expected = [render(question) for question in questions]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            assert list(threads.map(render, questions)) == expected
