"""Calls that are under way while their model is closed, and long calls that their progress ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.errors import ClosedError
from plain_engine import Noise, Recital, model_of, until

PICTURE = Image.new("RGB", (56, 56))
PIXELS = np.zeros((2, 3, 56, 56), np.float32)
LONG: dict[str, Any] = {"system": "", "max_new_tokens": 100_000, "ignore_stop_tokens": True}
CALLS: dict[str, tuple[str, Callable[[ivl.Model], object]]] = {
    "chat": ("prefill", lambda model: model.chat("x", system="")),
    "stream": ("prefill", lambda model: list(model.stream("x", system=""))),
    "generate": ("prefill", lambda model: model.generate([65])),
    "logits": ("prefill", lambda model: model.logits([65])),
    "judge": ("prefill", lambda model: model.judge("Hi", ["a"])),
    "vote": ("prefill", lambda model: model.vote("Hi", n=2, reasoning=None)),
    "chat about a picture": ("encode", lambda model: model.chat("x", [PICTURE], system="")),
    "judge a picture": ("encode", lambda model: model.judge("Hi", ["a"], [PICTURE])),
    "encode": ("encode", lambda model: model.encode(PICTURE)),
    "encode_pixels": ("encode", lambda model: model.encode_pixels(PIXELS)),
}


class Endless(Noise):
    """An engine whose long calls end when progress says so, and not before."""

    def __init__(self) -> None:
        super().__init__()
        self.running = threading.Event()

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        self._run("encode", progress)
        raise AssertionError

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        self._run("prefill", progress)
        raise AssertionError

    def _run(self, name: str, progress: Progress | None) -> None:
        assert progress is not None
        done = 0
        try:
            while True:
                done += 1
                progress(done)
                self.running.set()
        finally:
            self.calls.append(name)


@pytest.mark.parametrize("name", CALLS)
def test_closing_ends_a_long_call_at_its_next_step(name: str) -> None:
    engine = Endless()
    model = model_of(engine)
    kind, call = CALLS[name]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call, model)
        assert engine.running.wait(60)
        model.close()
        with pytest.raises(ClosedError, match=r"This model was closed\. Load it again\."):
            running.result(60)
    assert engine.calls == [kind, "close"], "the engine was there until the call had ended"
    assert engine.sequences == {}


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_model_computes_nothing(name: str) -> None:
    engine = Endless()
    model = model_of(engine)
    model.close()
    model.close()
    with pytest.raises(ClosedError, match=r"This model was closed\. Load it again\."):
        CALLS[name][1](model)
    assert engine.calls == ["close", "close"]


@pytest.mark.parametrize("name", ["encode", "encode_pixels"])
def test_progress_may_end_a_long_call(name: str) -> None:
    engine = Endless()
    with model_of(engine) as model:
        picture = PICTURE if name == "encode" else PIXELS

        def stop(done: int, tiles: int) -> None:
            assert tiles == {"encode": 1, "encode_pixels": 2}[name]
            if done >= 3:
                raise KeyError(done)

        with pytest.raises(KeyError, match=r"^\d+$"):
            getattr(model, name)(picture, progress=stop)
        assert engine.calls == ["encode"]


def test_closing_waits_for_the_step_that_is_being_computed() -> None:
    engine = Recital([65])
    model = model_of(engine)
    stream = model.stream("x", **LONG)
    with engine.at("decode", 2) as step:
        before = list(islice(stream, 3))
        step.wait()
        with ThreadPoolExecutor(1) as pool:
            closing = pool.submit(model.close)
            until(lambda: is_closed(model))
            assert engine.calls == ["prefill"]
            step.release()
            closing.result(60)
    assert engine.calls == ["prefill", "close"]
    assert engine.sequences == {}
    assert len(engine.runs) == 3
    # What was written by then can be read.
    assert [piece.token_ids for piece in (*before, next(stream))] == [(65,)] * 4
    with pytest.raises(ClosedError):
        next(stream)
    assert list(stream) == []
    assert stream.result is None


def test_closing_ends_everything_that_waits_and_all_that_is_written() -> None:
    engine = Noise()
    model = model_of(engine, max_waiting=20)
    asked: Sequence[str] = [f"Number {i}?" for i in range(8)]
    with engine.at("prefill", 4) as step, ThreadPoolExecutor(9) as pool:
        calls = [pool.submit(model.chat, question, **LONG) for question in asked]
        step.wait()
        until(lambda: model._scheduler.waiting == 3 and len(engine.runs) > 2)
        closing = pool.submit(model.close)
        until(lambda: is_closed(model))
        step.release()
        closing.result(60)
        for call in calls:
            with pytest.raises(ClosedError):
                call.result(60)
    assert len(engine.prefills) == 5
    assert engine.calls == ["prefill"] * 5 + ["close"]
    assert engine.sequences == {}


def test_an_answer_that_is_written_can_be_read_from_a_closed_model() -> None:
    engine = Recital([65])
    model = model_of(engine)
    stream = model.stream("x", system="", max_new_tokens=5)
    pieces = [next(stream)]
    until(lambda: engine.sequences == {})
    model.close()
    pieces += stream
    assert stream.result is not None
    assert stream.result.token_ids == (65,) * 5


def test_two_threads_may_close() -> None:
    engine = Noise()
    model = model_of(engine)
    stream = model.stream("x", **LONG)
    with engine.at("decode", 0) as step:
        next(stream)
        step.wait()
        with ThreadPoolExecutor(3) as pool:
            closing = [pool.submit(model.close) for _ in range(3)]
            until(lambda: is_closed(model))
            step.release()
            for one in closing:
                one.result(60)
    assert engine.sequences == {}


def test_a_model_that_is_forgotten_ends_its_answers() -> None:
    engine = Noise()
    stream = model_of(engine).stream("x", **LONG)
    next(stream)
    del stream  # and with it the model
    assert engine.sequences == {}


def is_closed(model: ivl.Model) -> bool:
    try:
        model._scheduler.check_open()
    except ClosedError:
        return True
    return False
