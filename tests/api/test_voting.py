"""Votes, best-of-n, and the critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from bundle.tiny import tiny_tokenizer, write_tiny
from internvl_rt.answers.critic import SYSTEM_MESSAGE, _sign, split_steps
from internvl_rt.answers.reasoning import OPEN_PROMPT, final_answer, with_reasoning
from internvl_rt.answers.results import Answer, Timings, Usage
from internvl_rt.answers.voting import count_votes, pick_best
from internvl_rt.errors import ClosedError, PromptError
from internvl_rt.export.tokenizers import synthetic_tokenizer
from internvl_rt.prompts.tokenizer import PromptTokenizer
from waiting import until
from watched_engine import Calls, Gate, WatchedEngine, load_watched


def sample(text: str, total: float = 1.0, per_token: float = 0.0) -> Answer:
    return Answer(text, (), "stop", Timings(vit=5.0, total=total, per_token=per_token), Usage(), text)


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def roomy(request: pytest.FixtureRequest, roomy_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(roomy_bundle, engine=request.param, cache_tokens=8192, prefix_cache_tokens=0) as model:
        yield model
        assert model._engine.free_tokens == model.cache_tokens


@pytest.fixture(scope="module")
def watched(roomy: ivl.Model, roomy_bundle: Path) -> Iterator[tuple[ivl.Model, WatchedEngine]]:
    """The same model, watched."""
    model, engine = load_watched(roomy_bundle, tile_cache_bytes=0, engine=roomy.engine, cache_tokens=8192)
    with model:
        yield model, engine
        assert engine.free_tokens == model.cache_tokens


def test_votes_are_counted() -> None:
    texts = ["\\boxed{2}", "Answer: 3", "\\boxed{2.}", "no idea", "Answer: Red", "final answer: red"]
    vote = count_votes([sample(text, total=i, per_token=i % 2) for i, text in enumerate(texts)], final_answer)
    assert vote.answer == "2"
    assert vote.counts == {"2": 2, "Red": 2, "3": 1}
    assert list(vote.counts) == ["2", "Red", "3"], "most first, and of equals the one that came first"
    assert vote.answers == ("2", "3", "2", None, "Red", "red")
    assert vote.share == pytest.approx(2 / 6)
    assert (vote.timings.vit, vote.timings.total, vote.timings.per_token) == (5.0, 5.0, 1.0)


def test_a_vote_without_answers() -> None:
    vote = count_votes([sample("hm"), sample("")], final_answer)
    assert (vote.answer, vote.counts, vote.share) == (None, {}, 0.0)


def test_the_best_of_several() -> None:
    samples = [sample("a"), sample("b"), sample("c")]
    best = pick_best(samples, [-math.inf, 2, 2.0])
    assert (best.answer, best.index, best.scores) == (samples[1], 1, (-math.inf, 2.0, 2.0))
    for score in (math.nan, None, "x"):
        with pytest.raises(PromptError, match="the scoring function gave"):
            pick_best(samples, [1.0, score, 2.0])  # type: ignore[list-item]


def test_a_vote_shares_picture_and_prompt(
    roomy: ivl.Model, watched: tuple[ivl.Model, WatchedEngine], photo: Image.Image
) -> None:
    (model, engine), calls = watched, Calls()
    with engine.around(**calls.counting):
        vote = model.vote("How many?", [photo], n=3, max_tiles=1, seed=4, max_new_tokens=12)
    prompt = roomy.render(f"How many?\n{OPEN_PROMPT}", [photo], max_tiles=1).input_ids
    assert calls.encoded == [1]
    assert calls.prefilled == [len(prompt)] == [vote.samples[0].usage.prompt_tokens]
    by_hand = roomy.chat(
        f"How many?\n{OPEN_PROMPT}",
        [photo],
        max_tiles=1,
        num_return_sequences=3,
        do_sample=True,
        temperature=0.6,
        top_p=0.95,
        seed=4,
        max_new_tokens=12,
    )
    assert [a.token_ids for a in vote.samples] == [a.token_ids for a in by_hand]
    assert vote.answers == tuple(final_answer(a.text) for a in by_hand)


def test_a_vote_among_choices(roomy: ivl.Model) -> None:
    pytest.importorskip("llguidance")
    vote = roomy.vote("Which?", n=9, choices=["red", "green", "blue"], temperature=30.0, top_p=1.0, seed=2)
    assert set(vote.counts) <= {"red", "green", "blue"}
    assert sum(vote.counts.values()) == 9
    assert vote.counts[str(vote.answer)] == max(vote.counts.values())
    prompt = roomy.render("Which?").input_ids
    assert vote.samples[0].usage.prompt_tokens == len(prompt), "a form leaves no room for reasoning"


@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"do_sample": False}], ids=str)
def test_candidates_that_would_all_be_the_same_are_refused(roomy: ivl.Model, greedy: dict[str, Any]) -> None:
    with pytest.raises(PromptError, match="n=3 answers are all the same without sampling"):
        roomy.vote("Which?", n=3, **greedy)
    with pytest.raises(PromptError, match="n=2 answers are all the same without sampling"):
        roomy.best_of("Which?", n=2, score=lambda answer: 1.0, **greedy)
    (sample,) = roomy.vote("Which?", n=1, reasoning=None, max_new_tokens=4, **greedy).samples
    assert sample.token_ids == roomy.chat("Which?", max_new_tokens=4).token_ids


def test_a_vote_with_a_way_of_its_own_to_find_the_answer(roomy: ivl.Model) -> None:
    vote = roomy.vote(
        "Hi", n=3, reasoning=None, extract=lambda text: "same", system="", max_new_tokens=2, seed=1
    )
    assert (vote.answer, vote.counts) == ("same", {"same": 3})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"n": 0}, "n must be an integer from 1"),
        ({"n": "8"}, "n must be an integer"),
        ({"reasoning": "deep"}, "reasoning must be one of"),
        ({"reasoning": "open", "choices": ["a"]}, "leaves no room for reasoning='open'"),
        ({"do_sample": False}, "Set do_sample=True"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_votes_that_do_not_fit(roomy: ivl.Model, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(PromptError, match=says):
        roomy.vote("Hi", **arguments)


def test_best_of_with_a_function(roomy: ivl.Model, photo: Image.Image) -> None:
    asked: dict[str, Any] = {"max_tiles": 1, "system": "", "max_new_tokens": 8, "seed": 3, "temperature": 5.0}
    best = roomy.best_of("What?", [photo], n=4, reasoning=None, score=lambda a: -len(a.text), **asked)
    assert best.scores == tuple(-len(a.text) for a in best.samples)
    assert best.answer is best.samples[best.index]
    assert len({a.token_ids for a in best.samples}) > 1
    likeliest = roomy.chat("What?", [photo], max_tiles=1, system="", max_new_tokens=8)
    assert best.samples[0].token_ids == likeliest.token_ids, "the first candidate is the likeliest answer"
    again = roomy.best_of("What?", [photo], n=2, reasoning=None, score=lambda a: 0, **asked)
    assert again.samples[1].token_ids == best.samples[1].token_ids
    assert (again.index, again.judgements) == (0, ())


def test_a_scoring_function_that_fails_is_not_hidden(roomy: ivl.Model) -> None:
    def fail(answer: Answer) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        roomy.best_of("Hi", n=2, reasoning=None, score=fail, max_new_tokens=2)
    with pytest.raises(PromptError, match="a function of an Answer or a Model"):
        roomy.best_of("Hi", n=2, score=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("steps", "joined"), [(16, 1), (17, 2), (31, 2), (33, 3), (40, 3)])
def test_so_many_neighbours_are_joined_that_16_steps_are_left(steps: int, joined: int) -> None:
    written = [f"step {i}" for i in range(steps)]
    found = split_steps("\n\n".join(written))
    assert [step.count("step") for step in found[:-1]] == [joined] * (len(found) - 1)
    assert len(found) == -(-steps // joined) <= 16
    assert "\n\n".join(found) == "\n\n".join(written)


def test_steps_are_what_stands_between_two_line_ends() -> None:
    """As the training data was split: nothing is stripped, and three line ends leave one to the next step."""
    assert split_steps("a\nb\n\nc\n \n\n d") == ["a\nb", "c\n ", " d"]
    assert split_steps("a\n\n\nb") == ["a", "\nb"]
    assert split_steps(" \n\n ") == []


@pytest.mark.parametrize("family", ["internlm2", "qwen2_5", "phi3"])
def test_plus_and_minus_are_tokens_of_every_family(family: str) -> None:
    tokenizer = PromptTokenizer(synthetic_tokenizer(family, 1000).to_str())
    for sign in "+-":
        assert tokenizer.decode([_sign(tokenizer, sign)]) == sign


def critic_text(question: str, steps: Sequence[str]) -> str:
    """VisualPRM's conversation written out, with + in all places, in the template of InternVL 2.5."""
    text = f"<|im_start|>system\n{SYSTEM_MESSAGE}<|im_end|>\n"
    text += f"<|im_start|>user\n### Question:\n{question}\n\n### Solution Process:\n{steps[0]}<|im_end|>\n"
    for step in steps[1:]:
        text += f"<|im_start|>assistant\n+<|im_end|>\n<|im_start|>user\n{step}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"


