"""What keeping a form costs per token: the mask, its application, and taking the token.

    python benchmarks/structured.py BUNDLE

Prints the median time of a constrained step beside a plain one, on logits of the bundle's vocabulary, and
what share that is of a decoded token of the same bundle. Decoding is measured in turn with and without a
schema, so that both see the same machine.

Then the steps and the time of JSON answers with long keys: once as they are, where a step appends all tokens
that the form forces, and once with a step for every token. Both write the same tokens.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

import internvl_rt as ivl
from internvl_rt.results import Answer
from internvl_rt.sampling import TokenChooser
from internvl_rt.settings import GenerationSettings

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


def choosing_ms(model: ivl.Model, form: dict[str, Any], rounds: int) -> float:
    """The median time to choose one token, over whole answers on random logits."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, model.manifest.llm.vocab_size)).astype(np.float32)
    settings = GenerationSettings(**form)
    times = []
    for _ in range(rounds):
        constraint = model._constraints.compile(settings, 1)[0]
        chooser = TokenChooser(settings, constraint=constraint)
        for step in range(60):
            begun = time.perf_counter()
            chooser.choose(rows[step % len(rows)])
            times.append((time.perf_counter() - begun) * 1000)
            if chooser.ended:
                break
    return statistics.median(times)


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
            with contextlib.ExitStack() as stack:
                if not forced:
                    stack.enter_context(mock.patch.object(TokenChooser, "choose_forced", return_value=None))
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

    with ivl.load(arguments.bundle) as model:
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
