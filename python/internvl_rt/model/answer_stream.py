"""Answers that are read piece by piece, in a loop or with asyncio."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from types import TracebackType

from internvl_rt import _core
from internvl_rt.answers.results import Answer, Piece
from internvl_rt.errors import InternVLError
from internvl_rt.model.requests import RunningRequest


class _Stream:
    """What streams of both kinds have: a request that begins with its first piece."""

    def __init__(self, start: Callable[[bool], RunningRequest]) -> None:
        """Begins nothing yet.

        Args:
            start: begins the request; its argument says whether that was cancelled already.
        """
        self._start = start
        self._running: RunningRequest | None = None
        self._cancelled = self._over = False
        self._result: Answer | None = None

    @property
    def result(self) -> Answer | None:
        """The whole answer once the last piece was taken, else None."""
        return self._result

    def cancel(self) -> None:
        """Ends the answer early. From any thread."""
        self._cancelled = True
        if self._running is not None:
            self._running.request.cancel()


class AnswerStream(_Stream):
    """An answer as it is written: an iterator of ``Piece``.

    The request begins when the first piece is asked for, and runs at most 64 tokens ahead of its reader. One
    thread reads it. ``close`` (called too when the stream is used in a ``with`` statement) ends it and frees
    its place in the cache, and so does forgetting it; ``cancel`` may be called from any thread and ends the
    answer after the token that is being computed, with the finish reason ``cancelled``.
    """

    def close(self) -> None:
        """Ends the request and frees its place in the cache. Calling it twice is fine."""
        self._over = True
        self.cancel()  # another thread may be beginning it
        if self._running is not None:
            self._running.abandon()

    def whole(self) -> Answer:
        """Reads it to its end; the whole answer."""
        for _ in self:
            pass
        assert self._result is not None, "the last piece has it"
        return self._result

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> Piece:
        if self._over:
            raise StopIteration
        try:
            piece = None
            while piece is None:
                piece = self._begun().next_piece()
        except BaseException:
            self.close()
            raise
        if piece.result is not None:
            self._over, self._result = True, piece.result
        return piece

    def _begun(self) -> RunningRequest:
        if self._running is None:
            self._running = self._start(self._cancelled)
            if self._cancelled:  # by another thread meanwhile
                self._running.request.cancel()
        return self._running

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncAnswerStream(_Stream):
    """An answer as it is written, for asyncio: an asynchronous iterator of ``Piece``.

    Waiting for a piece takes no thread: the event loop watches a file descriptor. Cancelling the task that
    waits ends the request at its next step. See ``AnswerStream`` for the rest.
    """

    def __init__(self, start: Callable[[bool], RunningRequest]) -> None:
        if sys.platform != "linux" or sys.version_info < (3, 10):  # eventfd
            raise InternVLError("achat and astream need Linux. Use chat and stream in a thread.")
        super().__init__(start)

    async def aclose(self) -> None:
        """Ends the request; its place in the cache is free at its next step. Calling it twice is fine."""
        self._over = True
        self.cancel()
        if self._running is not None and self._running.ended is not None:
            self._running.ended(None)

    async def whole(self) -> Answer:
        """Reads it to its end; the whole answer."""
        async for _ in self:
            pass
        assert self._result is not None, "the last piece has it"
        return self._result

    def __aiter__(self) -> AsyncAnswerStream:
        return self

    async def __anext__(self) -> Piece:
        if self._over:
            raise StopAsyncIteration
        try:
            if self._running is None:
                # Pictures are read in the loop's own pool of threads.
                self._running = await asyncio.get_running_loop().run_in_executor(
                    None, self._start, self._cancelled
                )
                if self._cancelled:  # meanwhile
                    self._running.request.cancel()
            piece = await self._next_piece(self._running)
        except BaseException:
            await self.aclose()
            raise
        if piece.result is not None:
            self._over, self._result = True, piece.result
        return piece

    async def _next_piece(self, running: RunningRequest) -> Piece:
        while True:
            piece = running.piece_of(await self._next_event(running.request))
            if piece is not None:
                return piece

    async def _next_event(self, request: _core.Request) -> _core.TilesEncoded | _core.Piece | _core.Ended:
        event = request.poll()
        if event is not None:
            return event
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            loop.add_reader(descriptor, arrived.set)
            request.set_event_fd(descriptor)
            try:
                event = request.poll()  # it may have come before the descriptor was known
                if event is None:
                    await arrived.wait()
                    event = request.poll()
            finally:
                request.set_event_fd(-1)
                loop.remove_reader(descriptor)
        finally:
            os.close(descriptor)
        assert event is not None, "the descriptor is written to with every event"
        return event