def expected_scores(model: ivl.Model, question: str, steps: Sequence[str], images: list[Any]) -> list[float]:
    """One forward pass over each prefix by itself."""
    plus, minus = (model._tokenizer.token_id(sign) for sign in "+-")
    features = [model.encode(image, max_tiles=1) for image in images]
    place = f"<img>{'<IMG_CONTEXT>' * model.manifest.tokens_per_tile}</img>"
    scores = []
    for i in range(len(steps)):
        text = critic_text(question.replace("<image>", place), steps[: i + 1])
        encoded = tiny_tokenizer().encode(text, add_special_tokens=False).ids
        last = model.logits(encoded, features or None)[-1].astype(np.float64)
        scores.append(float(np.exp(last[plus]) / (np.exp(last[plus]) + np.exp(last[minus]))))
    return scores


def test_a_critic_reads_the_conversation_of_its_training(roomy: ivl.Model, photo: Image.Image) -> None:
    solutions = ["One.\n\nTwo <image> and\nthree.\n\nAnswer: 3", "One.\n\nAnswer: 4", "Four."]
    judged = roomy.judge("How many?", solutions, [photo], max_tiles=1)
    for judgement, solution in zip(judged, solutions, strict=True):
        steps = solution.split("\n\n")
        assert judgement.steps == tuple(steps)
        plain = [step.replace("<image>", "<\u200bimage>") for step in steps]
        if plain == steps:
            expected = expected_scores(roomy, "<image>\nHow many?", steps, [photo])
            np.testing.assert_allclose(judgement.step_scores, expected, rtol=2e-3)
        assert judgement.score == pytest.approx(sum(judgement.step_scores) / len(steps))
    # What a solution scores does not depend on the others.
    alone = roomy.judge("How many?", solutions[1:2], [photo], max_tiles=1)
    np.testing.assert_allclose(alone[0].step_scores, judged[1].step_scores, rtol=1e-4)


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_steps_that_cross_the_trained_length(tmp_path: Path, engine: str) -> None:
    """Each prompt has the rotary frequencies of its own length, though it begins with those before it."""
    bundle = write_tiny(tmp_path / "bundle", graphs=True, positions=1100)
    steps = ["One and two are three.", "Three and four are seven.", "Seven and one are eight.", "Answer: 8"]
    model, watched = load_watched(bundle, engine=engine, max_context=2000)
    lengths: list[int] = []

    def prefill(call: Callable[..., Any], sequence: int, rows: Any, **named: Any) -> Any:
        lengths.append(watched.length(sequence) + len(rows))
        return call(sequence, rows, **named)

    with model:
        with watched.around(prefill=prefill):
            (judged,) = model.judge("How many?", ["\n\n".join(steps)])
        assert min(lengths) < 1100 < max(lengths)
        expected = expected_scores(model, "How many?", steps, [])
    np.testing.assert_allclose(judged.step_scores, expected, rtol=2e-3)


