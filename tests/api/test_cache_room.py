"""Room in the KV cache: there before anything is encoded, waited for in order, and never lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.errors import BusyError, CacheFullError, ClosedError
from plain_engine import Hold, Noise, model_of, until

LONG: dict[str, Any] = {"system": "", "ignore_stop_tokens": True, "max_new_tokens": 300}
AHEAD = 32
"""Tokens of an answer that there is room for before anything is computed."""


@contextmanager
def model_with_room(
    tokens: int, max_wait_s: float = 60.0, **options: Any
) -> Iterator[tuple[ivl.Model, Noise]]:
    """A cache of single tokens."""
    engine = Noise(tokens)
    with model_of(engine, max_wait_s=max_wait_s, **options) as model:
        yield model, engine
        until(lambda: engine.sequences == {})
        with model._scheduler.reserve(tokens):
            assert model._scheduler.waiting == 0


class Holder:
    """Holds room in a thread of its own from when it is given until it is let go."""

    def __init__(self, model: ivl.Model, tokens: int, order: list[int] | None = None) -> None:
        self.has = threading.Event()
        self.release = threading.Event()
        self.error: BaseException | None = None

        def hold() -> None:
            try:
                with model._scheduler.reserve(tokens):
                    if order is not None:
                        order.append(tokens)
                    self.has.set()
                    assert self.release.wait(60)
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=hold)
        self._thread.start()

    def end(self) -> None:
        self.release.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_room_is_given_in_the_order_of_arrival() -> None:
    order: list[int] = []
    with model_with_room(100) as (model, _):
        first = Holder(model, 70, order)
        assert first.has.wait(60)
        waiting = []
        for tokens in (60, 20, 30):  # the last two would fit beside the first
            waiting.append(Holder(model, tokens, order))
            until(lambda: model._scheduler.waiting == len(waiting))
        assert not any(holder.has.is_set() for holder in waiting)
        first.end()
        assert waiting[0].has.wait(60)
        assert waiting[1].has.wait(60)
        assert not waiting[2].has.wait(0.05)
        waiting[1].end()
        assert waiting[2].has.wait(60)
        assert sorted(order[1:3]) == [20, 60]
        assert (order[0], order[3]) == (70, 30)
        for holder in waiting:
            holder.end()
        assert not any(holder.error for holder in waiting)


def test_prompts_are_computed_in_the_order_of_arrival() -> None:
    with model_with_room(5000) as (model, engine), ThreadPoolExecutor(6) as pool:
        with engine.at("prefill", 0) as step:
            asked = ["first", "second", "third", "fourth"]
            calls = [submit(pool, model, asked[0])]
            step.wait()
            calls += [submit(pool, model, question) for question in asked[1:]]
        for call in calls:
            call.result(60)
        prompts = [model.render(question, system="").input_ids.tolist() for question in asked]
        assert engine.prefills == prompts


def test_what_is_more_urgent_is_computed_first() -> None:
    with model_with_room(5000) as (model, engine), ThreadPoolExecutor(6) as pool:
        with engine.at("prefill", 0) as step:
            calls = [submit(pool, model, "first", priority=-5)]
            step.wait()
            priorities = {"idle": -1, "plain": 0, "plain too": 0, "urgent": 7}
            calls += [submit(pool, model, name, priority=own) for name, own in priorities.items()]
        for call in calls:
            call.result(60)
        computed = ["first", "urgent", "plain", "plain too", "idle"]
        prompts = [model.render(question, system="").input_ids.tolist() for question in computed]
        assert engine.prefills == prompts


def submit(pool: ThreadPoolExecutor, model: ivl.Model, question: str, **options: Any) -> Future[ivl.Answer]:
    """Asks in another thread, and returns when the question has arrived; no prompt is begun meanwhile."""
    before = arrived(model)
    asked = {"system": "", "max_new_tokens": 3, **options}
    call = pool.submit(model.chat, question, **asked)
    until(lambda: arrived(model) > before)
    return call


def arrived(model: ivl.Model) -> int:
    """How many have: those that wait, and those whose prompt was begun."""
    engine = model._engine
    assert isinstance(engine, Noise)
    return model._scheduler.waiting + len(engine.prefills)


def test_so_many_wait_and_no_more() -> None:
    with model_with_room(1000, max_waiting=2) as (model, engine), ThreadPoolExecutor(3) as pool:
        with engine.at("prefill", 0) as step:
            calls = [submit(pool, model, "a")]
            step.wait()
            calls += [submit(pool, model, question) for question in "bc"]
            for call in (
                lambda: model.chat("d", system=""),
                lambda: list(model.stream("d", system="")),
                lambda: model.logits([65]),
                lambda: model.encode(Image.new("RGB", (56, 56))),
            ):
                with pytest.raises(BusyError, match=r"2 requests wait .*\(max_waiting\)"):
                    call()
        assert [call.result(60).finish_reason for call in calls] == ["length"] * 3
        assert model.chat("d", system="", max_new_tokens=1).token_ids


def test_a_wait_has_an_end_that_says_who_holds_the_room() -> None:
    with model_with_room(100, 0.05) as (model, _):
        with model._scheduler.reserve(80):
            with (
                pytest.raises(
                    CacheFullError,
                    match=r"waited \d\.\d s for room for 21 of .* 100 .* another call has held 80 for \d",
                ),
                model._scheduler.reserve(21),
            ):
                raise AssertionError
            with (
                model._scheduler.reserve(20),
                pytest.raises(CacheFullError, match=r"2 other calls hold 100, the oldest for \d"),
                model._scheduler.reserve(1),
            ):
                raise AssertionError
        with model._scheduler.reserve(100):
            assert model._scheduler.waiting == 0


def test_those_that_wait_behind_another_have_an_end_of_their_own() -> None:
    with model_with_room(100, 0.05) as (model, _), model._scheduler.reserve(80):
        waiting = [Holder(model, tokens) for tokens in (90, 50)]
        for holder in waiting:
            until(lambda holder=holder: holder.error is not None)
            assert isinstance(holder.error, CacheFullError)
            holder.end()
        with model._scheduler.reserve(20):
            assert model._scheduler.waiting == 0


def test_a_turn_is_not_a_wait_for_room() -> None:
    """However long somebody else's prompt takes."""
    with model_with_room(1000, 0.0) as (model, engine), ThreadPoolExecutor(2) as pool:
        with engine.at("prefill", 0) as step:
            calls = [submit(pool, model, "a")]
            step.wait()
            calls.append(submit(pool, model, "b"))
        assert [len(call.result(60).token_ids) for call in calls] == [3, 3]


