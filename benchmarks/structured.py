"""What keeping a form costs per token: the mask, its application, and taking the token.

    python benchmarks/structured.py BUNDLE

Prints the median time of a constrained step beside a plain one, on logits of the bundle's vocabulary that
took no time, and what share that is of a decoded token of the same bundle. Decoding is measured in turn with
and without a schema, so that both see the same machine.

Then the steps and the time of JSON answers with long keys: once as they are, where a step appends all tokens
that the form forces, and once with a step for every token. Both write the same tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import internvl_rt as ivl
from internvl_rt._core import CacheRoom, PromptRenderer
from internvl_rt.answers.results import Answer
from internvl_rt.answers.settings import GenerationSettings
from internvl_rt.answers.structured import Constraints
from internvl_rt.engines.engine import Float32Array
from internvl_rt.model.asking import PictureRules

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 40},
                    "count": {"type": "integer"},
                    "box": {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4},
                },
                "required": ["name", "count", "box"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["objects"],
    "additionalProperties": False,
}
LONG_KEYS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "colour_of_the_largest_object": {"enum": ["red", "green", "blue", "yellow"]},
        "number_of_objects_on_the_table": {"type": "integer", "minimum": 0, "maximum": 99},
        "distance_to_the_nearest_obstacle_in_metres": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_a_person_in_the_picture": {"type": "boolean"},
    },
    "required": [
        "colour_of_the_largest_object",
        "number_of_objects_on_the_table",
        "distance_to_the_nearest_obstacle_in_metres",
        "is_a_person_in_the_picture",
    ],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "schema": {"schema": SCHEMA},
    "pattern": {"pattern": r"[A-Za-z ,.]{200,400}"},
    "choices": {"choices": [f"answer number {i} of many" for i in range(1000)]},
}


def median_ms(action: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        action()
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


class DrawnLogits:
    """An engine that takes no time: its logits were drawn beforehand."""

    name = "drawn"
    hidden_size = 1
    cache = CacheRoom(1 << 20)
    free_tokens = cache.tokens

    def __init__(self, vocab_size: int) -> None:
        rows = np.random.default_rng(0).standard_normal((8, vocab_size)).astype(np.float32)
        self._rows = itertools.cycle(rows[:, None])
        self._names = itertools.count()

    def new_sequence(self) -> int:
        return next(self._names)

    def drop(self, sequence: int) -> None: ...

    def embed(self, token_ids: Any, *_: Any) -> Float32Array:
        return np.zeros((len(token_ids), 1), np.float32)

    def prefill(self, *_: Any, **__: Any) -> Float32Array:
        return next(self._rows)

    def decode(self, *_: Any) -> Float32Array:
        return next(self._rows)

    def close(self) -> None: ...


class SingleSteps:
    """A form that forces no token."""

    def __init__(self, form: Any) -> None:
        self.allowed, self.take, self.complete = form.allowed, form.take, form.complete

    def forced(self) -> None: ...


def single_steps() -> contextlib.AbstractContextManager[object]:
    """While this lasts, a form forces no tokens: every one takes a step of its own."""
    compiled = Constraints.compile

    def single(constraints: Constraints, *arguments: Any) -> list[SingleSteps | None]:
        return [form and SingleSteps(form) for form in compiled(constraints, *arguments)]

    return mock.patch.object(Constraints, "compile", single)


def choosing_ms(model: ivl.Model, form: dict[str, Any], rounds: int) -> float:
    """The median time of a step whose logits cost nothing: to choose a token, and to hand it over."""
    settings = {"max_new_tokens": 60, **(form or {"ignore_stop_tokens": True})}
    engine: Any = DrawnLogits(model.manifest.llm.vocab_size)
    with (
        single_steps(),
        ivl.Model(
            model.manifest,
            engine,
            model._tokenizer,
            PromptRenderer(model._tokenizer, model.manifest.prompt, model.manifest.tokens_per_tile),
            context_tokens=1 << 20,
            threads=1,
            max_wait_s=0.0,
            max_waiting=1,
            tile_cache_bytes=0,
            rules=PictureRules(),
        ) as drawn,
    ):
        answers = [drawn.generate([0], **settings) for _ in range(rounds)]
    # An answer of one token has no steps behind the first.
    return statistics.median(a.timings.per_token for a in answers if a.usage.new_tokens > 1)


def answers_with_long_keys(model: ivl.Model, sequences: int | None) -> tuple[list[Answer], float]:
    """The answers, and the milliseconds from the first token to the end of the last one."""
    drawn = {} if sequences is None else {"do_sample": True, "seed": 1, "num_return_sequences": sequences}
    found = model.chat("What do you see?", schema=LONG_KEYS, **drawn)
    answers = [found] if isinstance(found, Answer) else found
    ends = max(answer.timings.total for answer in answers)
    return answers, ends - min(answer.timings.first_token for answer in answers)


def print_forced(model: ivl.Model, sequences: int | None) -> None:
    """Steps and time of the longest of so many answers, in turn with and without appending what is forced."""
    times: dict[bool, list[float]] = {True: [], False: []}
    steps: dict[bool, int] = {}
    ids = set()
    for _ in range(5):
        for forced in (True, False):
            with contextlib.nullcontext() if forced else single_steps():
                answers, ms = answers_with_long_keys(model, sequences)
            times[forced].append(ms)
            steps[forced] = max(a.usage.new_tokens - a.usage.forced_tokens for a in answers)
            ids.add(tuple(answer.token_ids for answer in answers))
    assert len(ids) == 1, "both write the same tokens"
    of_forced, of_single = (statistics.median(times[forced]) for forced in (True, False))
    print(
        f"long keys, {sequences or 1} at once: {steps[True]} steps instead of {steps[False]} "
        f"({steps[True] / steps[False]:.0%}), {of_forced:.0f} ms instead of {of_single:.0f} "
        f"({of_forced / of_single:.0%})"
    )


def per_token_ms(model: ivl.Model, form: dict[str, Any], tokens: int) -> float:
    plain = {"ignore_stop_tokens": True} if not form else {}
    return model.chat("List what you see.", max_new_tokens=tokens, **form, **plain).timings.per_token


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64, help="of every measured answer")
    arguments = parser.parse_args()

    with ivl.load(arguments.bundle, prefix_cache_tokens=0) as model:
        begun = time.perf_counter()
        model._constraints.compile(GenerationSettings(choices=("a",)), 1)
        print(
            f"table of {model.manifest.llm.vocab_size} tokens, made once: "
            f"{(time.perf_counter() - begun) * 1000:.0f} ms"
        )
        for name, form in FORMS.items():
            settings = GenerationSettings(**form)
            ms = median_ms(lambda settings=settings: model._constraints.compile(settings, 1), 5)  # type: ignore[misc]
            print(f"{name}: compiled in {ms:.2f} ms")

        per_token_ms(model, {}, 8)
        decoded = [per_token_ms(model, {}, arguments.tokens) for _ in range(5)]
        token = statistics.median(decoded)
        plain = choosing_ms(model, {}, arguments.rounds)
        print(f"{'':10} {'choose a token':>16} {'more than plain':>16} {'of a token':>12}")
        print(f"{'plain':10} {plain:13.3f} ms")
        for name, form in FORMS.items():
            ms = choosing_ms(model, form, arguments.rounds)
            print(f"{name:10} {ms:13.3f} ms {ms - plain:13.3f} ms {(ms - plain) / token:11.1%}")
        print(f"a decoded token takes {token:.2f} ms")

        with_schema, without = [], []
        for _ in range(5):
            with_schema.append(per_token_ms(model, FORMS["schema"], arguments.tokens))
            without.append(per_token_ms(model, {}, arguments.tokens))
        share = statistics.median(with_schema) / statistics.median(without) - 1
        print(
            f"whole answers, in turn: {statistics.median(with_schema):.2f} ms a token with the schema, "
            f"{statistics.median(without):.2f} without ({share:+.1%})"
        )
        for sequences in (None, 4):
            print_forced(model, sequences)


if __name__ == "__main__":
    main()
