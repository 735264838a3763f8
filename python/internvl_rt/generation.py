"""From a prompt to an answer, token by token, on any engine."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from internvl_rt.engines.engine import Engine, Float32Array
from internvl_rt.prompts.tokenizer import Detokeniser
from internvl_rt.results import Answer, FinishReason, Piece, Timings, Usage
from internvl_rt.sampling import TokenChooser
from internvl_rt.settings import GenerationSettings

if TYPE_CHECKING:
    from internvl_rt.images import Orientation


MOST_AT_ONCE = 64
"""Tokens of an answer that one step appends at most, so that a long run of forced ones can be cancelled."""


@dataclass(frozen=True)
class Question:
    """A prompt that is ready for an engine, and what its answers are told about."""

    input_ids: npt.NDArray[np.int64]
    features: Float32Array | None
    """[image tokens, hidden]: one row for each image context id. Not used once the answer is cancelled."""
    grounding_text: Callable[[Sequence[int]], str]
    """The text of token ids with the grounding tokens kept."""
    stop_ids: frozenset[int]
    timings: Timings
    """The stages before the language model."""
    usage: Usage
    image_sizes: tuple[tuple[int, int], ...]
    started: float
    """``perf_counter()`` at the call, in seconds."""
    orientations: tuple[Orientation, ...] = ()
    """Of the pictures; see ``Answer``."""


@dataclass(frozen=True)
class Writer:
    """What one of the answers to a question has of its own."""

    settings: GenerationSettings
    chooser: TokenChooser
    detokeniser: Detokeniser


class AnswerStream:
    """An answer as it is written: an iterator of ``Piece``.

    The work is done while the iterator is advanced, in the thread that advances it. ``close`` (called too
    when the stream is used in a ``with`` statement, or forgotten) stops it and frees its place in the
    cache; ``cancel`` may be called from any thread and ends the answer after the token that is being
    computed, with the finish reason ``cancelled``.
    """

    def __init__(self, start: Callable[[threading.Event], Generator[Piece, None, None]]) -> None:
        self._cancelled = threading.Event()
        self._pieces = start(self._cancelled)
        self._result: Answer | None = None

    @property
    def result(self) -> Answer | None:
        """The whole answer once the last piece was taken, else None."""
        return self._result

    def cancel(self) -> None:
        """Ends the answer early. From any thread."""
        self._cancelled.set()

    def close(self) -> None:
        """Stops at once and frees the answer's place in the cache. Calling it twice is fine."""
        self._pieces.close()

    def __iter__(self) -> AnswerStream:
        return self

    def __next__(self) -> Piece:
        piece = next(self._pieces)
        if piece.result is not None:
            self._result = piece.result
        return piece

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def answer_pieces(
    engine: Engine,
    question: Question,
    writer: Writer,
    context_tokens: int,
    cancelled: threading.Event,
) -> Generator[Piece, None, None]:
    """Generates an answer. However it ends, its sequence is dropped.

    Args:
        engine: computes the logits; its cache has room for the prompt and the whole answer.
        question: the prompt; at least one token shorter than ``context_tokens``.
        writer: chooses the tokens.
        context_tokens: prompt and answer together end here.
        cancelled: when set, the answer ends: in the middle of the prompt, or after the token that is being
            computed.
    """
    draft = _Draft(question, writer, context_tokens)
    with closing(_steps(engine, question, [draft], cancelled, 1)) as steps:
        for _ in steps:
            yield draft.piece()
    yield draft.last_piece()


