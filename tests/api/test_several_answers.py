"""Several answers to one question: one prefill, one batch per step, and nothing left in the cache."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.errors import PromptError
from internvl_rt.model.asking import ask
from watched_engine import Calls, Gate, WatchedEngine, load_watched

DRAWN: dict[str, Any] = {
    "do_sample": True,
    "temperature": 2.0,
    "top_k": 0,
    "seed": 11,
    "max_new_tokens": 16,
    "ignore_stop_tokens": True,
}


@pytest.fixture(autouse=True)
def nothing_is_left(model: ivl.Model) -> Iterator[None]:
    free = model._engine.free_tokens
    yield
    assert model._engine.free_tokens == free


@pytest.fixture(scope="module")
def both_watched(tiny_bundle: Path) -> Iterator[dict[str, tuple[ivl.Model, WatchedEngine]]]:
    both = {
        name: load_watched(tiny_bundle, engine=name, cache_tokens=1024) for name in ("native", "onnxruntime")
    }
    yield both
    for model, engine in both.values():
        assert engine.free_tokens == 1024
        model.close()


@pytest.fixture
def watched(
    model: ivl.Model, both_watched: dict[str, tuple[ivl.Model, WatchedEngine]]
) -> tuple[ivl.Model, WatchedEngine]:
    """The same model on the same engine, watched."""
    return both_watched[model.engine]


def test_an_answer_does_not_depend_on_how_many_there_are(model: ivl.Model, photo: Image.Image) -> None:
    asked: dict[str, Any] = {"images": [photo], "max_tiles": 1, "system": "", **DRAWN}
    five = model.chat("What?", num_return_sequences=5, **asked)
    two = model.chat("What?", num_return_sequences=2, **asked)
    alone = model.chat("What?", **asked)
    assert [answer.token_ids for answer in two] == [answer.token_ids for answer in five[:2]]
    assert two[0].token_ids == alone.token_ids
    assert len({answer.token_ids for answer in five}) == 5
    assert [answer.text for answer in two] == [answer.text for answer in five[:2]]


def test_one_of_a_list_is_a_list(model: ivl.Model) -> None:
    (only,) = model.chat("Hello", num_return_sequences=1, max_new_tokens=6)
    assert only.token_ids == model.chat("Hello", max_new_tokens=6).token_ids


def test_picture_and_prompt_are_computed_once_for_all(
    watched: tuple[ivl.Model, WatchedEngine], photo: Image.Image
) -> None:
    (model, engine), calls = watched, Calls()
    with engine.around(**calls.counting):
        answers = model.chat("What?", [photo], max_tiles=4, system="", num_return_sequences=4, **DRAWN)
    assert sum(calls.encoded) == answers[0].usage.tiles == 3
    assert calls.prefilled == [answers[0].usage.prompt_tokens]
    assert calls.batches == [4] * 15
    for answer in answers:
        assert answer.timings.prefill > 0
        assert answer.timings.first_token + 15 * answer.timings.per_token <= answer.timings.total
        assert answer.usage.new_tokens == 16


def test_an_answer_that_has_ended_leaves_the_batch(watched: tuple[ivl.Model, WatchedEngine]) -> None:
    drawn = {**DRAWN, "ignore_stop_tokens": False, "temperature": 3.0, "max_new_tokens": 150}
    (model, engine), calls = watched, Calls()
    free = engine.free_tokens
    frees: list[int] = []

    def drop(call: Callable[[int], None], sequence: int) -> None:
        call(sequence)
        frees.append(engine.free_tokens)

    with engine.around(drop=drop, **calls.counting):
        answers = model.chat("Hello", system="", num_return_sequences=4, **drawn)
    lengths = sorted(len(answer.token_ids) for answer in answers)
    assert lengths[0] < lengths[-1], "331 tokens drawn at random: the answers end at different places"
    assert calls.batches == sorted(calls.batches, reverse=True)
    ended = [len(answer.token_ids) for answer in answers if answer.finish_reason == "stop"]
    # The batch shrinks in the step in which an answer stops; the last token of a full one is not decoded.
    expected = [
        sum(len(answer.token_ids) > step + (answer.finish_reason != "stop") for answer in answers)
        for step in range(max(lengths))
    ]
    assert calls.batches == [count for count in expected if count]
    assert ended
    # The first is the prompt's, which the answers share.
    assert frees[1:] == sorted(frees[1:])
    assert frees[-1] == free


def test_generate_takes_the_number_too(model: ivl.Model) -> None:
    ids = model.render("abc", system="").input_ids
    answers = model.generate(ids, num_return_sequences=3, **DRAWN)
    assert answers[0].token_ids == model.generate(ids, **DRAWN).token_ids
    assert [a.token_ids for a in answers] == [
        a.token_ids for a in model.chat("abc", system="", num_return_sequences=3, **DRAWN)
    ]


def test_without_a_seed_answers_differ(model: ivl.Model) -> None:
    drawn = {**DRAWN, "seed": None}
    first, second = (model.chat("Hello", system="", num_return_sequences=3, **drawn) for _ in range(2))
    assert len({answer.token_ids for answer in first + second}) == 6


@pytest.mark.parametrize("number", [0, -1, True, 2.0, "3", 257, 2**70])
def test_numbers_that_are_none(model: ivl.Model, number: Any) -> None:
    for call in (model.chat, lambda *_, **k: model.generate([65], **k)):
        with pytest.raises(PromptError, match="num_return_sequences must be"):
            call("Hello", num_return_sequences=number, do_sample=True)


def test_the_likeliest_answer_is_one_answer(model: ivl.Model) -> None:
    with pytest.raises(PromptError, match="the same answer 3 times"):
        model.chat("Hello", num_return_sequences=3)
    with pytest.raises(PromptError, match="a temperature above 0"):
        model.chat("Hello", num_return_sequences=3, do_sample=True, temperature=0)
    cold = model.chat("Hello", do_sample=True, temperature=0, max_new_tokens=6, system="")
    assert cold.token_ids == model.chat("Hello", max_new_tokens=6, system="").token_ids


@pytest.fixture(scope="module")
def with_a_large_cache(tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(tiny_bundle, cache_tokens=16384, max_context=512, prefix_cache_tokens=0) as model:
        yield model


@pytest.mark.parametrize(("number", "tokens"), [(3, 380), (9, 200), (40, 30)])
def test_where_the_cache_has_no_room_for_all_some_wait(
    watched: tuple[ivl.Model, WatchedEngine], with_a_large_cache: ivl.Model, number: int, tokens: int
) -> None:
    drawn = {**DRAWN, "max_new_tokens": tokens, "num_return_sequences": number, "system": ""}
    expected = with_a_large_cache.chat("Hello", **drawn)
    (model, engine), calls = watched, Calls()
    with engine.around(**calls.counting):
        found = model.chat("Hello", **drawn)
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    prompt = found[0].usage.prompt_tokens
    at_once = max(n for n in range(1, number + 1) if engine.cache.needed(prompt, tokens, n) <= 1024)
    assert 1 < at_once < number
    assert max(calls.batches) == at_once
    # None is computed twice: what waits has not begun.
    assert calls.prefilled == [prompt]
    assert sum(calls.batches) == number * (tokens - 1)


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_without_room_for_an_answer_beside_its_prompt_each_computes_the_prompt(
    tiny_bundle: Path, with_a_large_cache: ivl.Model, engine: str
) -> None:
    drawn = {**DRAWN, "max_new_tokens": 1024, "num_return_sequences": 3, "ignore_stop_tokens": True}
    ids, calls = [65] * 480, Calls()
    small, watched = load_watched(tiny_bundle, engine=engine, cache_tokens=512)
    with small, watched.around(**calls.counting):
        found = small.generate(ids, **drawn)
        assert calls.prefilled == [len(ids)] * 3
        assert watched.free_tokens == 512
    assert [len(answer.token_ids) for answer in found] == [32] * 3
    assert len({answer.token_ids for answer in found}) == 3
    if engine == "native":
        assert [a.token_ids for a in found] == [
            a.token_ids for a in with_a_large_cache.generate(ids, **drawn)
        ]


@pytest.mark.parametrize("at", [1, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_error_in_any_step_frees_them_all(
    watched: tuple[ivl.Model, WatchedEngine], at: int, error: type[BaseException]
) -> None:
    (model, engine), steps = watched, iter(range(1, 99))
    free = engine.free_tokens

    def failing(decode: Callable[..., Any], *given: Any) -> Any:
        if next(steps) == at:
            raise error
        return decode(*given)

    with engine.around(decode=failing), pytest.raises(error) as raised:
        model.chat("Hello", num_return_sequences=3, **DRAWN)
    assert "failing" in [entry.name for entry in raised.traceback], "it says where it comes from"
    assert engine.free_tokens == free


def test_a_fork_that_fails_frees_them_all(watched: tuple[ivl.Model, WatchedEngine]) -> None:
    (model, engine), calls = watched, iter([True, False])
    free = engine.free_tokens

    def failing(fork: Callable[[int, int], int], sequence: int, tokens: int) -> int:
        if not next(calls):
            raise MemoryError
        return fork(sequence, tokens)

    with engine.around(fork=failing), pytest.raises(MemoryError):
        model.chat("Hello", num_return_sequences=3, **DRAWN)
    assert engine.free_tokens == free


def test_cancelling_ends_them_all(watched: tuple[ivl.Model, WatchedEngine]) -> None:
    (model, engine), steps = watched, iter(range(1, 99))
    asked = ask("abc", None, {"system": "", **DRAWN}, model._rules)
    requests = model._requests([asked.settings] * 3)

    def third_is_the_last(decode: Callable[..., Any], *given: Any) -> Any:
        if next(steps) == 3:
            running.request.cancel()
        return decode(*given)

    # Without the gate, the first steps might come before the request is known here.
    with Gate() as gate, engine.around(prefill=gate, decode=third_is_the_last):
        running = model._submit(model._read(asked), requests)
        gate.open()
        answers = running.answers()
    assert [(len(a.token_ids), a.finish_reason) for a in answers] == [(4, "cancelled")] * 3


def test_interrupts_at_any_time_leave_nothing_and_do_not_keep_a_model_from_closing(tiny_bundle: Path) -> None:
    rng = random.Random(0)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    model = ivl.load(tiny_bundle, cache_tokens=4096, prefix_cache_tokens=0)
    free = model._engine.free_tokens

    def ask_for_ever() -> None:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.001, 0.03))
        while True:
            model.chat("Hello", num_return_sequences=6, system="", **{**DRAWN, "max_new_tokens": 4})

    try:
        for _ in range(30):
            with pytest.raises(KeyboardInterrupt):
                ask_for_ever()
        assert model._engine.free_tokens == free
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    closing = threading.Thread(target=model.close, daemon=True)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