def test_a_critic_without_pictures_or_steps(roomy: ivl.Model) -> None:
    first, empty = roomy.judge("2 + 2?", ["4", " \n"])
    np.testing.assert_allclose(first.step_scores, expected_scores(roomy, "2 + 2?", ["4"], []), rtol=2e-3)
    assert (empty.score, empty.steps, empty.step_scores) == (0.0, (), ())
    assert roomy.judge("2 + 2?", []) == []
    assert roomy.judge("2 + 2?", [""])[0].score == 0.0


def test_candidates_share_what_the_critic_reads_first(
    watched: tuple[ivl.Model, WatchedEngine], photo: Image.Image
) -> None:
    (model, engine), calls = watched, Calls()
    with engine.around(**calls.counting):
        model.judge("How many?", ["aa\n\nbb", "cc\n\ndd", "ee"], [photo], max_tiles=1)
    assert calls.encoded == [1]
    assert sum(calls.prefilled) < 1.3 * max(*calls.prefilled, 1000), "the system message alone is 945 tokens"


def test_best_of_with_a_critic(roomy: ivl.Model, photo: Image.Image) -> None:
    asked: dict[str, Any] = {
        "max_tiles": 1,
        "max_new_tokens": 10,
        "seed": 3,
        "temperature": 5.0,
        "system": "",
    }
    best = roomy.best_of("What?", [photo], n=3, reasoning=None, score=roomy, **asked)
    judged = roomy.judge("What?", [a.text for a in best.samples], [photo], max_tiles=1)
    np.testing.assert_allclose(best.scores, [judgement.score for judgement in judged], rtol=1e-4)
    assert best.scores[best.index] == max(best.scores)
    assert len(best.judgements) == 3

    reasoned = roomy.best_of("Sum?", n=2, reasoning="open", score=roomy, seed=1, max_new_tokens=4)
    prompt = with_reasoning("Sum?", "open")
    assert isinstance(prompt, str)
    read = roomy.judge(prompt, [a.text for a in reasoned.samples])
    np.testing.assert_allclose(reasoned.scores, [judgement.score for judgement in read], rtol=1e-4)
    bare = roomy.judge("Sum?", [a.text for a in reasoned.samples])
    assert abs(read[0].score - bare[0].score) > 1e-3, "the prompt makes a difference"

    frames = [photo, photo.rotate(180)]
    about_video = roomy.best_of(
        "What?", video=iter(frames), num_frames=2, n=2, reasoning=None, score=roomy, seed=1, max_new_tokens=4
    )
    assert len(about_video.answer.image_sizes) == 2
    with pytest.raises(PromptError, match="without history"):
        roomy.best_of("What?", history=[("a", "b")], score=roomy)


