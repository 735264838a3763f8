"""Tokens that a form forces take no step of their own, and the answer is the one that single steps give."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from typing import Any

import numpy as np
import pytest

import internvl_rt as ivl
from bundle.tiny import tiny_manifest
from internvl_rt import _core
from internvl_rt.answers.results import Answer, Piece
from internvl_rt.answers.settings import GenerationSettings
from internvl_rt.answers.structured import Constraint, Constraints
from internvl_rt.export.tokenizers import PromptRules, prompt_facts, synthetic_tokenizer
from internvl_rt.model.answer_stream import AnswerStream
from internvl_rt.model.asking import ask
from internvl_rt.prompts.tokenizer import Detokeniser
from plain_engine import Noise, model_of, tokenizer_of

pytest.importorskip("llguidance")

VOCABULARY = 1024
FAMILIES = ("qwen2_5", "internlm2", "phi3")
PHI3 = PromptRules(add_bos=True, bos="<s>", begins_with_space=True)
SEED = 17
MOST_AT_ONCE = 64
"""Tokens that one step appends at most."""
LONG_KEYS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour_of_the_largest_object": {"enum": ["red", "green", "blue"]},
        "number_of_objects_on_the_table": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_a_person_in_the_picture": {"type": "boolean"},
    },
    "required": [
        "colour_of_the_largest_object",
        "number_of_objects_on_the_table",
        "is_a_person_in_the_picture",
    ],
    "additionalProperties": False,
}


class Asker:
    """Asks for answers that keep a form, with one of the kinds of tokenizer, of an engine that says noise."""

    def __init__(self, family: str) -> None:
        self._made = synthetic_tokenizer(family, 1000)
        manifest = tiny_manifest()
        template, rules = ("phi3-chat", PHI3) if family == "phi3" else ("internvl2_5", PromptRules())
        self._manifest = dataclasses.replace(
            manifest,
            llm=dataclasses.replace(manifest.llm, vocab_size=VOCABULARY),
            prompt=prompt_facts(self._made, template, None, rules),
        )
        self.tokenizer = tokenizer_of(self._manifest, self._made)
        self._stop_ids = self._manifest.prompt.stop_ids
        self.constraints = Constraints(self.tokenizer, self._stop_ids, VOCABULARY)
        with self._model(Noise()) as model:
            self.prompt = [int(token) for token in model.render("Say it.", system="").input_ids]

    def _model(self, engine: Noise, context: int | None = None) -> ivl.Model:
        engine.manifest = self._manifest
        if context is not None:
            context += len(self.prompt)
        return model_of(engine, context_tokens=context, made=self._made)

    def alone(
        self, settings: GenerationSettings, index: int = 0, context: int = 500
    ) -> tuple[list[Piece], Answer, Noise]:
        """The answer of that number, by itself.

        Args:
            settings: what is asked for.
            index: of the answers that are drawn with one seed.
            context: tokens that there are for the answer.
        """
        engine = Noise()
        with self._model(engine, context) as model:
            (request,) = itertools.islice(model._requests([settings] * (index + 1)), index, None)
            asked = ask("Say it.", None, {"system": ""}, model._rules)
            stream = AnswerStream(lambda _: model._submit(model._read(asked), [request], streamed=True))
            pieces = list(stream)
        assert engine.sequences == {}
        answer = stream.result
        assert answer is not None
        assert "".join(piece.text for piece in pieces) == answer.text
        assert tuple(token for piece in pieces for token in piece.token_ids) == answer.token_ids
        return pieces, answer, engine

    def together(self, asked: dict[str, Any], answers: int, at_once: int) -> tuple[list[Answer], Noise]:
        most = GenerationSettings(**asked).max_new_tokens
        # The prompt, and so many copies of it that are continued.
        engine = Noise(len(self.prompt) + at_once * (len(self.prompt) + most))
        with self._model(engine) as model:
            found = model.chat("Say it.", system="", seed=SEED, num_return_sequences=answers, **asked)
        assert engine.sequences == {}
        return found, engine

    def stepwise(
        self, settings: GenerationSettings, index: int = 0, context: int = 500
    ) -> tuple[str, tuple[int, ...], str]:
        """Text, ids and finish reason of a plain loop: one token from the mask and the logits at a time."""
        (constraint,) = self.constraints.compile(settings, 1)
        assert constraint is not None
        engine = Noise()
        engine.manifest = self._manifest
        sampler = _core.Sampler(SEED).fork(index) if index else _core.Sampler(SEED)
        detokeniser = Detokeniser(self.tokenizer, stop=settings.stop, verbatim=True)
        text = ""
        ids: list[int] = []
        reason = "length"
        while len(ids) < min(settings.max_new_tokens, context):
            allowed = np.unpackbits(constraint.allowed(), bitorder="little")[:VOCABULARY]
            noise = engine.logits([*self.prompt, *ids])
            logits = np.where(allowed == 1, noise, np.float32(-np.inf))
            history = np.array(ids, np.int64)
            if settings.do_sample:
                token = sampler.sample(
                    logits,
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                    top_p=settings.top_p,
                    repetition_penalty=settings.repetition_penalty,
                    history=history,
                )
            else:
                token = _core.argmax(logits, settings.repetition_penalty, history)
            constraint.take(token)
            if token in self._stop_ids:
                reason = "stop"
                break
            ids.append(token)
            text += detokeniser.push(token)
            if detokeniser.stopped is not None or constraint.complete():
                reason = "stop"
                break
        return text + detokeniser.finish(), tuple(ids), reason


@pytest.fixture(scope="module", params=FAMILIES)
def asker(request: pytest.FixtureRequest) -> Asker:
    return Asker(request.param)


WORDS = (
    "colour",
    "of",
    "the",
    "object",
    "on",
    "table",
    "Länge",
    "杯子",
    "a b",
    "x",
    "re",
    "red",
    "{",
    '"q"',
    "é",
)


def name(random: random.Random, most: int = 5) -> str:
    return random.choice("_- ").join(random.choices(WORDS, k=random.randint(1, most)))


def schema(random: random.Random, depth: int = 0) -> dict[str, Any]:
    kind = random.choice(["enum", "const", "integer", "boolean", "string", "array", "object", "null"])
    if depth == 0:
        kind = "object"
    if kind == "object" and depth < 3:
        keys = list(dict.fromkeys(name(random) for _ in range(random.randint(1, 4))))
        required = [key for key in keys if depth == 0 or random.random() < 0.7]
        return {
            "type": "object",
            "properties": {key: schema(random, depth + 1) for key in keys},
            "required": required,
            "additionalProperties": False,
        }
    if kind == "array" and depth < 3:
        least = random.randint(0, 2)
        items = schema(random, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + random.randint(0, 2)}
    if kind == "enum":
        return {"enum": list(dict.fromkeys(name(random) for _ in range(random.randint(1, 4))))}
    if kind == "const":
        return {"const": name(random, 9)}
    if kind == "integer":
        return {"type": "integer", "minimum": 0, "maximum": random.choice([0, 9, 1234])}
    return {"type": "string", "maxLength": 6} if kind == "string" else {"type": "boolean"}


def pattern(random: random.Random) -> str:
    def literal() -> str:
        return "".join(f"\\{c}" if c in '{}"' else c for c in name(random))

    def part() -> str:
        repeated = f"[a-c]{{{random.randint(1, 3)}}}"
        return random.choice(
            [literal, lambda: f"({literal()}|{literal()})", lambda: repeated, lambda: "[0-9]?"]
        )()

    return literal() + "".join(part() for _ in range(random.randint(1, 5)))


def choices(random: random.Random) -> list[str]:
    begun = name(random)
    special = ["<IMG_CONTEXT> and more", "<|im_end|>", "</s><|end|>"]
    found = [begun + name(random, 8) for _ in range(random.randint(1, 5))]
    return [choice.strip() for choice in found + random.sample(special, random.randint(0, 2))]


def form(random: random.Random) -> dict[str, Any]:
    kind = random.choice(["schema", "pattern", "choices"])
    make = {"schema": schema, "pattern": pattern, "choices": choices}[kind]
    return {kind: make(random)}


def drawing(random: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {"max_new_tokens": random.choice([1, 2, 3, 7, 20, 60, 400])}
    if random.random() < 0.6:
        found |= {"do_sample": True, "temperature": random.choice([0.5, 1.0, 3.0])}
        found |= {"top_k": random.choice([0, 5, 50]), "top_p": random.choice([0.5, 1.0])}
    if random.random() < 0.5:
        found["repetition_penalty"] = random.choice([0.8, 1.3, 2.0])
    return found


@pytest.mark.parametrize("seed", range(40))
def test_any_form_gives_the_answer_of_single_steps(asker: Asker, seed: int) -> None:
    chance = random.Random(seed)
    asked = form(chance) | drawing(chance)
    whole, _, _ = asker.stepwise(GenerationSettings(**asked, seed=SEED))
    if whole and chance.random() < 0.5:
        begin = chance.randrange(len(whole))
        asked["stop"] = [whole[begin : begin + chance.randint(1, 4)], "never said"]
    settings = GenerationSettings(**asked, seed=SEED)
    context = chance.choice([500, 1, 11])
    wanted = asker.stepwise(settings, context=context)
    pieces, answer, engine = asker.alone(settings, context=context)
    assert (answer.text, answer.token_ids, answer.finish_reason) == wanted
    steps = 1 + len(engine.runs)
    chosen = answer.usage.new_tokens - answer.usage.forced_tokens
    assert chosen <= steps <= len(pieces) + 1
    assert sum(map(sum, engine.runs)) <= answer.usage.new_tokens
    assert all(len(piece.token_ids) <= MOST_AT_ONCE for piece in pieces[:-1])


@pytest.mark.parametrize("seed", range(12))
def test_answers_that_are_written_together_are_those_that_are_written_alone(asker: Asker, seed: int) -> None:
    chance = random.Random(1000 + seed)
    asked = form(chance) | drawing(chance) | {"do_sample": True, "temperature": 2.0}
    settings = GenerationSettings(**asked, seed=SEED)
    found, engine = asker.together(asked, 5, chance.choice([1, 2, 5]))
    for index, answer in enumerate(found):
        wanted = asker.stepwise(settings, index)
        assert (answer.text, answer.token_ids, answer.finish_reason) == wanted
        assert asker.alone(settings, index)[1].usage == answer.usage
    assert engine.runs or settings.max_new_tokens == 1 or max(len(a.token_ids) for a in found) <= MOST_AT_ONCE


def test_the_fuzzed_forms_force_and_free_tokens() -> None:
    """Or the tests above would say nothing."""
    asker = Asker("phi3")
    counted = [asker.alone(GenerationSettings(**form(random.Random(seed))))[1].usage for seed in range(20)]
    forced, new = (
        sum(getattr(usage, field) for usage in counted) for field in ("forced_tokens", "new_tokens")
    )
    assert 0.3 * new < forced < 0.95 * new


def test_some_rows_of_a_batch_are_forced_and_others_not() -> None:
    asker = Asker("qwen2_5")
    asked: dict[str, Any] = {
        "pattern": "(a[xyz]{9}|b the colour of the object is [xyz]{9})",
        "do_sample": True,
    }
    asked |= {"temperature": 9.0, "top_k": 0}
    settings = GenerationSettings(**asked, seed=SEED)
    found, engine = asker.together(asked, 6, 6)
    assert {answer.text[0] for answer in found} == {"a", "b"}
    assert any(min(counts) == 1 < max(counts) for counts in engine.runs)
    for index, answer in enumerate(found):
        assert (answer.text, answer.token_ids, answer.finish_reason) == asker.stepwise(settings, index)


@pytest.mark.parametrize("drawn", [False, True])
def test_long_keys_take_at_most_60_percent_of_the_steps(asker: Asker, drawn: bool) -> None:
    settings = GenerationSettings(schema=LONG_KEYS, do_sample=drawn, seed=SEED)
    pieces, answer, engine = asker.alone(settings)
    assert set(json.loads(answer.text)) == set(LONG_KEYS["properties"])
    steps = 1 + len(engine.runs)
    assert steps <= 0.6 * answer.usage.new_tokens
    assert answer.usage.forced_tokens == answer.usage.new_tokens - steps
    assert len(pieces) == steps
    assert (answer.text, answer.token_ids, answer.finish_reason) == asker.stepwise(settings)


def test_a_choice_that_is_decided_ends_without_another_step(asker: Asker) -> None:
    settings = GenerationSettings(choices=("absolutely nothing to see", "break the table", "certainly"))
    _, answer, engine = asker.alone(settings)
    assert engine.runs == []
    assert answer.text in settings.choices  # type: ignore[operator]
    assert answer.timings.per_token == 0.0
    assert answer.usage.forced_tokens == answer.usage.new_tokens - 1


def test_a_long_run_comes_in_pieces_and_can_be_cancelled() -> None:
    asker = Asker("qwen2_5")
    words = " ".join(f"word{i}" for i in range(100))
    settings = GenerationSettings(choices=(words,), max_new_tokens=2000)
    whole = asker.alone(settings, context=5000)[1]
    assert whole.text == words
    engine = Noise()
    with asker._model(engine, 5000) as model:
        stream = model.stream("Say it.", system="", choices=(words,), max_new_tokens=2000)
        with engine.at("decode", 0) as step:
            first = next(stream)
            step.wait()
            assert len(first.token_ids) == MOST_AT_ONCE
            stream.cancel()
        (last,) = stream
    answer = last.result
    assert answer is not None
    assert answer.finish_reason == "cancelled"
    assert answer.token_ids == whole.token_ids[: 2 * MOST_AT_ONCE], (
        "the step that was being computed is whole"
    )
    assert engine.runs == [[MOST_AT_ONCE]]
    assert engine.sequences == {}


def test_a_mask_is_computed_once_for_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker("phi3")
    masks = 0

    class Counted:
        def __init__(self, matcher: Any) -> None:
            self._matcher = matcher

        def __getattr__(self, attribute: str) -> Any:
            return getattr(self._matcher, attribute)

        def compute_bitmask(self) -> bytes:
            nonlocal masks
            masks += 1
            found = self._matcher.compute_bitmask()
            assert isinstance(found, bytes)
            return found

    made = Constraint.__init__
    monkeypatch.setattr(
        Constraint, "__init__", lambda self, matcher, *rest: made(self, Counted(matcher), *rest)
    )
    _, answer, _ = asker.alone(GenerationSettings(schema=LONG_KEYS))
    assert masks == answer.usage.new_tokens


class SingleSteps:
    """A form that forces no token."""

    def __init__(self, form: Any) -> None:
        self.allowed, self.take, self.complete = form.allowed, form.take, form.complete

    def forced(self) -> None: ...


def force_nothing(patch: pytest.MonkeyPatch) -> None:
    compiled = Constraints.compile

    def single(self: Constraints, *arguments: Any) -> list[SingleSteps]:
        return [SingleSteps(form) for form in compiled(self, *arguments)]

    patch.setattr(Constraints, "compile", single)


ASKED: list[dict[str, Any]] = [
    {"schema": LONG_KEYS},
    {"schema": LONG_KEYS, "do_sample": True, "temperature": 5.0, "top_k": 0, "seed": 3},
    {"schema": LONG_KEYS, "repetition_penalty": 1.5, "stop": "number_of"},
    {"schema": LONG_KEYS, "max_new_tokens": 21},
    {"choices": ["<IMG_CONTEXT> is here", "<|im_end|> or there", "nothing at all"]},
    {"pattern": r"the (red|green) cup is (left|right) of [0-9]{2} plates\.", "do_sample": True, "seed": 5},
]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("picture", [False, True])
def test_a_real_model_gives_the_answer_of_single_steps(
    model: ivl.Model, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], picture: bool, photo: Any
) -> None:
    about = {"system": "", **asked, **({"images": [photo], "max_tiles": 1} if picture else {})}
    pieces = list(model.stream("What?", **about))
    found = pieces[-1].result
    assert found is not None
    with monkeypatch.context() as patch:
        force_nothing(patch)
        wanted = model.chat("What?", **about)
    assert wanted.usage.forced_tokens == 0 < found.usage.forced_tokens
    assert len(pieces) <= 0.6 * found.usage.new_tokens, "a step makes a piece"
    assert (found.text, found.token_ids, found.finish_reason) == (
        wanted.text,
        wanted.token_ids,
        wanted.finish_reason,
    )
    if "do_sample" in asked:
        first, *others = model.chat("What?", num_return_sequences=3, **about)
        assert first.token_ids == found.token_ids
        assert all(answer.finish_reason == "stop" for answer in others)


@pytest.mark.parametrize("left", [5, 23, 60])
def test_the_contexts_end_in_the_middle_of_a_run(
    native_model: ivl.Model, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """There the rotary frequencies change with every token, and the cache is full."""
    ids = [65 + i % 20 for i in range(native_model.context_tokens - left)]
    found = native_model.generate(ids, schema=LONG_KEYS)
    force_nothing(monkeypatch)
    wanted = native_model.generate(ids, schema=LONG_KEYS)
    assert (found.token_ids, found.finish_reason) == (wanted.token_ids, wanted.finish_reason)
    assert len(found.token_ids) == left or found.finish_reason == "stop"
    assert found.usage.forced_tokens > 0 == wanted.usage.forced_tokens
