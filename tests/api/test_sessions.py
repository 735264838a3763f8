"""Conversations that go on: nothing is computed twice, and the answers are those that are computed anew."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import internvl_rt as ivl
from plain_engine import Noise, model_of

SHORT: dict[str, Any] = {"max_new_tokens": 8, "ignore_stop_tokens": True}
SIDE = 56


def picture(seed: int, columns: int = 1) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, columns * SIDE, 3), np.uint8)


@pytest.fixture
def noise() -> Iterator[tuple[ivl.Model, Noise]]:
    """A model whose engine keeps every prompt that it is given; nothing is kept between them."""
    engine = Noise(4096)
    with model_of(engine) as model:
        yield model, engine


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def keeping(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(tiny_bundle, engine=request.param, cache_tokens=1024) as model:
        yield model


@pytest.fixture(scope="module")
def forgetful(tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(tiny_bundle, cache_tokens=1024, tile_cache_bytes=0, prefix_cache_tokens=0) as model:
        yield model


def conversation(session: ivl.Session) -> list[ivl.Answer]:
    return [
        session.ask("What is here?", picture(1, 2), **SHORT),
        session.ask("And where?", **SHORT),
        session.ask("And now?", [picture(2)], max_tiles=1, **SHORT),
        session.ask("Which of them?", seed=3, do_sample=True, **SHORT),
        session.ask("Is it red?", choices=["yes", "no"]),
    ]


def test_a_question_computes_what_it_adds(keeping: ivl.Model) -> None:
    answers = conversation(keeping.session())
    for before, after in pairwise(answers):
        known = before.usage.prompt_tokens + before.usage.new_tokens - 1
        assert known - 1 <= after.usage.reused_tokens <= known + 1
    assert [answer.usage.cached_tiles - answer.usage.tiles for answer in answers[3:]] == [0, 0]
    assert answers[1].timings.vit == answers[3].timings.vit == 0


def test_answers_are_those_of_a_model_that_keeps_nothing(tiny_bundle: Path, forgetful: ivl.Model) -> None:
    with ivl.load(tiny_bundle, cache_tokens=1024) as model:
        for _ in range(2):
            kept, anew = conversation(model.session()), conversation(forgetful.session())
            assert [answer.token_ids for answer in kept] == [answer.token_ids for answer in anew]
            assert [answer.text for answer in kept] == [answer.text for answer in anew]
            assert all(answer.usage.reused_tokens for answer in kept[1:])
        assert not any(answer.usage.reused_tokens + answer.usage.cached_tiles for answer in anew)


def test_frequencies_that_change_with_the_length_are_those_of_the_whole_prompt(
    tiny_bundle: Path, forgetful: ivl.Model
) -> None:
    # The tiny model stretches its rope beyond 512 tokens.
    long: dict[str, Any] = {"max_new_tokens": 150, "ignore_stop_tokens": True}
    with (
        ivl.load(tiny_bundle, cache_tokens=1024, max_context=1024) as model,
        ivl.load(tiny_bundle, cache_tokens=1024, max_context=1024, prefix_cache_tokens=0) as anew,
    ):
        sessions = model.session(), anew.session()
        answers = [[session.ask(f"Question {i}", **long) for i in range(4)] for session in sessions]
    assert answers[0][-1].usage.prompt_tokens > 512
    assert [a.token_ids for a in answers[0]] == [a.token_ids for a in answers[1]]
    assert answers[0][1].usage.reused_tokens > 150
    assert answers[0][-1].usage.reused_tokens == 0


def test_the_prompt_of_a_turn_has_the_tokens_that_were_generated(noise: tuple[ivl.Model, Noise]) -> None:
    model, engine = noise
    session = model.session(system="Be short.")
    first = session.ask("One?", picture(1), **SHORT)
    second = session.ask("Two?", **SHORT)
    session.ask("Three?", **SHORT)
    one, two, three = engine.prefills
    assert two[: len(one) + len(first.token_ids)] == one + list(first.token_ids)
    assert three[: len(two) + len(second.token_ids)] == two + list(second.token_ids)
    # What stands between is what the history of texts has there.
    texts = model.render("Three?", history=[("One?", "A"), ("Two?", "B")], system="Be short.")
    alone = model.render("Three?", system="Be short.")
    question = list(texts.input_ids)[-30:]
    assert three[-len(question) :][-10:] == question[-10:]
    assert one[:5] == list(alone.input_ids)[:5]


def test_a_later_picture_leaves_the_tiles_of_an_earlier_one(noise: tuple[ivl.Model, Noise]) -> None:
    model, _ = noise
    session = model.session()
    first = session.ask("One?", picture(1, 4), **SHORT)
    second = session.ask("Two?", picture(2, 3), **SHORT)
    alone = model.chat("Two?", picture(2, 3), **SHORT)
    assert second.usage.tiles == first.usage.tiles + alone.usage.tiles
    assert second.image_sizes == (*first.image_sizes, *alone.image_sizes)


def test_a_picture_is_what_it_was_when_it_was_asked_about(noise: tuple[ivl.Model, Noise]) -> None:
    model, engine = noise
    session = model.session()
    buffer = picture(1)
    session.ask("One?", buffer, **SHORT)
    buffer[:] = 0  # as a camera does
    session.ask("Two?", **SHORT)
    before, after = (call for call in engine.encoded)
    np.testing.assert_array_equal(before, after)


def test_old_turns_slide_out_and_the_newest_picture_last() -> None:
    engine = Noise(400)
    with model_of(engine, context_tokens=400) as model:
        session = model.session(system="SYSTEM")
        tokens = engine.manifest.tokens_per_tile
        session.ask("A first question.", picture(1), max_tiles=1, **SHORT)
        session.ask("The one with the picture.", picture(2), max_tiles=1, **SHORT)
        dropped, kept = 0, session.turns
        for i in range(60):
            answer = session.ask(f"Question number {i:02}.", **SHORT)
            usage = answer.usage
            assert usage.prompt_tokens + SHORT["max_new_tokens"] <= 400
            dropped += usage.dropped_turns
            kept += 1 - usage.dropped_turns
            assert session.turns == kept
            assert usage.image_tokens in (2 * tokens, tokens) or i > 20
            if usage.dropped_turns:
                assert usage.prompt_tokens <= 300
                assert usage.image_tokens == tokens, "the newest picture stays"
        assert dropped > 20
        system = list(model.render("x", system="SYSTEM").input_ids)[:6]
        assert all(prompt[:6] == system for prompt in engine.prefills)
        with pytest.raises(ivl.PromptError, match=r"prompt has .* tokens"):
            session.ask("far too long " * 200)
        assert session.turns == kept
        session.ask("It goes on.", **SHORT)


def test_branches_go_on_independently(keeping: ivl.Model) -> None:
    session = keeping.session()
    session.ask("What is here?", picture(1), **SHORT)
    branch = session.fork()
    assert branch.turns == 1
    same, other = session.ask("And then?", **SHORT), branch.ask("And then?", **SHORT)
    assert same.token_ids == other.token_ids
    assert other.usage.reused_tokens > other.usage.image_tokens
    session.ask("More?", **SHORT)
    assert (session.turns, branch.turns) == (3, 2)
    assert branch.ask("More?", picture(2), **SHORT).usage.tiles == 1 + other.usage.tiles


def test_one_question_at_a_time(noise: tuple[ivl.Model, Noise]) -> None:
    model, engine = noise
    session = model.session()
    stream = session.stream("One?", **SHORT)
    next(stream)
    for call in (lambda: session.ask("Two?"), session.fork):
        with pytest.raises(ivl.PromptError, match="answering another question"):
            call()
    stream.close()
    assert session.turns == 0, "what was not read to its end is not part of it"
    stream = session.stream("One?", max_new_tokens=1000, ignore_stop_tokens=True)
    next(stream)
    stream.cancel()
    for _ in stream:
        pass
    assert stream.result is not None
    assert stream.result.finish_reason == "cancelled"
    assert session.turns == 1
    session.ask("Two?", **SHORT)
    assert (
        list(stream.result.token_ids)
        == engine.prefills[-1][
            len(engine.prefills[-2]) : len(engine.prefills[-2]) + len(stream.result.token_ids)
        ]
    )
    forgotten = session.stream("Three?", **SHORT)
    next(forgotten)
    del forgotten
    gc.collect()
    session.ask("Three?", **SHORT)
    assert session.turns == 3


def test_a_question_that_fails_is_not_part_of_it(noise: tuple[ivl.Model, Noise]) -> None:
    model, engine = noise
    session = model.session()
    session.ask("One?", **SHORT)

    def fail() -> None:
        raise RuntimeError("the engine failed")

    engine.before("decode", len(engine.runs) + 2, fail)
    with pytest.raises(RuntimeError, match="the engine failed"):
        session.ask("Two?", **SHORT)
    with pytest.raises(ivl.ImageError):
        session.ask("Two?", images=[b"no picture"])
    assert session.turns == 1
    session.ask("Two?", **SHORT)
    assert session.turns == 2


def test_closing_ends_the_answer(noise: tuple[ivl.Model, Noise]) -> None:
    model, engine = noise
    with model.session() as session:
        with engine.at("decode", 2) as hold:
            answers: list[ivl.Answer] = []
            thread = threading.Thread(
                target=lambda: answers.append(
                    session.ask("One?", max_new_tokens=1000, ignore_stop_tokens=True)
                )
            )
            thread.start()
            hold.wait()
            session.close()
        thread.join()
    assert answers[0].finish_reason == "cancelled"
    assert session.turns == 0
    for call in (lambda: session.ask("Two?"), session.fork):
        with pytest.raises(ivl.PromptError, match="closed"):
            call()
    session.close()


@pytest.mark.parametrize(
    ("question", "arguments", "message"),
    [
        ("Hm?", {"history": [("a", "b")]}, "history"),
        ("Hm?", {"system": "x"}, "system"),
        (
            [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
            {},
            "one question at a time",
        ),
        ("<image>", {}, "1 image place"),
        ("Hm?", {"cache_salt": 3}, "cache_salt"),
    ],
)
def test_what_a_session_is_not_asked(
    noise: tuple[ivl.Model, Noise], question: Any, arguments: dict[str, Any], message: str
) -> None:
    session = noise[0].session()
    with pytest.raises(ivl.PromptError, match=message):
        session.ask(question, **arguments)
    session.ask("Fine?", **SHORT)


def test_a_session_needs_a_text_as_system_message(noise: tuple[ivl.Model, Noise]) -> None:
    with pytest.raises(ivl.PromptError, match="system"):
        noise[0].session(system=3)  # type: ignore[arg-type]


def test_asyncio(noise: tuple[ivl.Model, Noise]) -> None:
    model, _ = noise

    async def talk() -> list[ivl.Answer]:
        session = model.session()
        first = await session.aask("One?", **SHORT)
        task = asyncio.create_task(session.aask("Two?", max_new_tokens=1000, ignore_stop_tokens=True))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return [first, await session.aask("Three?", **SHORT)]

    plain = model.session()
    wanted = [plain.ask("One?", **SHORT), plain.ask("Three?", **SHORT)]
    assert [a.token_ids for a in asyncio.run(talk())] == [a.token_ids for a in wanted]


def test_a_call_reuses_what_another_has_computed(keeping: ivl.Model) -> None:
    for salt in ("me", "you"):
        first = keeping.chat("A question", picture(5), cache_salt=salt, **SHORT)
        again = keeping.chat("A question", picture(5), cache_salt=salt, **SHORT)
        assert again.token_ids == first.token_ids
        assert first.usage.reused_tokens == first.usage.cached_tiles == 0
        assert again.usage.reused_tokens == again.usage.prompt_tokens - 1
        assert again.usage.cached_tiles == again.usage.tiles
    other = keeping.chat("A question", picture(6), **SHORT)
    assert other.usage.reused_tokens < other.usage.prompt_tokens - other.usage.image_tokens


def test_features_that_are_given_with_ids_are_known_again(keeping: ivl.Model) -> None:
    encoded = keeping.encode(picture(8))
    ids = keeping.render("About features", picture(8)).input_ids
    first, again = (keeping.generate(ids, encoded, **SHORT) for _ in range(2))
    assert again.usage.reused_tokens == len(ids) - 1
    assert again.token_ids == first.token_ids
    other = keeping.generate(ids, keeping.encode(picture(9)), **SHORT)
    assert other.usage.reused_tokens < len(ids) - first.usage.image_tokens


def test_features_are_known_again(keeping: ivl.Model) -> None:
    encoded = keeping.encode(picture(7))
    first = keeping.chat("About features", encoded, **SHORT)
    again = keeping.chat("About features", encoded, **SHORT)
    assert again.usage.reused_tokens == first.usage.prompt_tokens - 1
    assert again.token_ids == first.token_ids == keeping.chat("About features", picture(7), **SHORT).token_ids


def test_what_is_kept_gives_way(tiny_bundle: Path) -> None:
    with (
        ivl.load(tiny_bundle, cache_tokens=512) as model,
        ivl.load(tiny_bundle, cache_tokens=512, prefix_cache_tokens=0) as anew,
    ):
        for i in range(12):
            question = f"{i} " * (5 * i + 1)
            tokens = 400 - 20 * i
            kept = model.chat(question, max_new_tokens=tokens, ignore_stop_tokens=True)
            wanted = anew.chat(question, max_new_tokens=tokens, ignore_stop_tokens=True)
            assert kept.token_ids == wanted.token_ids


@pytest.mark.parametrize("tokens", [-1, 1.5, "all", True])
def test_bad_sizes(tiny_bundle: Path, tokens: Any) -> None:
    with pytest.raises(ivl.PromptError, match="prefix_cache_tokens"):
        ivl.load(tiny_bundle, prefix_cache_tokens=tokens)
