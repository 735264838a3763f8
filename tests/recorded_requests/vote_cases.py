"""Votes, the best of several, and critics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recorded_requests.bundles import says
from recorded_requests.pictures import pattern
from recorded_requests.stage import Request, call, encoded, model_of

PHOTO = pattern(150, 90)
ASKED: dict[str, Any] = {"question": "How many?", "system": "", "seed": 3, "max_new_tokens": 40}
TOLD = (
    says("One and one.\nAnswer: \\boxed{2}"),
    says("So, Answer: 2."),
    says("It is\n**Answer:** three", logit=-0.5),
    says("Final answer: (B) red"),
    says("答案是：红色"),
    says("no idea", logit=-1.0),
)
CHOSEN = (says("The answer is \\boxed{\\text{B}}"), says("Answer: (B) red"), says("Answer: A. blue"))
STEPS = ("One.\n\nTwo and\nthree.\n\nAnswer: 3", "One.\n\nAnswer: 4", "Four.", " \n\n ", "")


def votes() -> Iterator[Request]:
    for n in (1, 2, 3, 8):
        yield Request(f"bytes: {n} votes", "bytes", call("vote", n=n, **ASKED), TOLD)
    for seed in (1, 2):
        yield Request(f"bytes: seed {seed}", "bytes", call("vote", n=6, **{**ASKED, "seed": seed}), TOLD)
    for reasoning, told in (("choice", CHOSEN), ("mpo", TOLD), (None, TOLD), ("open", TOLD), ("auto", TOLD)):
        run = call("vote", n=5, reasoning=reasoning, **ASKED)
        yield Request(f"bytes: reasoning {reasoning}", "bytes", run, told)
    for model in ("phi3", "internlm2"):
        run = call("vote", n=4, **ASKED)
        yield Request(f"{model}: votes", model, run, TOLD)
    run = call("vote", images=[PHOTO], max_tiles=2, n=3, **ASKED)
    yield Request("bytes: about a picture", "bytes", run, TOLD)
    run = call("vote", n=3, **ASKED)
    yield Request("bytes: noise", "bytes", run)
    run = call("vote", n=4, extract=lambda text: text[:2], **ASKED)
    yield Request("bytes: a way of its own", "bytes", run, TOLD)
    run = call("vote", n=4, extract=lambda text: None, **ASKED)
    yield Request("bytes: a way that finds nothing", "bytes", run, TOLD)
    message = [
        {"role": "user", "content": [{"type": "image", "image": PHOTO}, {"type": "text", "text": "Which? "}]}
    ]
    run = call("vote", n=2, max_tiles=1, **{**ASKED, "question": message})
    yield Request("bytes: a message", "bytes", run, TOLD)
    run = call("vote", n=2, history=[("a", "b")], temperature=2.0, top_p=1.0, **ASKED)
    yield Request("bytes: settings of its own", "bytes", run, TOLD)
    run = call("vote", n=4, choices=["red", "green"], temperature=9.0, **ASKED)
    yield Request("bytes: among choices", "bytes", run, needs="llguidance")
    for name, arguments in (
        ("n 0", {"n": 0}),
        ("n '8'", {"n": "8"}),
        ("n 257", {"n": 257}),
        ("reasoning", {"reasoning": "deep"}),
        ("reasoning and choices", {"reasoning": "open", "choices": ["a"]}),
        ("greedy", {"n": 3, "do_sample": False}),
        ("temperature 0", {"n": 3, "temperature": 0}),
        ("extract", {"n": 2, "extract": 3}),
        ("what extract gives", {"n": 2, "extract": lambda text: 3}),
    ):
        yield Request(f"bytes: {name}", "bytes", call("vote", **{**ASKED, **arguments}), TOLD)
    run = call("vote", n=1, do_sample=False, **ASKED)
    yield Request("bytes: one likeliest", "bytes", run, TOLD)


def best_of() -> Iterator[Request]:
    scores: dict[str, Any] = {
        "the longest": lambda answer: len(answer.token_ids),
        "the shortest": lambda answer: -len(answer.text),
        "the first of equals": lambda answer: 1,
        "minus infinity": lambda answer: float("-inf"),
    }
    for name, score in scores.items():
        run = call("best_of", n=4, score=score, **ASKED)
        yield Request(f"bytes: {name}", "bytes", run, TOLD)
    run = call("best_of", n=3, score=len_of, reasoning=None, images=[PHOTO], max_tiles=1, **ASKED)
    yield Request("bytes: about a picture", "bytes", run)
    run = call("best_of", n=1, score=len_of, **ASKED)
    yield Request("bytes: one", "bytes", run, TOLD)
    run = call("best_of", n=3, score=model_of("critic"), reasoning="choice", **ASKED)
    yield Request("bytes: a critic", "bytes", run, CHOSEN)
    frames = [pattern(56, 56, seed) for seed in range(5)]
    run = call("best_of", n=2, score=model_of("critic"), video=frames, num_frames=2, **ASKED)
    yield Request("bytes: a critic of a video", "bytes", run, TOLD)
    run = call("best_of", n=2, score=len_of, video=frames, **ASKED)
    yield Request("bytes: a video", "bytes", run, TOLD)
    for name, arguments in (
        ("a score that is none", {"n": 2, "score": lambda answer: "x"}),
        ("a score that is no number", {"n": 2, "score": lambda answer: float("nan")}),
        ("no function", {"n": 2, "score": 3}),
        ("a critic and history", {"n": 2, "score": model_of("critic"), "history": [("a", "b")]}),
        ("greedy", {"n": 2, "score": len_of, "do_sample": False}),
    ):
        yield Request(f"bytes: {name}", "bytes", call("best_of", **{**ASKED, **arguments}), TOLD)


def len_of(answer: Any) -> int:
    return len(answer.text)


def judge() -> Iterator[Request]:
    for name, solutions, arguments in (
        ("solutions", STEPS, {}),
        ("one", STEPS[:1], {}),
        ("none", [], {}),
        ("an empty one", [""], {}),
        ("many steps", ["\n\n".join(f"step {i}" for i in range(40))], {}),
        ("about a picture", STEPS[:2], {"images": [PHOTO], "max_tiles": 2}),
        ("about pictures", STEPS[:2], {"images": [PHOTO, pattern(60, 50)], "detail": "low"}),
        (
            "about a video",
            STEPS[:2],
            {"video": [pattern(56, 56, seed) for seed in range(5)], "num_frames": 2},
        ),
        ("about features", STEPS[:2], {"images": [encoded(PHOTO, max_tiles=1)]}),
        ("typed marks", ["One <image>\n\n<|im_end|>"], {}),
    ):
        run = call("judge", "How many?", list(solutions), **arguments)
        yield Request(f"critic: {name}", "critic", run)
    for name, solutions in (("a text", "4"), ("none in a list", [None]), ("a number", 3)):
        yield Request(f"critic: {name} as solutions", "critic", call("judge", "2 + 2?", solutions))
    yield Request("critic: no question", "critic", call("judge", 3, ["4"]))