def all_answers(
    engine: Engine,
    question: Question,
    writers: Sequence[Writer],
    context_tokens: int,
    cancelled: threading.Event,
    at_once: int,
) -> list[Answer]:
    """Generates several answers to one question: one prefill, then one batch per step.

    The prompt's keys and values are forked, and an answer that has ended leaves the batch to one that has not
    begun. An answer does not depend on the others. However it ends, every sequence is dropped.

    Args:
        engine: computes the logits; its cache has room for the prompt and so many answers as are written at
            once, each to its full length.
        question: the prompt; at least one token shorter than ``context_tokens``.
        writers: one for each answer, in the order of the answers.
        context_tokens: prompt and one answer together end here.
        cancelled: when set, all answers end: in the middle of the prompt, or after the step that is being
            computed.
        at_once: how many are written together at most; the others wait. 0 where there is no room for a fork
            beside the prompt: then each answer has the prompt computed anew.
    """
    drafts = [_Draft(question, writer, context_tokens) for writer in writers]
    for group in [drafts] if at_once else [[draft] for draft in drafts]:
        with closing(_steps(engine, question, group, cancelled, max(1, at_once))) as steps:
            for _ in steps:
                pass
    return [draft.answer() for draft in drafts]


def _steps(
    engine: Engine, question: Question, drafts: Sequence[_Draft], cancelled: threading.Event, at_once: int
) -> Generator[None, None, None]:
    """Writes all drafts, a chosen token with what it forces a step.

    It stops between two steps, not after the last one.
    """
    prompt = engine.new_sequence()
    sequences = [prompt]
    try:
        begun = perf_counter()
        logits = _prefill(engine, prompt, question, cancelled)
        prefill_ms = ms_since(begun)
        for draft in drafts:
            draft.prefill_ms = prefill_ms
        if logits is None:
            return
        waiting = deque(drafts)
        writing: dict[int, _Draft] = {}
        rows: dict[int, Float32Array] = {}
        if len(drafts) == 1:
            writing[prompt], rows[prompt] = waiting.popleft(), logits
        while True:
            while waiting and len(writing) < at_once:
                sequence = engine.fork(prompt)
                sequences.append(sequence)
                writing[sequence], rows[sequence] = waiting.popleft(), logits
            runs: dict[int, list[int]] = {}
            for sequence, draft in list(writing.items()):
                runs[sequence] = draft.choose(rows[sequence], begun)
                if draft.finish_reason is not None:
                    del writing[sequence]
                    _drop(engine, sequence, sequences)
            if not (writing or waiting) or cancelled.is_set():
                return
            if not waiting and prompt in sequences and prompt not in writing:
                _drop(engine, prompt, sequences)  # nothing will be forked from it any more
            yield
            if cancelled.is_set():
                return
            begun = perf_counter()
            rows = {}
            if writing:
                decoded = _decode(engine, list(writing), [runs[sequence] for sequence in writing])
                rows = dict(zip(writing, decoded, strict=True))
    finally:
        for sequence in sequences:
            engine.drop(sequence)


def _decode(engine: Engine, sequences: list[int], runs: list[list[int]]) -> Float32Array:
    tokens = [token for run in runs for token in run]
    if len(tokens) == len(runs):
        return engine.decode(sequences, tokens)
    return engine.decode(sequences, tokens, [len(run) for run in runs])


def _drop(engine: Engine, sequence: int, sequences: list[int]) -> None:
    sequences.remove(sequence)
    engine.drop(sequence)


def ms_since(begun: float) -> float:
    """Milliseconds since ``begun``, a reading of ``perf_counter``."""
    return (perf_counter() - begun) * 1000.0


class _CancelledError(Exception):
    """The answer was cancelled while its prompt was computed."""


def _prefill(
    engine: Engine, sequence: int, question: Question, cancelled: threading.Event
) -> Float32Array | None:
    """The logits [vocab] after the prompt, or None if it was cancelled on the way."""

    def go_on(_: int) -> None:
        if cancelled.is_set():
            raise _CancelledError

    try:
        go_on(0)
        embeddings = engine.embed(question.input_ids, question.features)
        # In one call: its length may decide the rotary frequencies of all its positions.
        logits: Float32Array = engine.prefill(sequence, embeddings, progress=go_on)[-1]
    except _CancelledError:
        return None
    return logits


