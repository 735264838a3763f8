"""Many calls at once, against what each of them gives by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from recorded_requests.bundles import Models
from recorded_requests.engine import ArithmeticEngine

PICTURES = tuple(
    np.random.default_rng(seed).integers(0, 255, (60 + 20 * seed, 90, 3), np.uint8) for seed in range(3)
)


class EngineFailedError(Exception):
    """What the engine raises now and then."""


@dataclass(frozen=True)
class Call:
    """A call by its kind, and what it is made with."""

    kind: str
    question: str
    arguments: dict[str, Any]

    def make(self, model: ivl.Model, leave: int | None = None) -> Any:
        """What came back; of a stream that is left after so many pieces, the ids that were read."""
        if self.kind == "chat":
            return model.chat(self.question, **self.arguments).token_ids
        if self.kind == "several":
            answers = model.chat(
                self.question, num_return_sequences=3, do_sample=True, seed=5, **self.arguments
            )
            return [answer.token_ids for answer in answers]
        if self.kind == "stream":
            with model.stream(self.question, **self.arguments) as stream:
                ids: tuple[int, ...] = ()
                for number, piece in enumerate(stream):
                    if number == leave:
                        return ids
                    ids += piece.token_ids
            assert stream.result is not None
            assert ids == stream.result.token_ids
            return ids
        if self.kind == "session":
            with model.session(system="") as session:
                asked = {name: value for name, value in self.arguments.items() if name != "system"}
                first = session.ask(self.question, **asked)
                branch = session.fork()
                texts = {name: value for name, value in asked.items() if name not in ("images", "max_tiles")}
                answers = [first, branch.ask("And?", **texts), session.ask("And?", **texts)]
                assert answers[1].token_ids == answers[2].token_ids
                return [answer.token_ids for answer in answers]
        if self.kind == "astream":
            return asyncio.run(model.achat(self.question, **self.arguments)).token_ids
        if self.kind == "encode":
            return model.encode(self.arguments["images"][0], max_tiles=4).features.tobytes()
        assert self.kind == "logits"
        return model.logits([ord(c) % 300 for c in self.question]).tobytes()


def call(draw: random.Random) -> Call:
    kind = draw.choice(
        ["chat", "chat", "several", "stream", "stream", "astream", "session", "encode", "logits"]
    )
    arguments: dict[str, Any] = {}
    if kind == "encode" or (kind != "logits" and draw.random() < 0.4):
        arguments["images"] = [draw.choice(PICTURES)]
    if kind not in ("encode", "logits"):
        arguments |= {"system": "", "max_new_tokens": draw.randint(1, 150), "priority": draw.randint(0, 2)}
        if "images" in arguments:
            arguments["max_tiles"] = draw.choice([1, 2])
        elif draw.random() < 0.3:
            arguments["choices"] = ["yes", "no", "nobody"]
        else:
            arguments["ignore_stop_tokens"] = draw.random() < 0.5
    return Call(kind, draw.choice(["a", "b c", "why?", "d" * 30]), arguments)


@pytest.fixture(scope="module", params=[False, True], ids=["anew", "reusing"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("many"), reuses=request.param)


@pytest.fixture
def patient(models: Models) -> Iterator[tuple[ivl.Model, ArithmeticEngine]]:
    """A cache of 512 tokens, in which two of the longest answers have no room beside each other."""
    model, engine = models.loaded("patient")
    yield model, engine
    engine.forget()
    if not models.reuses:
        assert engine.sequences == 0
        assert engine.free_tokens == engine.cache.tokens


@pytest.mark.parametrize("seed", range(6))
def test_random_programs(patient: tuple[ivl.Model, ArithmeticEngine], seed: int) -> None:
    model, engine = patient
    draw = random.Random(seed)
    programs = [[call(draw) for _ in range(6)] for _ in range(6)]
    expected = {id(one): one.make(model) for program in programs for one in program}
    fails = seed % 2 == 1
    dice = random.Random(seed)

    def fail_now_and_then(kind: str, before: int) -> None:
        if dice.random() < 0.003:
            raise EngineFailedError

    if fails:
        engine.watch = fail_now_and_then

    def run(program: list[Call], own: random.Random) -> int:
        answered = 0
        for one in program:
            leave = own.randint(0, 40) if own.random() < 0.3 else None
            try:
                found = one.make(model, leave)
            except EngineFailedError:
                assert fails
                continue
            whole = expected[id(one)]
            if one.kind == "stream" and leave is not None:
                assert found == whole[: len(found)]
            else:
                assert found == whole, one
            answered += 1
        return answered

    with ThreadPoolExecutor(len(programs)) as pool:
        runs = [
            pool.submit(run, program, random.Random(seed * 100 + i)) for i, program in enumerate(programs)
        ]
        answered = [one.result(120) for one in runs]
    assert sum(answered) > (10 if fails else 35)


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def tiny(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(tiny_bundle, engine=request.param, cache_tokens=1024, prefix_cache_tokens=0) as model:
        yield model


def test_answers_of_eight_threads_are_those_of_one(tiny: ivl.Model) -> None:
    photo = Image.effect_noise((90, 60), 80).convert("RGB")
    asks: list[Callable[[], Any]] = [
        lambda i=i: (
            tiny.chat(  # type: ignore[misc]
                f"What is number {i}?",
                [photo] if i % 3 == 0 else None,
                system="",
                max_new_tokens=40,
                do_sample=i % 2 == 0,
                seed=i,
            ).token_ids
        )
        for i in range(16)
    ]
    alone = [ask() for ask in asks]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda ask: ask(), asks)) == alone
    assert tiny._engine.free_tokens == 1024


def test_more_than_may_wait_are_refused_and_the_others_answered(tiny_bundle: Path) -> None:
    with ivl.load(tiny_bundle, cache_tokens=512, max_waiting=2) as model:
        long: dict[str, Any] = {"system": "", "ignore_stop_tokens": True, "max_new_tokens": 300}
        held = model._scheduler.reserve(500)
        with held, ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(model.chat, "x", **long) for _ in range(2)]
            until(lambda: model._scheduler.waiting == 2)
            with pytest.raises(ivl.BusyError, match="max_waiting"):
                model.chat("y", **long)
            held.__exit__()
            assert [len(one.result(60).token_ids) for one in waiting] == [300, 300]


def until(condition: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if condition():
            return
        sleep(0.001)
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many", True])
def test_max_waiting_is_a_number(tiny_bundle: Path, wrong: Any) -> None:
    with pytest.raises(ivl.PromptError, match="max_waiting must be an integer"):
        ivl.load(tiny_bundle, max_waiting=wrong)


@pytest.mark.parametrize("wrong", [1.5, "high", None, 2000])
def test_priority_is_a_number(tiny: ivl.Model, wrong: Any) -> None:
    with pytest.raises(ivl.PromptError, match="priority must be an integer"):
        tiny.chat("Hello", priority=wrong)