def test_more_than_the_cache_holds_is_refused_at_once() -> None:
    with model_with_room(100) as (model, engine), model._scheduler.reserve(100):
        with pytest.raises(CacheFullError, match="cache_tokens=101 or more"):
            model._scheduler.reserve(101)
        with pytest.raises(CacheFullError, match="room for 101 tokens, and the cache holds 100"):
            model.logits([65] * 101)
        assert engine.prefills == []


def test_what_needs_no_room_does_not_wait_for_it() -> None:
    with model_with_room(200) as (model, engine), ThreadPoolExecutor(1) as pool:
        with model._scheduler.reserve(190):
            waiting = submit(pool, model, "a")
            assert model.encode(Image.new("RGB", (56, 56))).tiles == 1
            assert not waiting.done()
            assert engine.prefills == []
        assert len(waiting.result(60).token_ids) == 3


def test_nothing_is_encoded_before_there_is_room(photo: Image.Image) -> None:
    with model_with_room(2000, 0.05) as (model, engine):
        calls: dict[str, Callable[[], object]] = {
            "chat": lambda: model.chat("What?", [photo], max_tiles=1, system=""),
            "stream": lambda: list(model.stream("What?", [photo], max_tiles=1, system="")),
            "generate": lambda: model.generate([65] * 200),
            "logits": lambda: model.logits([65] * 200),
            "vote": lambda: model.vote("What?", [photo], max_tiles=1, n=2, system="", reasoning=None),
            "judge": lambda: model.judge("What?", ["a", "b"], [photo], max_tiles=1),
        }
        prompt = len(model.render("What?", [photo], max_tiles=1, system="").input_ids)
        with model._scheduler.reserve(2000 - prompt - AHEAD + 1):  # lacks one
            for call in calls.values():
                with pytest.raises(CacheFullError, match="this call waited"):
                    call()
            assert engine.encoded == []
            assert engine.prefills == []
        with model._scheduler.reserve(2000 - prompt - AHEAD):
            answer = model.chat("What?", [photo], max_tiles=1, system="", max_new_tokens=AHEAD)
            assert len(engine.encoded) == 1
            assert answer.usage.new_tokens == AHEAD


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def loaded(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(
        tiny_bundle, engine=request.param, cache_tokens=512, max_wait_s=60, prefix_cache_tokens=0
    ) as model:
        yield model


@pytest.fixture
def narrow(loaded: ivl.Model) -> Iterator[ivl.Model]:
    """A cache that holds one long answer, or a few short ones."""
    yield loaded
    until(lambda: loaded._engine.free_tokens == 512)
    assert len(loaded.logits([65] * 512)) == 512


def tokens_of(stream: ivl.AnswerStream) -> int:
    """Of the whole answer, read to its end."""
    for _ in stream:
        pass
    assert stream.result is not None
    return len(stream.result.token_ids)


def test_many_threads_that_need_more_than_the_cache_holds_are_all_answered(
    narrow: ivl.Model, photo: Image.Image
) -> None:
    questions = [f"What is number {i}?" for i in range(12)]

    def ask(question: str) -> tuple[int, ...]:
        answer = narrow.chat(
            question, [photo], max_tiles=2, system="", max_new_tokens=60, ignore_stop_tokens=True
        )
        return answer.token_ids

    expected = [ask(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, questions)) == expected


def test_answers_that_grow_into_each_other_are_those_that_are_written_alone(narrow: ivl.Model) -> None:
    questions = [letter * 100 for letter in "xyz"]
    drawn = {**LONG, "do_sample": True, "seed": 3}
    expected = [narrow.chat(question, **drawn) for question in questions]
    assert narrow.cache_tokens < 2 * (expected[0].usage.prompt_tokens + 300)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda question: narrow.chat(question, **drawn), questions))
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert [answer.usage for answer in found] == [answer.usage for answer in expected]


