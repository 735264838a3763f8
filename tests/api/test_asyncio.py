"""Answers for asyncio: many at once, without a thread for each."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.errors import CacheFullError, ClosedError, ImageError, PromptError
from watched_engine import Gate, WatchedEngine, load_watched

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or sys.version_info < (3, 10), reason="an eventfd is watched"
)

ASKED: dict[str, Any] = {"system": "", "ignore_stop_tokens": True}
ENOUGH = 30.0
"""Seconds that nothing here takes."""

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine in a new loop, and fails where it takes for ever."""
    if request.param == "asyncio":
        loops: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    else:
        loops = pytest.importorskip("uvloop").new_event_loop

    def run_in_new_loop(coroutine: Coroutine[Any, Any, Any]) -> Any:
        loop = loops()
        try:
            return loop.run_until_complete(asyncio.wait_for(coroutine, ENOUGH))
        finally:
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    return run_in_new_loop


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def watched(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[tuple[ivl.Model, WatchedEngine]]:
    model, engine = load_watched(tiny_bundle, engine=request.param, cache_tokens=1024)
    with model:
        yield model, engine


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + ENOUGH
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        await asyncio.sleep(0.001)


def entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def all_is_free(model: ivl.Model) -> Callable[[], bool]:
    return lambda: model._engine.free_tokens == model.cache_tokens


def test_an_answer_is_the_one_of_chat(run: Run, model: ivl.Model, photo: Image.Image) -> None:
    for asked in (
        {"max_new_tokens": 30},
        {"images": [photo], "max_tiles": 4, "max_new_tokens": 12},
        {"do_sample": True, "temperature": 3.0, "top_k": 0, "seed": 5, "max_new_tokens": 30},
        {"history": [("One?", "Two.")], "stop": ["a"], "max_new_tokens": 40},
    ):
        expected = model.chat("What is this?", **ASKED, **asked)
        found = run(model.achat("What is this?", **ASKED, **asked))
        assert (found.text, found.token_ids) == (expected.text, expected.token_ids)
        assert (found.finish_reason, found.usage) == (expected.finish_reason, expected.usage)
        assert (found.grounding_text, found.image_sizes) == (expected.grounding_text, expected.image_sizes)
        assert found.orientations == expected.orientations
        assert 0 < found.timings.first_token <= found.timings.total


def test_an_answer_keeps_its_form(run: Run, model: ivl.Model) -> None:
    pytest.importorskip("llguidance")
    pattern = {"pattern": "[0-9]{3}-[a-f]{2}", "system": ""}
    assert run(model.achat("What?", **pattern)).text == model.chat("What?", **pattern).text


def test_a_stream_is_the_answer_in_pieces(run: Run, model: ivl.Model, photo: Image.Image) -> None:
    asked = {**ASKED, "images": [photo], "max_tiles": 1, "max_new_tokens": 100}

    async def read() -> tuple[list[ivl.Piece], ivl.Answer | None]:
        stream = model.astream("What?", **asked)
        assert stream.result is None
        pieces = [piece async for piece in stream]
        assert [piece async for piece in stream] == [], "it is over"
        return pieces, stream.result

    pieces, result = run(read())
    expected = model.chat("What?", **asked)
    assert result is not None
    assert pieces[-1].result is result
    assert [piece.result for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert len(pieces) == 100
    assert "".join(piece.text for piece in pieces) == result.text == expected.text
    assert sum((piece.token_ids for piece in pieces), ()) == result.token_ids == expected.token_ids


def test_pieces_come_while_the_answer_is_written(run: Run, watched: tuple[ivl.Model, WatchedEngine]) -> None:
    model, engine = watched

    async def read() -> None:
        with Gate() as gate, engine.around(decode=gate):
            stream = model.astream("Hello", **ASKED, max_new_tokens=9)
            first = await anext(stream)
            await until(gate.reached.is_set)  # the second token is being computed
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            assert not waiting.done()
            gate.open()
            pieces = [first, await waiting, *[piece async for piece in stream]]
        assert [len(piece.token_ids) for piece in pieces] == [1] * 9

    run(read())


def test_a_reader_may_take_its_time(run: Run, model: ivl.Model) -> None:
    """More than 64 tokens behind, and every wake of the descriptor is one that was taken before."""
    asked = {**ASKED, "max_new_tokens": 300}
    expected = model.chat("Hello", **asked)

    async def read() -> ivl.Answer | None:
        stream = model.astream("Hello", **asked)
        await anext(stream)
        await asyncio.sleep(0.05)
        async for _ in stream:
            await asyncio.sleep(0)
        return stream.result

    result = run(read())
    assert result is not None
    assert result.token_ids == expected.token_ids


def test_many_at_once(run: Run, model: ivl.Model, photo: Image.Image) -> None:
    """More than the cache holds."""
    questions = [f"What is number {i}?" for i in range(40)]

    def asked(i: int) -> dict[str, Any]:
        pictures = {"images": [photo], "max_tiles": 1} if i % 3 == 0 else {}
        return {**ASKED, **pictures, "max_new_tokens": 10 + i}

    expected = [model.chat(question, **asked(i)).token_ids for i, question in enumerate(questions)]
    assert sum(len(ids) for ids in expected) > model.cache_tokens

    async def ask_all() -> list[tuple[int, ...]]:
        answers = await asyncio.gather(*[model.achat(q, **asked(i)) for i, q in enumerate(questions)])
        return [answer.token_ids for answer in answers]

    assert run(ask_all()) == expected


def test_no_call_has_a_thread_of_its_own(run: Run, watched: tuple[ivl.Model, WatchedEngine]) -> None:
    model, engine = watched

    async def threads_during(calls: int) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        # Pictures and questions are read in the loop's pool, which has its two threads from here on.
        loop.set_default_executor(ThreadPoolExecutor(2))
        both = threading.Barrier(2)
        await asyncio.gather(*[loop.run_in_executor(None, both.wait, ENOUGH) for _ in range(2)])
        with Gate() as gate, engine.around(decode=gate):
            tasks = [
                asyncio.ensure_future(model.achat(f"Number {i}", **ASKED, max_new_tokens=8))
                for i in range(calls)
            ]
            await until(gate.reached.is_set)
            # Most find no room: they wait in the scheduler.
            await until(lambda: model._scheduler.waiting >= calls // 2)
            counted = threading.active_count(), entries("/proc/self/task")
            gate.open()
            await asyncio.gather(*tasks)
        return counted

    run(threads_during(1))
    few, many = run(threads_during(1)), run(threads_during(100))
    # Those of other tests come and go.
    assert max(many[0] - few[0], many[1] - few[1]) < 10


@pytest.mark.parametrize("method", ["prefill", "decode"])
def test_cancelling_the_task_ends_the_request_at_its_next_step(
    run: Run, watched: tuple[ivl.Model, WatchedEngine], method: str
) -> None:
    model, engine = watched

    async def ask() -> None:
        steps = 0

        def held_up(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            return gate(call, *given, **named)

        with Gate() as gate, engine.around(**{method: held_up}):
            task = asyncio.ensure_future(model.achat("Hello", **ASKED, max_new_tokens=200))
            await until(gate.reached.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task  # not for the step that is being computed
            gate.open()
            # What is asked next is taken behind the end of what was cancelled.
            assert len((await model.achat("Hello", **ASKED, max_new_tokens=1)).token_ids) == 1
            await until(all_is_free(model))
        assert steps == 1 + (method == "prefill")

    run(ask())


def test_cancelling_a_task_whose_request_waits_for_its_turn(
    run: Run, watched: tuple[ivl.Model, WatchedEngine]
) -> None:
    model, engine = watched

    async def ask() -> None:
        with Gate() as gate, engine.around(prefill=gate):
            first = asyncio.ensure_future(model.achat("Hello", **ASKED, max_new_tokens=3))
            await until(gate.reached.is_set)
            second = asyncio.ensure_future(model.achat("Hello", **ASKED, max_new_tokens=3))
            await until(lambda: model._scheduler.waiting == 1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            await until(lambda: model._scheduler.waiting == 0)
            assert not first.done()
            gate.open()
            assert len((await first).token_ids) == 3

    run(ask())


def test_a_timeout_frees_the_place_of_the_answer(run: Run, model: ivl.Model) -> None:
    asked = {**ASKED, "max_new_tokens": 300}
    expected = model.chat("Hello", **asked).token_ids

    async def ask() -> None:
        for wait in (0.0, 0.0005, 0.002, 0.005, 0.01, 0.02) * 5:
            with suppress(asyncio.TimeoutError):
                answer = await asyncio.wait_for(model.achat("Hello", **asked), wait)
                assert answer.token_ids == expected
        await until(all_is_free(model))
        assert (await model.achat("Hello", **asked)).token_ids == expected

    run(ask())


def test_a_stream_that_is_cancelled(run: Run, model: ivl.Model) -> None:
    asked = {**ASKED, "max_new_tokens": 300}
    whole = model.chat("Hello", **asked).token_ids

    async def read() -> None:
        for behind in (0, 1, 30):
            stream = model.astream("Hello", **asked)
            read = [await anext(stream) for _ in range(behind)]
            stream.cancel()
            read += [piece async for piece in stream]
            result = stream.result
            assert result is not None
            assert result.finish_reason == "cancelled"
            assert sum((piece.token_ids for piece in read), ()) == result.token_ids
            assert result.token_ids == whole[: len(result.token_ids)]
            assert behind <= len(result.token_ids) < len(whole)
            assert behind or not result.token_ids
        assert all_is_free(model)()

    run(read())


def test_cancelling_a_stream_while_its_pictures_are_read(run: Run, model: ivl.Model) -> None:
    async def read() -> None:
        stream = model.astream("Hello", **ASKED, max_new_tokens=200)
        start, reading, go_on = stream._start, threading.Event(), threading.Event()

        def held_up(cancelled: bool) -> Any:
            reading.set()
            assert go_on.wait(ENOUGH)
            return start(cancelled)

        stream._start = held_up
        task = asyncio.ensure_future(anext(stream))
        await until(reading.is_set)
        stream.cancel()
        go_on.set()
        last = await task
        assert last.result is None or last.result.finish_reason == "cancelled"
        async for _ in stream:
            pass
        assert stream.result is not None
        assert stream.result.finish_reason == "cancelled"
        assert len(stream.result.token_ids) < 200

    run(read())


def test_closing_and_forgetting_a_stream(run: Run, model: ivl.Model) -> None:
    async def read() -> None:
        free = all_is_free(model)
        closed = model.astream("Hello", **ASKED, max_new_tokens=300)
        await anext(closed)
        await closed.aclose()
        await closed.aclose()
        assert [piece async for piece in closed] == []
        await until(free)
        forgotten = model.astream("Hello", **ASKED, max_new_tokens=300)
        await anext(forgotten)
        del forgotten
        await until(free)
        never_begun = model.astream("Hello", **ASKED)
        await never_begun.aclose()
        assert [piece async for piece in never_begun] == []

    run(read())


def test_an_exception_of_the_engine_reaches_the_task(
    run: Run, watched: tuple[ivl.Model, WatchedEngine]
) -> None:
    model, engine = watched

    def failing(*given: Any, **named: Any) -> Any:
        raise MemoryError("no more")

    async def ask() -> None:
        for method in ("prefill", "decode"):
            with engine.around(**{method: failing}):
                tasks = [asyncio.ensure_future(model.achat("Hello", **ASKED)) for _ in range(3)]
                for failure in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(failure, MemoryError)
                    assert str(failure) == "no more"
                with pytest.raises(MemoryError) as raised:
                    async for _ in model.astream("Hello", **ASKED):
                        pass
                assert "failing" in [entry.name for entry in raised.traceback]
            await until(all_is_free(model))
        assert len((await model.achat("Hello", **ASKED, max_new_tokens=5)).token_ids) == 5

    run(ask())


def test_questions_that_do_not_fit(run: Run, model: ivl.Model) -> None:
    for error, question, asked in (
        (PromptError, 7, {}),
        (PromptError, "Hello", {"max_new_tokens": 0}),
        (PromptError, "x" * 5000, {}),
        (ImageError, "Hello", {"images": [b"junk"]}),
    ):
        with pytest.raises(error) as expected:
            model.chat(question, **asked)
        with pytest.raises(error) as found:
            run(model.achat(question, **asked))
        assert str(found.value) == str(expected.value)
    # Form and settings are checked at once, before anything is awaited.
    with pytest.raises(PromptError, match="max_new_tokens"):
        model.astream("Hello", max_new_tokens=0)


def test_a_call_that_finds_no_room(run: Run, tiny_bundle: Path) -> None:
    with (
        ivl.load(tiny_bundle, cache_tokens=512, max_wait_s=0.05, prefix_cache_tokens=0) as model,
        model._scheduler.reserve(500),
        pytest.raises(CacheFullError, match=r"this call waited 0\.1 s"),
    ):
        run(model.achat("Hello", system=""))


def test_closing_the_model_ends_what_is_awaited(run: Run, tiny_bundle: Path) -> None:
    async def ask() -> None:
        model, engine = load_watched(tiny_bundle, cache_tokens=512)
        with Gate() as gate, engine.around(decode=gate):
            tasks = [
                asyncio.ensure_future(model.achat("Hello", **ASKED, max_new_tokens=300)) for _ in range(4)
            ]
            await until(gate.reached.is_set)
            closing = asyncio.get_running_loop().run_in_executor(None, model.close)
            gate.open()
            failures = await asyncio.gather(*tasks, return_exceptions=True)
            await closing
        assert {type(failure) for failure in failures} == {ClosedError}
        with pytest.raises(ClosedError):
            await model.achat("Hello")

    run(ask())


def test_progress_is_told_in_the_loop(run: Run, model: ivl.Model, photo: Image.Image) -> None:
    told: list[tuple[int, int, int]] = []

    async def ask() -> None:
        here = threading.get_ident()
        answer = await model.achat(
            "What?",
            [photo],
            max_tiles=4,
            max_new_tokens=1,
            progress=lambda done, tiles: told.append((done, tiles, threading.get_ident())),
        )
        assert (told[0], told[-1]) == ((0, answer.usage.tiles, here), (answer.usage.tiles,) * 2 + (here,))
        assert {thread for _, _, thread in told} == {here}

        def enough(done: int, tiles: int) -> None:
            raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"):
            await model.achat("What?", [photo], max_tiles=1, progress=enough)
        await until(all_is_free(model))

    run(ask())


def test_no_descriptor_is_left_open(run: Run, model: ivl.Model) -> None:
    def descriptors() -> int:
        return entries("/proc/self/fd")

    async def ask() -> None:
        await model.achat("Hello", **ASKED, max_new_tokens=4)
        before = descriptors()
        await asyncio.gather(*[model.achat("Hello", **ASKED, max_new_tokens=20) for _ in range(10)])
        for _ in range(10):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(model.achat("Hello", **ASKED, max_new_tokens=300), 0.001)
        await until(all_is_free(model))
        assert descriptors() == before

    run(ask())
