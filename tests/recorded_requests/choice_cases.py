"""How tokens are chosen: sampling, seeds, several answers, and forms; and the settings that are none."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from recorded_requests.bundles import says
from recorded_requests.engine import NOT_SAID
from recorded_requests.pictures import pattern
from recorded_requests.stage import Request, Stage, call

ASKED: dict[str, Any] = {"question": "Draw.", "system": "", "max_new_tokens": 12}
DRAWN: dict[str, Any] = {**ASKED, "do_sample": True, "seed": 11}
MOST_SEED = 2**64 - 1

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature without sampling": {"temperature": 3.0, "top_k": 1, "seed": 5},
    "temperature 0": {"do_sample": True, "temperature": 0, "seed": 5},
    **{f"seed {seed}": {"do_sample": True, "seed": seed} for seed in (0, 1, 2, 7, 2**32, 2**63, MOST_SEED)},
    **{
        f"temperature {temperature}": {"do_sample": True, "seed": 3, "temperature": temperature}
        for temperature in (1e-3, 0.1, 0.5, 0.9, 1, 1.5, 4.0, 100.0)
    },
    **{
        f"top_k {k}": {"do_sample": True, "seed": 3, "temperature": 5.0, "top_k": k}
        for k in (0, 1, 2, 10, 349, 350, 999)
    },
    **{
        f"top_p {p}": {"do_sample": True, "seed": 3, "temperature": 5.0, "top_k": 0, "top_p": p}
        for p in (1e-9, 0.1, 0.5, 0.9, 0.999, 1)
    },
    **{
        f"top_k {k} and top_p {p}": {"do_sample": True, "seed": 4, "temperature": 2.0, "top_k": k, "top_p": p}
        for k, p in ((5, 0.5), (50, 0.9), (200, 0.3))
    },
    **{f"penalty {penalty}": {"repetition_penalty": penalty} for penalty in (0.25, 0.9, 1.1, 2, 100.0)},
    **{
        f"penalty {penalty} and sampling": {"do_sample": True, "seed": 6, "repetition_penalty": penalty}
        for penalty in (0.5, 1.3)
    },
    "of a published model": {"do_sample": True, "seed": 8, "temperature": 0.6, "top_p": 0.95, "top_k": 20},
}


def among_letters(stage: Stage, **arguments: Any) -> Any:
    """An answer of few letters, so that they come again and again."""
    few = np.full(stage.model.manifest.llm.vocab_size, NOT_SAID, np.float32)
    few[[ord(letter) for letter in "abcdefgh"]] = 0
    stage.engine.change = lambda logits: logits + few
    return stage.call("chat", **arguments)


def sampling() -> Iterator[Request]:
    for name, settings in SETTINGS.items():
        yield Request(f"bytes: {name}", "bytes", call("chat", **{**ASKED, **settings}))
    for name in ("greedy", "seed 7", "penalty 1.1", "of a published model"):
        settings = SETTINGS[name]
        yield Request(f"bytes: stream, {name}", "bytes", call("stream", **{**ASKED, **settings}))
        yield Request(f"internlm2: {name}", "internlm2", call("chat", **{**ASKED, **settings}))
        run = call("generate", [65, 66], max_new_tokens=9, **settings)
        yield Request(f"bytes: generate, {name}", "bytes", run)
    for penalty in (0.5, 1.0, 1.1, 1.5, 4.0):
        for seed in (None, 1, 2):
            settings = {"repetition_penalty": penalty, "do_sample": seed is not None, "seed": seed}
            run = partial(among_letters, **{**ASKED, **settings})
            yield Request(f"bytes: among letters, penalty {penalty}, seed {seed}", "bytes", run)
    for settings in ({"top_k": 3}, {"top_p": 0.6}, {"temperature": 0.3}, {"repetition_penalty": 1.2}):
        run = partial(among_letters, **{**DRAWN, **settings}, num_return_sequences=3)
        yield Request(f"bytes: answers among letters, {settings}", "bytes", run)
    equal = tuple(says(letter * 12) for letter in "abcdefghij")
    for settings in ({}, {"top_p": 0.3}, {"top_p": 0.31}, {"top_k": 3}, {"temperature": 9.0, "top_p": 0.5}):
        run = call("chat", **{**DRAWN, **settings})
        yield Request(f"bytes: equal tokens, {settings}", "bytes", run, equal)
    picture = {"images": [pattern(60, 50)], "max_tiles": 1}
    for seed in (1, 2):
        run = call("chat", **{**DRAWN, **picture, "seed": seed})
        yield Request(f"bytes: a picture, seed {seed}", "bytes", run)


def several() -> Iterator[Request]:
    for number in (1, 2, 3, 5, 8):
        run = call("chat", num_return_sequences=number, **DRAWN)
        yield Request(f"bytes: {number} answers", "bytes", run)
    for model in ("byte-level", "phi3", "internvl-hf"):
        yield Request(f"{model}: answers", model, call("chat", num_return_sequences=3, **DRAWN))
    run = call("chat", num_return_sequences=1, **ASKED)
    yield Request("bytes: one likeliest answer", "bytes", run)
    run = call("generate", [65] * 40, num_return_sequences=3, max_new_tokens=8, do_sample=True, seed=1)
    yield Request("bytes: generate", "bytes", run)
    run = call("chat", images=[pattern(150, 60)], max_tiles=2, num_return_sequences=3, **DRAWN)
    yield Request("bytes: about a picture", "bytes", run)
    lengths = (says("a"), says("bb bb"), says("c c c c c"), says("dEND d"), says("e" * 11))
    for stop in ((), "END"):
        run = call("chat", num_return_sequences=8, stop=stop, **DRAWN)
        yield Request(f"bytes: of several lengths, stop {stop!r}", "bytes", run, lengths)
    for number, tokens in ((3, 300), (9, 90), (20, 30), (4, 480)):
        drawn = {**DRAWN, "max_new_tokens": tokens, "num_return_sequences": number}
        run = call("chat", **drawn)
        name = f"small cache: {number} answers of {tokens} tokens, some wait"
        yield Request(name, "small cache", run, lengths)
    run = call(
        "generate", [65] * 480, num_return_sequences=3, max_new_tokens=1024, do_sample=True, seed=2, top_k=5
    )
    yield Request("small cache: no room beside the prompt", "small cache", run)
    run = call("chat", num_return_sequences=4, repetition_penalty=1.3, **DRAWN)
    yield Request("bytes: a penalty each", "bytes", run)
    for number in (0, -1, True, 2.0, "3", 257, None):
        run = call("chat", num_return_sequences=number, **DRAWN)
        yield Request(f"bytes: num_return_sequences {number!r}", "bytes", run)
    run = call("generate", [65], num_return_sequences=0)
    yield Request("bytes: generate, num_return_sequences 0", "bytes", run)
    run = call("chat", num_return_sequences=3, **ASKED)
    yield Request("bytes: without sampling", "bytes", run)
    run = call("chat", num_return_sequences=3, **{**DRAWN, "temperature": 0})
    yield Request("bytes: at temperature 0", "bytes", run)


FORM_MODELS = ("bytes", "byte-level", "internlm2", "phi3")


def choices() -> Iterator[Request]:
    lists: dict[str, list[str]] = {
        "words": ["yes", "no"],
        "a beginning of another": ["red", "reddish", "redder"],
        "one": ["only one"],
        "signs": ["a.b", "(x)", "$5/[6]", 'say "hi"\\n', "a|b", "^", "~x&y-#"],
        "other letters": ["红色", "红色的杯子", "é", "🙂🙂"],
        "special tokens": ["<|im_end|>", "<IMG_CONTEXT> x", "</s>"],
        "punctuation": ["a , b ?", "a , b"],
        "line breaks": ["a\nb", "a\n\nb"],
    }
    for model in FORM_MODELS:
        for name, given in lists.items():
            drawn = {"do_sample": True, "temperature": 9.0, "seed": 5, "top_k": 0}
            asked = {**ASKED, "choices": given, "max_new_tokens": 60}
            method = "stream" if name in ("a beginning of another", "other letters") else "chat"
            yield Request(f"{model}: {name}", model, call(method, **asked), needs="llguidance")
            run = call("chat", **{**asked, **drawn}, num_return_sequences=4)
            yield Request(f"{model}: {name}, drawn", model, run, needs="llguidance")
    asked = {**ASKED, "choices": lists["a beginning of another"]}
    for told in ("no", "reddest", "red"):
        run = call("stream", **asked)
        yield Request(f"bytes: told {told!r}", "bytes", run, (says(told),), needs="llguidance")
    for count in (1, 2, 4):
        run = call("chat", **{**asked, "max_new_tokens": count})
        yield Request(f"bytes: cut behind {count}", "bytes", run, needs="llguidance")
    run = call("chat", **asked, stop="dd")
    yield Request("bytes: and a stop string", "bytes", run, (says("redder"),), needs="llguidance")
    run = call("chat", **asked, repetition_penalty=1.5)
    yield Request("bytes: and a penalty", "bytes", run, needs="llguidance")
    run = call("generate", [65, 66], choices=["x", "yy"])
    yield Request("bytes: generate", "bytes", run, needs="llguidance")


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour_of_it": {"enum": ["red", "green", "蓝色"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "seen": {"type": "boolean"},
    },
    "required": ["colour_of_it", "count", "seen"],
    "additionalProperties": False,
}


def forms() -> Iterator[Request]:
    shapes: dict[str, dict[str, Any]] = {
        "a schema": {"schema": SCHEMA},
        "a list": {"schema": {"type": "array", "items": {"enum": [1, 22]}, "minItems": 1, "maxItems": 3}},
        "a constant": {"schema": {"const": {"a": ["b", None, True, 1.5]}}},
        "a pattern": {"pattern": r"[0-9]{3}-[a-f]{2}"},
        "a pattern in chinese": {"pattern": r"(红色|蓝色)的(方块|球)"},
        "a pattern that may end": {"pattern": r"a+|b|"},
        "a pattern of a slash": {"pattern": r"a/b\n?c"},
    }
    for model in FORM_MODELS:
        for name, shape in shapes.items():
            asked = {**ASKED, **shape, "max_new_tokens": 90}
            yield Request(f"{model}: {name}", model, call("stream", **asked), needs="llguidance")
            drawn = {"do_sample": True, "temperature": 9.0, "seed": 2, "top_k": 0}
            run = call("chat", **{**asked, **drawn}, num_return_sequences=2)
            yield Request(f"{model}: {name}, drawn", model, run, needs="llguidance")
    for count in (1, 9, 20):
        run = call("stream", **{**ASKED, "schema": SCHEMA, "max_new_tokens": count})
        yield Request(f"bytes: cut behind {count}", "bytes", run, needs="llguidance")
    for number in (3, 9):
        drawn = {**DRAWN, "schema": SCHEMA, "temperature": 9.0, "max_new_tokens": 60}
        run = call("chat", **drawn, num_return_sequences=number)
        yield Request(f"small cache: {number} of them", "small cache", run, needs="llguidance")
    run = call("stream", **{**ASKED, "pattern": "x{150}", "max_new_tokens": 500})
    yield Request("bytes: more forced tokens than a step takes", "bytes", run, needs="llguidance")
    run = call("chat", **{**ASKED, "schema": SCHEMA, "max_new_tokens": 90}, stop='count"')
    yield Request("bytes: and a stop string", "bytes", run, needs="llguidance")
    wrong: dict[str, dict[str, Any]] = {
        "two forms": {"schema": {}, "choices": ["a"]},
        "three forms": {"schema": {}, "pattern": "a", "choices": ["a"]},
        "a form without an end": {"pattern": "a", "ignore_stop_tokens": True},
        "a schema that is a text": {"schema": "{}"},
        "a schema of no JSON": {"schema": {"const": float("nan")}},
        "an empty pattern": {"pattern": ""},
        "a pattern that is none": {"pattern": 3},
        "no choices": {"choices": []},
        "choices that are a text": {"choices": "ab"},
        "choices with white space": {"choices": ["a", " b"]},
        "choices that are numbers": {"choices": [1, 2]},
        "an impossible schema": {"schema": {"enum": []}},
        "a type that is none": {"schema": {"type": "objekt"}},
        "a broken pattern": {"pattern": "("},
        "a lone surrogate": {"pattern": "a\udcff"},
    }
    for name, form in wrong.items():
        yield Request(f"bytes: {name}", "bytes", call("chat", **{**ASKED, **form}), needs="llguidance")


WRONG: dict[str, tuple[Any, ...]] = {
    "max_new_tokens": (0, -5, 2.0, "3", True, None, 2**31),
    "temperature": (-1, "hot", float("nan"), float("inf"), None),
    "top_p": (0, -0.1, 1.5, "x", float("nan")),
    "top_k": (-1, 2.5, "x", True, 2**40),
    "repetition_penalty": (0, -1, "x", float("inf")),
    "seed": (-1, 2**64, 1.5, "x", False),
    "stop": ("", [""], ["a", ""], [3], 3, {"a"}),
    "keep_special_tokens": ("some", None, True, 3),
    "detail": ("best", 3, None),
    "max_tiles": (0, -3, 41, 2.5, "many", True, 2**70),
}


def settings() -> Iterator[Request]:
    for name, values in WRONG.items():
        for value in values:
            yield Request(f"bytes: {name}={value!r}", "bytes", call("chat", **{**ASKED, name: value}))
        if name not in ("detail", "max_tiles"):
            yield Request(f"bytes: generate, {name}", "bytes", call("generate", [65], **{name: values[0]}))
        for method in ("stream", "vote", "render"):
            run = call(method, **{**ASKED, name: values[0]})
            yield Request(f"bytes: {method}, {name}", "bytes", run)
    run = call("chat", **ASKED, max_tiles=3, detail="low")
    yield Request("bytes: max_tiles and detail", "bytes", run)
    for name, value in itertools.product(("max_new_tokens", "top_k"), (1, 3, 2**31 - 1)):
        run = call("chat", **{**ASKED, "do_sample": True, "seed": 1, name: value})
        yield Request(f"bytes: {name}={value}", "bytes", run, (says("one"), says("two", logit=-1.0)))