def test_the_answer_that_came_last_is_put_aside_and_written_on_later() -> None:
    with model_with_room(500) as (model, engine), ThreadPoolExecutor(2) as pool:
        expected = {question: model.chat(question, **LONG).token_ids for question in "ab"}
        del engine.prefills[:], engine.runs[:]
        with engine.at("prefill", 0) as step:
            calls = {"a": submit(pool, model, "a", **LONG)}
            step.wait()
            calls["b"] = submit(pool, model, "b", **LONG)
        assert {question: call.result(60).token_ids for question, call in calls.items()} == expected
        first, second = (model.render(question, system="").input_ids.tolist() for question in "ab")
        assert engine.prefills == [first, second, second]
        assert any(counts == [16] for counts in engine.runs), "tokens that were chosen are decoded in runs"


def test_an_urgent_question_takes_the_room_of_others() -> None:
    questions = ["a" * 400, "b" * 400]
    with model_with_room(1000) as (model, _):
        prompts = [model.render(question, system="").input_ids.tolist() for question in questions]
    prompt = len(prompts[0])
    written = 131  # tokens that the first has room for in the step that it is held in
    with (
        model_with_room(prompt + written + prompt + AHEAD - 1) as (model, engine),
        ThreadPoolExecutor(2) as pool,
    ):
        expected = [model.chat(question, **LONG).token_ids for question in questions]
        del engine.prefills[:], engine.runs[:]
        with engine.at("decode", 100) as step:
            idle = submit(pool, model, questions[0], **LONG, priority=-1)
            step.wait()
            urgent = submit(pool, model, questions[1], **LONG)
        assert [idle.result(60).token_ids, urgent.result(60).token_ids] == expected
        assert engine.prefills == [prompts[0], prompts[1], prompts[0]]


def test_a_stream_that_is_not_read_on_gives_its_room_to_others(narrow: ivl.Model) -> None:
    expected = narrow.chat("x" * 100, **LONG).token_ids
    with narrow.stream("x" * 100, **LONG) as held:
        pieces = [next(held)]
        # In the thread that would read it: nobody else makes room.
        assert len(narrow.chat("y" * 100, **LONG).token_ids) == 300
        assert len(narrow.logits([65] * 512)) == 512
        pieces += islice(held, 100)
        assert len(narrow.logits([65] * 512)) == 512
        pieces += held
    assert sum((piece.token_ids for piece in pieces), ()) == expected


def test_streams_that_are_forgotten_or_never_read_hold_no_room(narrow: ivl.Model) -> None:
    never_read = [narrow.stream("x" * 100, **LONG) for _ in range(5)]
    next(narrow.stream("x" * 100, **LONG))  # forgotten at once
    assert len(narrow.chat("x" * 100, **LONG).token_ids) == 300
    for stream in never_read:
        stream.close()


