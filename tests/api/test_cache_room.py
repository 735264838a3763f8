"""Room in the KV cache: reserved before anything is encoded, waited for in order, and never lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.cache_room import CacheRoom
from internvl_rt.engines.engine import EncodedTiles
from internvl_rt.errors import CacheFullError

NEVER = threading.Event()


def open_() -> None:
    """A model that is not closed."""


def until(condition: Callable[[], bool]) -> None:
    for _ in range(20_000):
        if condition():
            return
        sleep(0.001)
    raise AssertionError("it never came to that")


class Holder:
    """Holds room in a thread of its own from when it is given until it is let go."""

    def __init__(self, room: CacheRoom, tokens: int, order: list[int] | None = None) -> None:
        self.has = threading.Event()
        self.release = threading.Event()
        self.cancelled = threading.Event()
        self.error: BaseException | None = None

        def hold() -> None:
            try:
                with room.reserved(tokens, self.cancelled, open_):
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
    room, order = CacheRoom(100, 60), list[int]()
    first = Holder(room, 70, order)
    assert first.has.wait(60)
    waiting = []
    for tokens in (60, 20, 30):  # the last two would fit beside the first
        waiting.append(Holder(room, tokens, order))
        until(lambda: len(room._waiting) == len(waiting))
    assert not any(holder.has.is_set() for holder in waiting)
    first.end()
    assert waiting[0].has.wait(60)
    assert waiting[1].has.wait(60)
    assert not waiting[2].has.wait(0.1)
    waiting[1].end()
    assert waiting[2].has.wait(60)
    assert order == [70, 60, 20, 30]
    for holder in waiting:
        holder.end()
    assert not room._taken
    assert not room._waiting


def test_a_wait_has_an_end_that_says_who_holds_the_room() -> None:
    room = CacheRoom(100, 0.05)
    with room.reserved(80, NEVER, open_):
        with (
            pytest.raises(
                CacheFullError, match=r"waited 0\.\d s for room for 21 .* another call has held 80"
            ),
            room.reserved(21, NEVER, open_),
        ):
            raise AssertionError
        with (
            room.reserved(20, NEVER, open_),
            pytest.raises(CacheFullError, match="2 other calls hold 100"),
            room.reserved(1, NEVER, open_),
        ):
            raise AssertionError
    with room.reserved(100, NEVER, open_):
        assert not room._waiting


def test_more_than_the_cache_holds_is_refused_at_once() -> None:
    room = CacheRoom(100, 60)
    with pytest.raises(CacheFullError, match="cache_tokens=101 or more"), room.reserved(101, NEVER, open_):
        raise AssertionError


def test_cancelling_and_closing_end_a_wait() -> None:
    room = CacheRoom(100, 60)
    closed = threading.Event()

    def check() -> None:
        if closed.is_set():
            raise KeyError("closed")

    with room.reserved(90, NEVER, open_):
        cancelled = Holder(room, 50)
        until(lambda: len(room._waiting) == 1)
        cancelled.cancelled.set()
        assert cancelled.has.wait(60), "it goes on without room, to find out that it was cancelled"
        assert len(room._taken) == 1
        cancelled.end()
        threading.Timer(0.05, closed.set).start()
        with pytest.raises(KeyError), room.reserved(50, NEVER, check):
            raise AssertionError
    assert not room._taken
    assert not room._waiting


def test_interrupts_at_any_time_lose_no_room() -> None:
    room = CacheRoom(100, 60)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)

    def reserve_for_ever(alarm_s: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        while True:
            with room.reserved(60, NEVER, open_):
                pass

    try:
        for attempt in range(200):
            with pytest.raises(KeyboardInterrupt):
                reserve_for_ever(0.0001 + attempt % 20 * 0.00005)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not room._taken
    assert not room._waiting


@pytest.fixture(params=["native", "onnxruntime"])
def narrow(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[ivl.Model]:
    """A cache that holds one long answer, or a few short ones."""
    with ivl.load(tiny_bundle, engine=request.param, cache_tokens=512) as model:
        yield model
        assert model._engine.free_tokens == 512
        assert not model._room._taken


def tokens_of(stream: ivl.AnswerStream) -> int:
    """Of the whole answer, read to its end."""
    for _ in stream:
        pass
    assert stream.result is not None
    return len(stream.result.token_ids)


LONG: dict[str, Any] = {"system": "", "ignore_stop_tokens": True, "max_new_tokens": 300}


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


def test_two_answers_that_grow_into_each_other_both_end(narrow: ivl.Model) -> None:
    with narrow.stream("x" * 100, **LONG) as first:
        next(first)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(narrow.chat, "y" * 100, **LONG)
            until(lambda: len(narrow._room._waiting) == 1)
            first_answer = list(first)[-1].result
            assert first_answer is not None
            assert len(first_answer.token_ids) == len(second.result(60).token_ids) == 300


def test_nothing_is_encoded_before_there_is_room(
    narrow: ivl.Model, photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = narrow._engine.encode_tiles

    def count(pixels: Any, *more: Any) -> EncodedTiles:
        encoded.append(len(pixels))
        return encode(pixels, *more)

    monkeypatch.setattr(narrow._engine, "encode_tiles", count)
    monkeypatch.setattr(narrow._room, "_max_wait_s", 0.05)
    with narrow.stream("x" * 100, **LONG) as held:
        next(held)
        for call in (
            lambda: narrow.chat("What?", [photo], max_tiles=1, system=""),
            lambda: list(narrow.stream("What?", [photo], max_tiles=1, system="")),
            lambda: narrow.generate([65] * 200),
            lambda: narrow.logits([65] * 300),
            lambda: narrow.vote("What?", [photo], max_tiles=1, n=2, system="", reasoning=None),
        ):
            # In the thread that holds the room: without a limit, this would wait for itself for ever.
            with pytest.raises(CacheFullError, match="A stream keeps its room until it is read to its end"):
                call()
        assert encoded == []


def test_streams_that_are_forgotten_or_never_read_hold_no_room(narrow: ivl.Model) -> None:
    never_read = [narrow.stream("x" * 100, **LONG) for _ in range(5)]
    next(narrow.stream("x" * 100, **LONG))  # forgotten at once
    assert len(narrow.chat("x" * 100, **LONG).token_ids) == 300
    for stream in never_read:
        stream.close()


def test_cancelling_a_stream_that_waits_for_room(narrow: ivl.Model) -> None:
    with narrow.stream("x" * 100, **LONG) as held:
        next(held)
        waiting = narrow.stream("y" * 100, **LONG)
        threading.Timer(0.05, waiting.cancel).start()
        (last,) = waiting
        assert last.result is not None
        assert (last.result.finish_reason, last.result.token_ids) == ("cancelled", ())
        assert tokens_of(held) == 300


def test_ctrl_c_ends_a_wait(narrow: ivl.Model) -> None:
    with narrow.stream("x" * 100, **LONG) as held:
        next(held)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            narrow.chat("y" * 100, **LONG)
        assert tokens_of(held) == 300


def test_closing_the_model_ends_a_wait(tiny_bundle: Path) -> None:
    model = ivl.load(tiny_bundle, cache_tokens=512)
    held = model.stream("x" * 100, **LONG)
    next(held)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.chat, "y" * 100, **LONG)
        until(lambda: len(model._room._waiting) == 1)
        model.close()
        with pytest.raises(ivl.InternVLError, match="was closed"):
            waiting.result(60)


def test_the_limit_is_given_when_the_model_is_loaded(tiny_bundle: Path) -> None:
    with (
        ivl.load(tiny_bundle, cache_tokens=512, max_wait_s=0) as model,
        model.stream("x" * 100, **LONG) as held,
    ):
        next(held)
        with pytest.raises(CacheFullError, match=r"waited 0\.0 s"):
            model.chat("y" * 100, **LONG)
