"""The loop over tokens, on an engine whose answers are known beforehand."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bundle.tiny import tiny_tokenizer
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.errors import DeviceError
from internvl_rt.generation import AnswerStream, Question, Writer, answer_pieces
from internvl_rt.prompts.tokenizer import Detokeniser, PromptTokenizer
from internvl_rt.results import Answer, Piece, Timings, Usage
from internvl_rt.sampling import TokenChooser
from internvl_rt.settings import GenerationSettings

VOCABULARY = 331
STOP = tiny_tokenizer().token_to_id("<|im_end|>")


class Recital:
    """An engine that answers with given ids, one after the other."""

    name = "recital"
    cache_tokens = free_tokens = 64

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)
        self.lengths: dict[int, int] = {}
        self.fail_at: int | None = None
        self.prefills: list[int] = []

    def _logits(self, sequence: int, prompt: int) -> Float32Array:
        said = self.lengths[sequence] - prompt
        logits = np.zeros((1, VOCABULARY), np.float32)
        logits[0, self._ids[said]] = 1
        return logits

    def new_sequence(self) -> int:
        self.lengths[0] = 0
        return 0

    def drop(self, sequence: int) -> None:
        del self.lengths[sequence]

    def embed(self, token_ids: Any, features: Any) -> Float32Array:
        return np.zeros((len(token_ids), 4), np.float32)

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        self.prefills.append(len(embeddings))
        for done in range(0, len(embeddings), 256):
            if progress is not None:
                progress(done)
        self.lengths[sequence] += len(embeddings)
        self.prompt = self.lengths[sequence]
        return self._logits(sequence, self.prompt)

    def decode(self, sequences: Sequence[int], tokens: Sequence[int]) -> Float32Array:
        if self.fail_at == self.lengths[sequences[0]] - self.prompt:
            raise DeviceError("broken")
        self.lengths[sequences[0]] += 1
        return self._logits(sequences[0], self.prompt)

    def fork(self, sequence: int) -> int: ...
    def length(self, sequence: int) -> int: ...
    def encode_tiles(self, pixel_values: Float32Array) -> EncodedTiles: ...
    def close(self) -> None: ...


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return PromptTokenizer(tiny_tokenizer().to_str())


def stream(
    tokenizer: PromptTokenizer, engine: Recital, *, context: int = 64, prompt: int = 5, **settings: Any
) -> AnswerStream:
    checked = GenerationSettings(**settings)
    question = Question(
        input_ids=np.zeros(prompt, np.int64),
        features=None,
        grounding_text=lambda ids: tokenizer.decode(ids, keep="grounding"),
        stop_ids=frozenset([STOP]),
        timings=Timings(),
        usage=Usage(prompt_tokens=prompt),
        image_sizes=(),
        started=0.0,
    )
    detokeniser = Detokeniser(tokenizer, keep=checked.keep_special_tokens, stop=checked.stop)
    writer = Writer(checked, TokenChooser(checked), detokeniser)
    return AnswerStream(lambda cancelled: answer_pieces(engine, question, writer, context, cancelled))


def run(stream: AnswerStream) -> tuple[list[Piece], Answer]:
    pieces = list(stream)
    assert [piece.result is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    answer = stream.result
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert sum((piece.token_ids for piece in pieces), ()) == answer.token_ids
    return pieces, answer


def test_an_answer_ends_at_the_stop_token(tokenizer: PromptTokenizer) -> None:
    engine = Recital([*tokenizer.encode("  hello there \n"), STOP])
    _, answer = run(stream(tokenizer, engine))
    assert (answer.text, answer.finish_reason) == ("hello there", "stop")
    assert STOP not in answer.token_ids
    assert answer.usage.new_tokens == len(answer.token_ids)
    assert engine.lengths == {}


def test_an_answer_ends_at_max_new_tokens(tokenizer: PromptTokenizer) -> None:
    _, answer = run(stream(tokenizer, Recital(tokenizer.encode("abcdefgh")), max_new_tokens=3))
    assert (len(answer.token_ids), answer.finish_reason) == (3, "length")


def test_an_answer_ends_at_the_contexts_end(tokenizer: PromptTokenizer) -> None:
    _, answer = run(stream(tokenizer, Recital([65] * 99), context=12))
    assert (len(answer.token_ids), answer.finish_reason) == (7, "length")


def test_stop_tokens_can_be_ignored(tokenizer: PromptTokenizer) -> None:
    _, answer = run(stream(tokenizer, Recital([STOP] * 9), max_new_tokens=4, ignore_stop_tokens=True))
    assert (answer.token_ids, answer.finish_reason) == ((STOP,) * 4, "length")


def test_a_stop_string_is_cut_off_though_it_comes_in_pieces(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.encode("one two END three")
    assert len(tokenizer.encode("END")) > 1
    pieces, answer = run(stream(tokenizer, Recital(ids), stop="END"))
    assert (answer.text, answer.finish_reason) == ("one two", "stop")
    assert all("E" not in piece.text for piece in pieces)


def test_what_only_began_like_a_stop_string_is_passed_on(tokenizer: PromptTokenizer) -> None:
    _, answer = run(stream(tokenizer, Recital([*tokenizer.encode("the EN"), STOP]), stop=("END",)))
    assert answer.text == "the EN"


def test_a_character_of_several_tokens_comes_whole(tokenizer: PromptTokenizer) -> None:
    ids = tokenizer.encode("日本🙂")
    assert len(ids) == 10
    pieces, answer = run(stream(tokenizer, Recital([*ids, STOP])))
    assert answer.text == "日本🙂"
    assert "\ufffd" not in "".join(piece.text for piece in pieces)


def test_grounding_tokens_are_left_out_and_kept(tokenizer: PromptTokenizer) -> None:
    ids = [*tokenizer.encode("<ref>cup</ref><box>[[1, 2, 3, 4]]</box>"), STOP]
    assert run(stream(tokenizer, Recital(ids)))[1].text == "cup[[1, 2, 3, 4]]"
    kept = run(stream(tokenizer, Recital(ids), keep_special_tokens="grounding"))[1]
    assert kept.text == kept.grounding_text == "<ref>cup</ref><box>[[1, 2, 3, 4]]</box>"


def test_cancelling_ends_the_answer(tokenizer: PromptTokenizer) -> None:
    engine = Recital(tokenizer.encode("abcdefgh"))
    running = stream(tokenizer, engine)
    next(running)
    running.cancel()
    rest = list(running)
    assert running.result is not None
    assert (running.result.finish_reason, running.result.text) == ("cancelled", "a")
    assert len(rest) == 1
    assert engine.lengths == {}


def test_cancelling_before_the_first_token(tokenizer: PromptTokenizer) -> None:
    running = stream(tokenizer, Recital([65]))
    running.cancel()
    _, answer = run(running)
    assert (answer.token_ids, answer.finish_reason) == ((), "cancelled")


def test_closing_early_frees_the_sequence(tokenizer: PromptTokenizer) -> None:
    engine = Recital([65] * 99)
    with stream(tokenizer, engine) as running:
        next(running)
        assert engine.lengths != {}
    assert engine.lengths == {}
    assert list(running) == []


def test_a_forgotten_stream_frees_the_sequence(tokenizer: PromptTokenizer) -> None:
    engine = Recital([65] * 99)
    next(stream(tokenizer, engine))
    assert engine.lengths == {}


def test_a_failing_step_frees_the_sequence(tokenizer: PromptTokenizer) -> None:
    engine = Recital([65] * 99)
    engine.fail_at = 3
    with pytest.raises(DeviceError):
        list(stream(tokenizer, engine))
    assert engine.lengths == {}


def test_an_interrupt_between_two_steps_frees_the_sequence(tokenizer: PromptTokenizer) -> None:
    class Interrupted(Recital):
        def decode(self, sequences: Sequence[int], tokens: Sequence[int]) -> Float32Array:
            raise KeyboardInterrupt

    engine = Interrupted([65] * 9)
    with pytest.raises(KeyboardInterrupt):
        list(stream(tokenizer, engine))
    assert engine.lengths == {}


def test_a_long_prompt_is_prefilled_in_one_call_that_can_be_stopped(tokenizer: PromptTokenizer) -> None:
    engine = Recital([STOP])
    run(stream(tokenizer, engine, prompt=1100, context=2000))
    assert engine.prefills == [1100]

    seen: list[int] = []

    class CancelledInTheMiddle(Recital):
        def prefill(
            self,
            sequence: int,
            embeddings: Float32Array,
            all_logits: bool = False,
            progress: Progress | None = None,
        ) -> Float32Array:
            def cancel_in_the_middle(done: int) -> None:
                seen.append(done)
                if done == 512:
                    running.cancel()
                assert progress is not None
                progress(done)

            return super().prefill(sequence, embeddings, all_logits, cancel_in_the_middle)

    cancelled = CancelledInTheMiddle([65] * 9)
    running = stream(tokenizer, cancelled, prompt=1100, context=2000)
    _, answer = run(running)
    assert (seen, answer.finish_reason, answer.token_ids) == ([0, 256, 512], "cancelled", ())
    assert cancelled.lengths == {}


def test_cancelling_from_another_thread(tokenizer: PromptTokenizer) -> None:
    engine = Recital([65] * 10_000_000)
    running = stream(tokenizer, engine, context=10_000_000, max_new_tokens=9_000_000)
    threading.Timer(0.05, running.cancel).start()
    _, answer = run(running)
    assert answer.finish_reason == "cancelled"