class _Draft:
    """An answer that is being written."""

    def __init__(self, question: Question, writer: Writer, context_tokens: int) -> None:
        settings = writer.settings
        self._question = question
        self._chooser = writer.chooser
        self._detokeniser = writer.detokeniser
        self._most = min(settings.max_new_tokens, context_tokens - len(question.input_ids))
        self._stop_ids = frozenset() if settings.ignore_stop_tokens else question.stop_ids
        # A form says itself which white space belongs to the answer.
        self._strip = _Whole() if settings.constrained else _Strip()
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._sent_tokens = 0
        self._sent_texts = 0
        self._first_token_ms: float | None = None
        self._forced_tokens = 0
        self._later_tokens = 0
        self._later_ms = 0.0
        self._total_ms: float | None = None
        self.prefill_ms = 0.0
        self.finish_reason: FinishReason | None = None

    @property
    def token_ids(self) -> Sequence[int]:
        """What was written so far."""
        return self._token_ids

    def choose(self, logits: Float32Array, begun: float) -> list[int]:
        """Chooses the token of the step that began at ``begun`` from its logits [vocab].

        Returns:
            the token, and those behind it that the form forces: all end the answer as they would one by one.
        """
        token: int | None = self._chooser.choose(logits)
        first = self._first_token_ms is None
        if first:
            self._first_token_ms = ms_since(self._question.started)
        tokens = []
        while token is not None:
            tokens.append(token)
            self._add(token)
            more = self.finish_reason is None and len(tokens) < MOST_AT_ONCE
            token = self._chooser.choose_forced() if more else None
        self._forced_tokens += sum(token not in self._stop_ids for token in tokens[1:])
        self._later_tokens += len(tokens) - first
        if not first:
            self._later_ms += ms_since(begun)
        if self.finish_reason is not None:
            self._total_ms = ms_since(self._question.started)
        return tokens

    def _add(self, token: int) -> None:
        if token in self._stop_ids:
            self.finish_reason = "stop"
            return
        self._token_ids.append(token)
        self._texts.append(self._strip.push(self._detokeniser.push(token)))
        if self._detokeniser.stopped is not None or self._chooser.ended:
            self.finish_reason = "stop"
        elif len(self._token_ids) >= self._most:
            self.finish_reason = "length"

    def piece(self) -> Piece:
        """What was added since the last piece."""
        text = "".join(self._texts[self._sent_texts :])
        token_ids = tuple(self._token_ids[self._sent_tokens :])
        self._sent_texts, self._sent_tokens = len(self._texts), len(self._token_ids)
        return Piece(text, token_ids)

    def last_piece(self) -> Piece:
        """The rest, with the whole answer."""
        result = self.answer()
        return replace(self.piece(), result=result)

    def answer(self) -> Answer:
        """The whole answer; the draft is not written on afterwards."""
        self._texts.append(self._strip.push(self._detokeniser.finish()))
        question = self._question
        total_ms = ms_since(question.started) if self._total_ms is None else self._total_ms
        return Answer(
            text="".join(self._texts),
            token_ids=tuple(self._token_ids),
            finish_reason=self.finish_reason or "cancelled",
            timings=replace(
                question.timings,
                prefill=self.prefill_ms,
                first_token=self._first_token_ms or 0.0,
                per_token=self._later_ms / max(self._later_tokens, 1),
                total=total_ms,
            ),
            usage=replace(question.usage, new_tokens=len(self._token_ids), forced_tokens=self._forced_tokens),
            grounding_text=self._strip.whole(question.grounding_text(self._token_ids)),
            image_sizes=question.image_sizes,
            orientations=question.orientations,
        )


class _Whole:
    """Leaves a text that comes in pieces as it is."""

    def push(self, text: str) -> str:
        return text

    def whole(self, text: str) -> str:
        """The same of a text in one piece."""
        return text


class _Strip(_Whole):
    """Strips a text that comes in pieces: white space is passed on only when text follows it."""

    def __init__(self) -> None:
        self._begun = False
        self._white = ""

    def push(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        text = self._white + text
        solid = text.rstrip()
        self._white = text[len(solid) :]
        return solid

    def whole(self, text: str) -> str:
        return text.strip()
