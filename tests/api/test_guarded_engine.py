"""Long calls to an engine that is being closed, and progress that passes through."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.guarded_engine import ClosedError, GuardedEngine


class Endless:
    """An engine whose calls end when progress says so, and not before."""

    name = "endless"

    def __init__(self) -> None:
        self.running = threading.Event()
        self.closed_after: list[str] = []

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        self._run("encode", progress)
        raise AssertionError

    def prefill(
        self, sequence: int, embeddings: Float32Array, all_logits: bool, progress: Progress | None
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
            self.closed_after.append(name)

    def close(self) -> None:
        self.closed_after.append("close")


def call(engine: GuardedEngine, name: str, progress: Progress | None = None) -> Any:
    rows = np.zeros((1, 4), np.float32)
    if name == "encode":
        return engine.encode_tiles(rows, progress)
    return engine.prefill(0, rows, progress=progress)


@pytest.mark.parametrize("name", ["encode", "prefill"])
def test_progress_reaches_the_caller_and_may_end_the_call(name: str) -> None:
    engine = GuardedEngine(Endless())  # type: ignore[arg-type]

    def stop(done: int) -> None:
        if done == 3:
            raise KeyError(done)

    with pytest.raises(KeyError, match="3"):
        call(engine, name, stop)


@pytest.mark.parametrize("name", ["encode", "prefill"])
def test_closing_ends_a_long_call_at_its_next_step(name: str) -> None:
    inner = Endless()
    engine = GuardedEngine(inner)  # type: ignore[arg-type]
    failures: list[BaseException] = []

    def run() -> None:
        try:
            call(engine, name)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert inner.running.wait(20)
    engine.close()
    thread.join(20)
    assert [type(error) for error in failures] == [ClosedError]
    assert inner.closed_after == [name, "close"]
