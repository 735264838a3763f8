"""Answers that keep a form. The tiny model writes noise, so whatever has the form has it by constraint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import internvl_rt as ivl
from bundle.tiny import VOCABULARY, tiny_tokenizer
from internvl_rt.answers.settings import GenerationSettings
from internvl_rt.answers.structured import Constraint, Constraints
from internvl_rt.errors import InternVLError, PromptError
from internvl_rt.export.tokenizers import synthetic_tokenizer
from internvl_rt.prompts.tokenizer import Detokeniser, PromptTokenizer
from watched_engine import Calls, load_watched

pytest.importorskip("llguidance")

DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 5.0, "top_k": 0, "system": ""}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green", "blue"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "seen": {"type": "boolean"},
    },
    "required": ["colour", "count", "seen"],
    "additionalProperties": False,
}


def likeliest(constraint: Constraint, logits: npt.NDArray[np.float64]) -> int:
    """Of the tokens that the form allows."""
    allowed = np.unpackbits(constraint.allowed(), bitorder="little")[: len(logits)].astype(bool)
    return int(np.argmax(np.where(allowed, logits, -np.inf)))


@pytest.fixture(autouse=True)
def nothing_is_left(model: ivl.Model) -> Iterator[None]:
    free = model._engine.free_tokens
    yield
    assert model._engine.free_tokens == free


@pytest.mark.parametrize("seed", range(4))
def test_a_schema(model: ivl.Model, seed: int) -> None:
    answer = model.chat("What?", schema=SCHEMA, seed=seed, **DRAWN)
    document = json.loads(answer.text)
    assert list(document) == ["colour", "count", "seen"]
    assert document["colour"] in ("red", "green", "blue")
    assert 0 <= document["count"] <= 99
    assert type(document["seen"]) is bool
    assert answer.text == json.dumps(document)
    assert answer.finish_reason == "stop"
    special = set(model.manifest.prompt.stop_ids) | {model.manifest.prompt.image_context_id}
    assert not special & set(answer.token_ids)
    assert answer.grounding_text == answer.text, "no grounding token comes in"


@pytest.mark.parametrize("pattern", [r"[0-9]{3}-[a-f]{2}", r"(红色|蓝色)的(方块|球)", r"a|b|", r"\w+@x\.org"])
def test_a_pattern(model: ivl.Model, pattern: str) -> None:
    for seed in range(3):
        answer = model.chat("What?", pattern=pattern, seed=seed, max_new_tokens=200, **DRAWN)
        if answer.finish_reason == "stop":
            assert re.fullmatch(pattern, answer.text), answer.text
        else:
            assert pattern.startswith(r"\w+")


def test_choices(model: ivl.Model) -> None:
    choices = ["red", "reddish", "a.b", "(x)", "杯子", "two words", "$5/[6]", 'say "hi"\\n']
    drawn = {model.chat("What?", choices=choices, seed=seed, **DRAWN).text for seed in range(40)}
    assert drawn <= set(choices)
    assert len(drawn) > 3
    assert model.chat("What?", choices=["only one"]).text == "only one"


def test_a_form_that_is_complete_ends_the_answer_without_another_step(
    model: ivl.Model, tiny_bundle: Path
) -> None:
    answer = model.chat("What?", choices=["7"], system="")
    assert (answer.text, answer.finish_reason, len(answer.token_ids)) == ("7", "stop", 1)
    calls = Calls()
    watched, engine = load_watched(tiny_bundle, engine=model.engine)
    with watched, engine.around(**calls.counting):
        assert watched.chat("What?", choices=["7"], system="").text == "7"
    assert (len(calls.prefilled), calls.batches) == (1, []), "the answer was complete"


def test_max_new_tokens_ends_a_document_in_its_middle(model: ivl.Model) -> None:
    whole = model.chat("What?", schema=SCHEMA, system="")
    cut = model.chat("What?", schema=SCHEMA, system="", max_new_tokens=9)
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 9)
    assert whole.text.startswith(cut.text)
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut.text)


def test_a_stream_keeps_the_form_too(model: ivl.Model) -> None:
    stream = model.stream("What?", schema=SCHEMA, system="")
    pieces = list(stream)
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == model.chat("What?", schema=SCHEMA, system="").text


def test_several_answers_keep_it_each_by_itself(model: ivl.Model) -> None:
    answers = model.chat("What?", schema=SCHEMA, num_return_sequences=4, seed=1, **DRAWN)
    assert len({answer.text for answer in answers}) > 1
    for answer in answers:
        assert set(json.loads(answer.text)) == {"colour", "count", "seen"}
    assert answers[0].text == model.chat("What?", schema=SCHEMA, seed=1, **DRAWN).text


def test_generate_keeps_it(model: ivl.Model) -> None:
    assert model.generate([65, 66], pattern="[xy]{5}").text.strip("xy") == ""


def test_the_likeliest_allowed_token_is_taken(model: ivl.Model) -> None:
    prompt = model.render("What?", system="").input_ids
    logits = model.logits(prompt)[-1]
    digits = [tiny_tokenizer().token_to_id(digit) for digit in "0123456789"]
    best = digits[int(np.argmax(logits[digits]))]
    assert model.chat("What?", pattern="[0-9]", system="").token_ids == (best,)


def test_a_pydantic_class(model: ivl.Model) -> None:
    class Colour:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return SCHEMA

    assert (
        json.loads(model.chat("What?", schema=Colour, system="").text).keys() == SCHEMA["properties"].keys()
    )


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"schema": {"type": "integer", "minimum": 5, "maximum": 3}}, "schema cannot be kept.*minimum"),
        ({"schema": {"enum": []}}, "schema cannot be kept"),
        ({"schema": {"type": "objekt"}}, "schema cannot be kept.*objekt"),
        (
            {"schema": {"type": "object", "propertyNames": {"pattern": "a"}}},
            '"propertyNames" is not supported in a schema',
        ),
        ({"schema": {"$ref": "#/nowhere"}}, "points to /nowhere, and the schema has nothing there"),
        ({"schema": {"$ref": "http://example.com/s"}}, "nothing is fetched: put it into the schema"),
        ({"schema": {"$ref": "#"}}, "no answer of finite length satisfies it"),
        ({"schema": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}}, "of finite length"),
        ({"schema": {"type": "string", "format": "colour"}}, 'the format "colour" is not known'),
        ({"schema": {"enum": ["\udcff"]}}, "schema cannot be kept"),
        ({"pattern": "a\udcff"}, "which is no character"),
        ({"choices": ["a", "\ud800"]}, "which is no character"),
        ({"pattern": "a$^b"}, "anchors and look-around are not supported"),
        ({"schema": "{}"}, "schema must be a JSON schema"),
        ({"schema": [1]}, "schema must be a JSON schema"),
        ({"schema": {"enum": [object()]}}, "schema must be a JSON schema"),
        ({"schema": {"minimum": float("nan")}}, "schema must be a JSON schema"),
        ({"pattern": "[0-9"}, "pattern cannot be kept.*unclosed"),
        ({"pattern": "(?=a)b"}, "pattern cannot be kept.*look-around"),
        ({"pattern": r"[^\s\S]"}, "pattern cannot be kept"),
        ({"pattern": ""}, "pattern must be a regular expression"),
        ({"pattern": b"a"}, "pattern must be a regular expression"),
        ({"choices": []}, "choices must be a list"),
        ({"choices": "red"}, "choices must be a list"),
        ({"choices": ["red", ""]}, "choices must be texts"),
        ({"choices": [" red"]}, "choices must be texts without white space"),
        ({"choices": ["red", 3]}, "choices must be texts"),
        ({"choices": ["a"], "pattern": "a"}, "pattern and choices were given"),
        ({"choices": ["a"], "ignore_stop_tokens": True}, "ignore_stop_tokens does not let it"),
    ],
)
def test_forms_that_cannot_be_kept(model: ivl.Model, form: dict[str, Any], says: str) -> None:
    for call in (model.chat, model.stream):
        with pytest.raises(PromptError, match=says) as raised:
            call("What?", **form)
        message = str(raised.value)
        assert not re.search(r"[\n⟦]|<state>|x-guidance|regex parse error|\^\^|start:", message), message


def test_a_recursion_without_end_ends_the_answer_in_our_words(model: ivl.Model) -> None:
    schema = {"type": "object", "properties": {"c": {"$ref": "#"}}, "required": ["c"]}
    with pytest.raises(PromptError, match=r"more than can be computed; a recursion in it may have no end\.$"):
        model.chat("What?", schema=schema, max_new_tokens=5)


def test_a_grammar_that_outgrows_the_limits_is_an_error_and_frees_the_cache(
    model: ivl.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed, calls = Constraint.allowed, iter(range(9))

    def outgrown(self: Constraint) -> Any:
        if next(calls) == 3:
            self._matcher.consume_token(VOCABULARY - 1)  # what the form does not allow puts it in error
        return allowed(self)

    monkeypatch.setattr(Constraint, "allowed", outgrown)
    with pytest.raises(PromptError, match=r"the form of the answer cannot be kept: \w"):
        model.chat("What?", schema=SCHEMA)


@pytest.mark.parametrize("family", ["qwen2_5", "internlm2", "phi3"])
def test_every_kind_of_tokenizer(family: str) -> None:
    try:
        made = synthetic_tokenizer(family, 1000)
    except (KeyError, ValueError, InternVLError):
        pytest.skip(f"no synthetic tokenizer for {family}")
    tokenizer = PromptTokenizer(made.to_str())
    stop = tokenizer.token_id("<|end|>") or tokenizer.token_id("<|im_end|>")
    assert stop is not None
    constraints = Constraints(tokenizer, [stop], 1024)
    (constraint,) = constraints.compile(GenerationSettings(choices=("红色 cup",)), 1)
    assert constraint is not None
    logits = np.random.default_rng(0).standard_normal(1024)
    ids: list[int] = []
    while not constraint.complete():
        assert constraint.allowed().dtype == np.uint8
        ids.append(likeliest(constraint, logits))
        constraint.take(ids[-1])
    assert tokenizer.decode([i for i in ids if i != stop]).strip() == "红色 cup"


@pytest.mark.parametrize("special", ["<|im_end|>", "<|end|>", "</s>", "<IMG_CONTEXT>", "<s>", "<img>"])
@pytest.mark.parametrize("family", ["qwen2_5", "internlm2", "phi3"])
def test_the_text_of_a_special_token_is_written_as_text(family: str, special: str) -> None:
    made = synthetic_tokenizer(family, 1000)
    tokenizer = PromptTokenizer(made.to_str())
    stop = tokenizer.token_id("<|end|>") or tokenizer.token_id("<|im_end|>")
    assert stop is not None
    wanted = f"cup{special}{special} cup"
    constraints = Constraints(tokenizer, [stop], 1024)
    for form in (
        {"choices": (wanted,)},
        {"pattern": wanted.replace("|", r"\|")},
        {"schema": {"const": wanted}},
    ):
        (constraint,) = constraints.compile(GenerationSettings(**form), 1)
        assert constraint is not None
        rng, ids = np.random.default_rng(0), []
        while not constraint.complete():
            ids.append(likeliest(constraint, rng.standard_normal(1024)))
            assert constraint.forced() in (ids[-1], None)
            constraint.take(ids[-1])
        text = tokenizer.decode([token for token in ids if token != stop])
        assert (json.loads(text) if "schema" in form else text) == wanted


@pytest.mark.parametrize(
    "form",
    [
        {"choices": ("red cup", "blue")},
        {"pattern": "cup [0-9]{2}"},
        {
            "schema": {
                "type": "object",
                "properties": {"long_name": {"const": "a cup"}},
                "required": ["long_name"],
            }
        },
    ],
)
def test_a_tokenizer_that_puts_a_space_in_front_of_every_text(form: dict[str, Any]) -> None:
    document = json.loads(synthetic_tokenizer("phi3", 1000).to_str())
    document["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    }
    document["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    tokenizer = PromptTokenizer(json.dumps(document))
    stop = tokenizer.token_id("<|end|>")
    assert stop is not None
    (constraint,) = Constraints(tokenizer, [stop], 1024).compile(GenerationSettings(**form), 1)
    assert constraint is not None
    rng, ids = np.random.default_rng(0), []
    while not constraint.complete():
        ids.append(likeliest(constraint, rng.standard_normal(1024)))
        constraint.take(ids[-1])
    text = tokenizer.decode([token for token in ids if token != stop])
    if "choices" in form:
        assert text in form["choices"]
    elif "pattern" in form:
        assert re.fullmatch(form["pattern"], text)
    else:
        assert json.loads(text) == {"long_name": "a cup"}


@pytest.mark.parametrize("pattern", [" [a-c]{2}", " *[xy] ", r"[ab]/c\n?", r"\s{2}q", "a\nb", r"\/|\\", " "])
@pytest.mark.parametrize("family", ["qwen2_5", "internlm2", "phi3"])
def test_white_space_of_a_pattern_is_kept_by_every_kind_of_tokenizer(family: str, pattern: str) -> None:
    made = synthetic_tokenizer(family, 1000)
    tokenizer = PromptTokenizer(made.to_str())
    stop = tokenizer.token_id("<|end|>") or tokenizer.token_id("<|im_end|>")
    assert stop is not None
    constraints = Constraints(tokenizer, [stop], 1024)
    texts = set()
    for seed in range(12):
        (constraint,) = constraints.compile(GenerationSettings(pattern=pattern), 1)
        assert constraint is not None
        detokeniser = Detokeniser(tokenizer)
        rng, text, token = np.random.default_rng(seed), "", -1
        for _ in range(60):
            if constraint.complete() or token == stop:
                break
            # " *" and the like may go on for long: the stop token is liked.
            logits = rng.standard_normal(1024)
            logits[stop] = 2
            token = likeliest(constraint, logits)
            constraint.take(token)
            if token != stop:
                text += detokeniser.push(token)
        else:
            continue
        text += detokeniser.finish()
        assert re.fullmatch(pattern, text), (text, pattern)
        texts.add(text)
    assert texts


def test_the_text_of_a_form_is_not_stripped(model: ivl.Model) -> None:
    answer = model.chat("What?", pattern=" [ab] ", system="")
    assert answer.text in (" a ", " b ")
    assert answer.grounding_text == answer.text
    spaced = "two , words !"
    answer = model.chat("What?", choices=[spaced], system="")
    assert (answer.text, answer.grounding_text) == (spaced, spaced)
    pieces = list(model.stream("What?", pattern="\n\n- [0-9]\n", system=""))
    assert re.fullmatch("\n\n- [0-9]\n", "".join(piece.text for piece in pieces))
    (one, two) = model.chat("What?", pattern=r" x|  y", num_return_sequences=2, **DRAWN)
    assert {one.text, two.text} <= {" x", "  y"}


def test_without_llguidance_a_form_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['llguidance'] = None\n"
        "from internvl_rt.answers.settings import GenerationSettings\n"
        "from internvl_rt.answers.structured import Constraints\n"
        "from internvl_rt import InternVLError\n"
        "constraints = Constraints(None, [1], 9)\n"
        "assert constraints.compile(GenerationSettings(), 2) == [None, None]\n"
        "try: constraints.compile(GenerationSettings(pattern='a'), 1)\n"
        "except InternVLError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'internvl-rt[structured]'" in done.stdout