def test_cancelling_a_stream_that_waits_for_room(narrow: ivl.Model) -> None:
    waiting = narrow.stream("y" * 100, **LONG)
    with narrow._scheduler.reserve(500), ThreadPoolExecutor(1) as pool:
        pieces = pool.submit(list, waiting)
        until(lambda: narrow._scheduler.waiting == 1)
        waiting.cancel()
        (last,) = pieces.result(60)
        assert last.result is not None
        assert (last.result.finish_reason, last.result.token_ids) == ("cancelled", ())
        assert narrow._scheduler.waiting == 0


def test_closing_a_stream_that_waits_for_room(narrow: ivl.Model) -> None:
    waiting = narrow.stream("y" * 100, **LONG)
    with narrow._scheduler.reserve(500), ThreadPoolExecutor(1) as pool:
        pieces = pool.submit(list, waiting)
        until(lambda: narrow._scheduler.waiting == 1)
        waiting.close()
        pieces.result(60)
        assert narrow._scheduler.waiting == 0


def test_cancelling_a_stream_that_was_put_aside(narrow: ivl.Model) -> None:
    expected = narrow.chat("x" * 100, **LONG).token_ids
    held = narrow.stream("x" * 100, **LONG)
    pieces = [next(held)]
    with narrow._scheduler.reserve(500):
        held.cancel()
        pieces += held
    assert held.result is not None
    assert held.result.finish_reason == "cancelled"
    assert held.result.token_ids == expected[: len(held.result.token_ids)]
    assert sum((piece.token_ids for piece in pieces), ()) == held.result.token_ids


@pytest.mark.parametrize("name", ["chat", "stream", "logits", "vote"])
def test_ctrl_c_ends_a_wait(narrow: ivl.Model, name: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "chat": lambda: narrow.chat("y" * 100, **LONG),
        "stream": lambda: list(narrow.stream("y" * 100, **LONG)),
        "logits": lambda: narrow.logits([65] * 100),
        "vote": lambda: narrow.vote("y" * 100, n=2, reasoning=None, system="", max_new_tokens=9),
    }

    def interrupt() -> None:
        until(lambda: narrow._scheduler.waiting == 1)
        os.kill(os.getpid(), signal.SIGINT)

    with narrow._scheduler.reserve(500):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            calls[name]()
        thread.join()
        until(lambda: narrow._scheduler.waiting == 0)


def test_interrupts_at_any_time_lose_no_room() -> None:
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def ask_for_ever(ask: Callable[[], object], alarm_s: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        while True:
            ask()

    with model_with_room(100) as (model, engine):

        def reserve() -> None:
            with model._scheduler.reserve(60):
                pass

        calls = (reserve, lambda: model.generate([65], max_new_tokens=4), lambda: model.logits([65] * 70))
        try:
            for attempt in range(150):
                with pytest.raises(KeyboardInterrupt):
                    ask_for_ever(calls[attempt % 3], 0.0001 + attempt % 20 * 0.00005)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        until(lambda: engine.sequences == {})
        with model._scheduler.reserve(100):
            assert model._scheduler.waiting == 0


def test_closing_the_model_ends_a_wait() -> None:
    engine = Noise(512)
    model = model_of(engine)
    held: Hold
    with engine.at("prefill", 0) as held, ThreadPoolExecutor(3) as pool:
        holding = pool.submit(model.logits, [65] * 500)  # computed in its own thread
        held.wait()
        waiting = pool.submit(model.chat, "y", **LONG)
        until(lambda: model._scheduler.waiting == 1)
        closing = pool.submit(model.close)
        with pytest.raises(ClosedError, match="was closed"):
            waiting.result(60)
        assert not closing.done(), "the engine is still in use"
        held.release()
        with pytest.raises(ClosedError):
            holding.result(60)
        closing.result(60)
    assert engine.calls == ["prefill", "close"]


def test_the_limit_is_given_when_the_model_is_loaded(tiny_bundle: Path) -> None:
    with (
        ivl.load(tiny_bundle, cache_tokens=512, max_wait_s=0, prefix_cache_tokens=0) as model,
        model._scheduler.reserve(500),
        pytest.raises(CacheFullError, match=r"waited 0\.\d s for room for \d+ of the cache's 512 tokens"),
    ):
        model.chat("y" * 100, **LONG)