def test_a_solution_that_does_not_fit(roomy: ivl.Model) -> None:
    free = roomy._engine.free_tokens
    with pytest.raises(PromptError, match="context of 4096"):
        roomy.judge("How many?", ["word " * 2000])
    with pytest.raises(PromptError, match="solutions are a list"):
        roomy.judge("How many?", "4")
    assert roomy._engine.free_tokens == free


def test_an_error_while_judging_frees_the_cache(watched: tuple[ivl.Model, WatchedEngine]) -> None:
    (model, engine), calls = watched, iter(range(99))
    free = engine.free_tokens

    def failing(prefill: Callable[..., Any], *given: Any, **named: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return prefill(*given, **named)

    solutions = ["a\n\nb\n\nc", "d\n\ne\n\nf"]
    with engine.around(prefill=failing), pytest.raises(KeyboardInterrupt):
        model.judge("How many?", solutions)
    assert engine.free_tokens == free
    with model._scheduler.reserve(model.cache_tokens):  # its room was given back, too
        pass


def test_judging_ends_where_the_model_is_closed(roomy_bundle: Path) -> None:
    model, engine = load_watched(roomy_bundle, tile_cache_bytes=0, cache_tokens=4096)
    with Gate() as gate, engine.around(prefill=gate), ThreadPoolExecutor(2) as pool:
        judging = pool.submit(model.judge, "How many?", ["a\n\nb", "c"])
        gate.wait_reached()
        closing = pool.submit(model.close)
        until(lambda: is_closed(model))
        assert not closing.done(), "the engine is used"
        gate.open()
        with pytest.raises(ClosedError):
            judging.result(30)
        closing.result(30)


def is_closed(model: ivl.Model) -> bool:
    try:
        model._scheduler.check_open()
    except ClosedError:
        return True
    return False
