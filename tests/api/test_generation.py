"""Answers token by token, on an engine whose answers are known beforehand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

import internvl_rt as ivl
from bundle.tiny import tiny_tokenizer
from internvl_rt.answers.results import Answer, Piece
from internvl_rt.errors import DeviceError
from internvl_rt.model.answer_stream import AnswerStream
from internvl_rt.prompts.tokenizer import PromptTokenizer
from plain_engine import Noise, PlainEngine, Recital, model_of, until

STOP = tiny_tokenizer().token_to_id("<|im_end|>")
MOST_UNREAD = 64
"""Tokens that an answer is written ahead of its reader."""


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return PromptTokenizer(tiny_tokenizer().to_str())


@pytest.fixture
def models() -> Iterator[list[ivl.Model]]:
    """Those that a test makes; closed at its end."""
    made: list[ivl.Model] = []
    yield made
    for model in made:
        model.close()


@pytest.fixture
def stream(models: list[ivl.Model]) -> Any:
    def start(
        engine: PlainEngine, *, context: int | None = None, question: str = "x", **settings: Any
    ) -> Any:
        models.append(model_of(engine))
        asked = {"system": "", "max_new_tokens": 64, **settings}
        if context is not None:  # beyond the prompt
            prompt = len(models[-1].render(question, system="").input_ids)
            models[-1] = model_of(engine, context_tokens=prompt + context)
        return models[-1].stream(question, **asked)

    return start


def run(stream: AnswerStream) -> tuple[list[Piece], Answer]:
    pieces = list(stream)
    assert [piece.result is not None for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    answer = stream.result
    assert answer is not None
    assert "".join(piece.text for piece in pieces) == answer.text
    assert sum((piece.token_ids for piece in pieces), ()) == answer.token_ids
    return pieces, answer


def test_an_answer_ends_at_the_stop_token(tokenizer: PromptTokenizer, stream: Any) -> None:
    engine = Recital([*tokenizer.encode("  hello there \n"), STOP])
    _, answer = run(stream(engine))
    assert (answer.text, answer.finish_reason) == ("hello there", "stop")
    assert STOP not in answer.token_ids
    assert answer.usage.new_tokens == len(answer.token_ids)
    assert len(engine.runs) == len(answer.token_ids)
    assert engine.sequences == {}


def test_an_answer_ends_at_max_new_tokens(tokenizer: PromptTokenizer, stream: Any) -> None:
    engine = Recital(tokenizer.encode("abcdefgh"))
    _, answer = run(stream(engine, max_new_tokens=3))
    assert (len(answer.token_ids), answer.finish_reason) == (3, "length")
    assert len(engine.runs) == 2, "what comes behind the last token is nobody's business"


def test_an_answer_ends_at_the_contexts_end(stream: Any) -> None:
    _, answer = run(stream(Recital([65]), context=7))
    assert (len(answer.token_ids), answer.finish_reason) == (7, "length")


def test_stop_tokens_can_be_ignored(stream: Any) -> None:
    _, answer = run(stream(Recital([STOP]), max_new_tokens=4, ignore_stop_tokens=True))
    assert (answer.token_ids, answer.finish_reason) == ((STOP,) * 4, "length")


def test_a_stop_string_is_cut_off_though_it_comes_in_pieces(tokenizer: PromptTokenizer, stream: Any) -> None:
    ids = tokenizer.encode("one two END three")
    assert len(tokenizer.encode("END")) > 1
    pieces, answer = run(stream(Recital(ids), stop="END"))
    assert (answer.text, answer.finish_reason) == ("one two", "stop")
    assert all("E" not in piece.text for piece in pieces)


def test_what_only_began_like_a_stop_string_is_passed_on(tokenizer: PromptTokenizer, stream: Any) -> None:
    _, answer = run(stream(Recital([*tokenizer.encode("the EN"), STOP]), stop=("END",)))
    assert answer.text == "the EN"


def test_a_character_of_several_tokens_comes_whole(tokenizer: PromptTokenizer, stream: Any) -> None:
    ids = tokenizer.encode("日本🙂")
    assert len(ids) == 10
    pieces, answer = run(stream(Recital([*ids, STOP])))
    assert answer.text == "日本🙂"
    assert "\ufffd" not in "".join(piece.text for piece in pieces)


def test_grounding_tokens_are_left_out_and_kept(tokenizer: PromptTokenizer, stream: Any) -> None:
    ids = [*tokenizer.encode("<ref>cup</ref><box>[[1, 2, 3, 4]]</box>"), STOP]
    assert run(stream(Recital(ids)))[1].text == "cup[[1, 2, 3, 4]]"
    kept = run(stream(Recital(ids), keep_special_tokens="grounding"))[1]
    assert kept.text == kept.grounding_text == "<ref>cup</ref><box>[[1, 2, 3, 4]]</box>"


def test_nothing_is_computed_before_the_first_piece_is_asked_for(stream: Any) -> None:
    engine = Recital([65, 66, STOP])
    waiting = stream(engine)
    run(stream(Recital([STOP])))  # others are not waited for
    assert engine.prefills == []
    assert run(waiting)[1].token_ids == (65, 66)


def test_an_answer_is_written_no_further_than_64_tokens_ahead_of_its_reader(stream: Any) -> None:
    engine, tokens = Recital([65]), 300
    running = stream(engine, max_new_tokens=tokens)
    pieces: list[Piece] = []
    most: list[int] = []

    def note(step: int) -> None:
        # The step's token comes to those that are written and not read.
        engine.before("decode", step, lambda: most.append(step + 2 - len(pieces)))

    for step in range(tokens):
        note(step)
    for _ in range(100):
        pieces.append(next(running))
        until(lambda: len(engine.runs) == len(pieces) + MOST_UNREAD - 1)
    # A piece has left the queue a moment before it is noted down.
    assert max(most) <= MOST_UNREAD + 1
    pieces += running
    assert sum((piece.token_ids for piece in pieces), ()) == (65,) * tokens
    assert len(engine.runs) == tokens - 1


def test_answers_are_written_together_and_none_changes_another(models: list[ivl.Model]) -> None:
    engine = Noise()
    models.append(model_of(engine))
    asked: dict[str, Any] = {"system": "", "max_new_tokens": 200, "ignore_stop_tokens": True}
    alone = {question: models[0].chat(question, **asked).token_ids for question in "abcd"}
    begun = len(engine.runs)
    with engine.at("decode", begun) as first:
        found: dict[str, tuple[int, ...]] = {}

        def ask(question: str) -> None:
            found[question] = models[0].chat(question, **asked).token_ids

        threads = [threading.Thread(target=ask, args=(question,)) for question in alone]
        for thread in threads:
            thread.start()
        first.wait()
        until(lambda: len(engine.prefills) == 8)
        first.release()
        for thread in threads:
            thread.join()
    assert found == alone
    assert [1] * 4 in engine.runs[begun:]
    assert len(engine.runs) - begun < 400, "one after the other they would take 796 steps"
    assert engine.sequences == {}


def test_cancelling_ends_the_answer_after_the_token_that_is_being_computed(
    tokenizer: PromptTokenizer, stream: Any
) -> None:
    ids = tokenizer.encode("abcdefgh")
    engine = Recital(ids)
    running = stream(engine)
    with engine.at("decode", 1) as step:
        before = list(islice(running, 2))
        step.wait()
        running.cancel()
    rest = list(running)
    answer = running.result
    assert answer is not None
    assert [piece.token_ids for piece in (*before, *rest)] == [(token,) for token in ids[:3]]
    assert (answer.finish_reason, answer.text, answer.token_ids) == ("cancelled", "abc", tuple(ids[:3]))
    assert len(engine.runs) == 2
    assert engine.sequences == {}


def test_cancelling_when_all_was_written_changes_nothing(tokenizer: PromptTokenizer, stream: Any) -> None:
    engine = Recital([*tokenizer.encode("abc"), STOP])
    running = stream(engine)
    next(running)
    until(lambda: len(engine.runs) == 3 and engine.sequences == {})
    running.cancel()
    answer = list(running)[-1].result
    assert answer is not None
    assert (answer.finish_reason, answer.text) == ("stop", "abc")


def test_cancelling_before_the_first_token(stream: Any) -> None:
    for _ in range(20):  # the scheduler's threads must never be quick enough
        engine = Recital([65])
        running = stream(engine)
        running.cancel()
        _, answer = run(running)
        assert (answer.token_ids, answer.finish_reason) == ((), "cancelled")
        assert engine.prefills == []


def test_closing_early_frees_the_sequence(stream: Any) -> None:
    engine = Recital([65])
    with stream(engine, max_new_tokens=9000) as running:
        next(running)
        assert engine.sequences != {}
    assert engine.sequences == {}
    assert len(engine.runs) <= MOST_UNREAD + 1
    assert list(running) == []
    assert running.result is None


def test_closing_waits_for_the_step_that_is_being_computed(stream: Any) -> None:
    engine = Recital([65])
    running = stream(engine, max_new_tokens=9000)
    with engine.at("decode", 0) as step:
        next(running)
        step.wait()
        closing = threading.Thread(target=running.close)
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()
    closing.join()
    assert engine.sequences == {}
    assert len(engine.runs) <= 2


def test_closing_while_another_thread_begins(stream: Any) -> None:
    engine = Recital([65])
    running = stream(engine, max_new_tokens=900_000)
    start, begins, closed = running._start, threading.Event(), threading.Event()

    def begin(cancelled: bool) -> Any:
        begun = start(cancelled)
        begins.set()
        assert closed.wait(60)
        return begun

    running._start = begin
    thread = threading.Thread(target=lambda: list(running))
    thread.start()
    assert begins.wait(60)
    running.close()
    closed.set()
    thread.join(20)
    assert not thread.is_alive()
    until(lambda: engine.sequences == {})


def test_a_forgotten_stream_frees_the_sequence(stream: Any) -> None:
    engine = Recital([65])
    with engine.at("decode", 0) as step:
        running = stream(engine, max_new_tokens=9000)
        next(running)
        step.wait()
        del running
    until(lambda: engine.sequences == {})
    assert len(engine.runs) == 1


def test_a_failing_step_frees_the_sequence(stream: Any) -> None:
    engine, broken = Recital([65]), DeviceError("broken")

    def fail() -> None:
        raise broken

    engine.before("decode", 3, fail)
    running = stream(engine)
    assert [piece.token_ids for piece in islice(running, 4)] == [(65,)] * 4
    with pytest.raises(DeviceError) as caught:
        next(running)
    assert caught.value is broken
    assert fail.__name__ in {entry.name for entry in caught.traceback}
    assert list(running) == []
    assert engine.sequences == {}


def test_a_failing_step_ends_the_answers_in_it_and_no_others(models: list[ivl.Model]) -> None:
    engine = Noise()
    models.append(model_of(engine))
    asked: dict[str, Any] = {"system": "", "max_new_tokens": 9, "ignore_stop_tokens": True}
    wanted = models[0].chat("b", **asked).token_ids
    done = len(engine.runs)

    def fail() -> None:
        raise DeviceError("broken")

    engine.before("decode", done + 2, fail)
    with pytest.raises(DeviceError):
        models[0].chat("a", **asked)
    assert engine.sequences == {}
    assert models[0].chat("b", **asked).token_ids == wanted


def test_an_interrupt_in_a_step_frees_the_sequence(stream: Any) -> None:
    engine = Recital([65])

    def interrupt() -> None:
        raise KeyboardInterrupt

    engine.before("decode", 0, interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(stream(engine))
    assert engine.sequences == {}


def test_a_long_prompt_is_prefilled_in_one_call_that_can_be_stopped(stream: Any) -> None:
    engine = Recital([STOP])
    run(stream(engine, question="x" * 1100))
    (prompt,) = engine.prefills
    assert len(prompt) > 1100

    engine = Recital([65])
    running = stream(engine, question="x" * 1100)

    def cancel() -> None:
        until(lambda: running._running is not None)  # it has been handed over
        running.cancel()

    engine.before("prefill", 0, cancel)
    _, answer = run(running)
    assert (answer.finish_reason, answer.token_ids) == ("cancelled", ())
    assert engine.calls == ["prefill"]
    assert engine.runs == []
    assert engine.sequences == {}


def test_cancelling_from_another_thread(stream: Any) -> None:
    engine = Recital([65])
    running = stream(engine, max_new_tokens=900_000)

    def cancel() -> None:
        until(lambda: len(engine.runs) > 100)
        running.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    _, answer = run(running)
    thread.join()
    assert answer.finish_reason == "cancelled"
