"""The tokens of a fine-tuning, and those that steer a conversation, in questions and answers of a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

import internvl_rt as ivl
from export.checkpoints import write_reciting_checkpoint
from internvl_rt.export.tokenizers import synthetic_tokenizer

TASK = ("<loc_1>", "<loc_12>", "</loc_1>", "[SEG]", "<eats>", "<action_start>")
STEERING = ("<|im_sep|>", "<|action_start|>", "<|vision_start|>", "<video>", "<pad>", "<fill>", "<turn>")
OTHERS = ("<think>", "</think>", "<tool_call>")
ANSWER = ("<think>", "<loc_1>", "5", "</loc_1>", "<ref>", "x", "</ref>", "<|im_sep|>")
ROLES = {"pad_token": {"content": "<fill>"}, "eos_token": "<turn>"}


def fine_tuned() -> Tokenizer:
    tokenizer = synthetic_tokenizer("qwen2_5", 331)
    tokenizer.add_special_tokens([AddedToken(t, rstrip=t == "<eats>") for t in (*TASK, *STEERING)])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in OTHERS])
    return tokenizer


def export(folder: Path, tokenizer: Tokenizer, words: tuple[str, ...], **config: Any) -> Path:
    write_reciting_checkpoint(folder / "checkpoint", tokenizer, words)
    (folder / "checkpoint" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", **config})
    )
    return ivl.export(folder / "checkpoint", folder / "bundle", weights="fp32", progress=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ivl.Model]:
    bundle = export(tmp_path_factory.mktemp("fine-tuned"), fine_tuned(), ANSWER, **ROLES)
    with ivl.load(bundle, engine="native") as model:
        yield model


def ids_of(model: ivl.Model, question: str, **arguments: Any) -> list[int]:
    ids: list[int] = model.render(question, **arguments).input_ids.tolist()
    return ids


@pytest.mark.parametrize(
    "text",
    [
        "Describe <loc_1>[[1, 2]]</loc_1>.",
        "<loc_12><loc_1><loc_1",
        "see [SEG] or <eats>  this",
        "<ref>both</ref> <loc_1>",
        "<think> and <tool_call>",
        "<action_start>",
    ],
)
def test_task_tokens_are_tokens_wherever_they_are_typed(model: ivl.Model, text: str) -> None:
    """As the tokenizers library has it for the whole prompt."""
    found = model.render(text, history=[("Where?", text), (text, "There.")], system=text)
    assert found.input_ids.tolist() == fine_tuned().encode(found.text).ids


@pytest.mark.parametrize(
    "typed", [*STEERING, "<|im_start|>", "<|im_end|>", "<img>", "<IMG_CONTEXT>", "<|endoftext|>"]
)
def test_what_steers_a_conversation_is_text(model: ivl.Model, typed: str) -> None:
    special = {i for i, token in fine_tuned().get_added_tokens_decoder().items() if token.special}

    def steering(word: str) -> list[int]:
        ids = ids_of(model, f"a {word}b", history=[(word, word)], system=word)
        return [i for i in ids if i in special]

    assert steering(typed) == steering("word")


def test_task_tokens_are_in_the_manifest_by_id(model: ivl.Model) -> None:
    tokenizer = fine_tuned()
    assert model.manifest.prompt.task_ids == tuple(sorted(map(tokenizer.token_to_id, TASK)))


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ("none", "<think>5x"),
        ("grounding", "<think>5<ref>x</ref>"),
        ("task", "<think><loc_1>5</loc_1><ref>x</ref>"),
        ("all", "<think><loc_1>5</loc_1><ref>x</ref><|im_sep|>"),
    ],
)
def test_an_answer_shows_the_tokens_asked_for(model: ivl.Model, keep: Any, text: str) -> None:
    answer = model.chat("Where?", keep_special_tokens=keep)
    assert answer.text == text
    assert "".join(p.text for p in model.stream("Where?", keep_special_tokens=keep)) == text


def test_an_answer_with_task_tokens_is_the_same_tokens_in_history(model: ivl.Model) -> None:
    answer = model.chat("Where?", keep_special_tokens="task")
    said = [i for i in answer.token_ids if i != fine_tuned().token_to_id("<|im_sep|>")]
    ids = ids_of(model, "And?", history=[("Where?", answer.text)])
    assert any(ids[i : i + len(said)] == said for i in range(len(ids)))


def test_tokens_without_an_embedding_stay_text(tmp_path: Path) -> None:
    """A tokenizer that grew without its model: no id that the model does not know."""
    bundle = export(tmp_path, fine_tuned(), ANSWER)
    grown = fine_tuned()
    grown.add_special_tokens(["<loc_2>", "<|more|>"])
    grown.add_tokens(["<plain>"])
    grown.save(str(tmp_path / "checkpoint" / "tokenizer.json"))
    bundle = ivl.export(tmp_path / "checkpoint", bundle, weights="fp32", progress=False, overwrite=True)
    with ivl.load(bundle, engine="native") as model:
        ids = ids_of(model, "<loc_2> and <loc_1> and <plain><|more|>")
        assert max(ids) < model.manifest.llm.vocab_size
        assert grown.token_to_id("<loc_1>") in ids
        assert model.chat("<plain><loc_2>").text


PUNCTUATED = ("Yes", " ,", " it", " is", " n't", " .", " So", " ' ", "x", " ?")


def test_spaces_before_punctuation_go_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    tokenizer = synthetic_tokenizer("qwen2_5", 331)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in PUNCTUATED])
    whole = "".join(PUNCTUATED)
    for setting, text in ((True, "Yes, it isn't. So'x?"), (False, whole), (None, whole)):
        folder = tmp_path / str(setting)
        bundle = export(folder, tokenizer, PUNCTUATED, clean_up_tokenization_spaces=setting)
        with ivl.load(bundle, engine="native") as model:
            assert model.chat("x").text == text
            assert "".join(piece.text for piece in model.stream("x")) == text
            assert model.chat("x", stop=["isn't"]).text == ("Yes, it" if setting else whole)


def test_a_form_keeps_its_spaces(tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    tokenizer = synthetic_tokenizer("qwen2_5", 331)
    bundle = export(tmp_path, tokenizer, ("a", "b"), clean_up_tokenization_spaces=True)
    with ivl.load(bundle, engine="native") as model:
        assert model.chat("x", choices=["a , b ?"]).text == "a , b ?"
