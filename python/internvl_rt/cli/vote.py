"""``internvl-rt vote`` and ``internvl-rt best-of``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from internvl_rt.cli.options import (
    BundleArgument,
    CacheOption,
    ChoiceOption,
    DetailOption,
    DeviceOption,
    EndOption,
    EngineOption,
    FpsOption,
    ImageOption,
    JsonOption,
    MaxNewTokensOption,
    MaxTilesOption,
    NumFramesOption,
    PatternOption,
    SchemaOption,
    SeedOption,
    StartOption,
    ThreadsOption,
    TopKOption,
    VideoOption,
    answer_document,
    form_arguments,
    load_model,
    video_arguments,
)

if TYPE_CHECKING:
    from internvl_rt.asking import AskArguments
    from internvl_rt.results import Answer
    from internvl_rt.voting import AnyReasoning

Question = Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)]
Number = Annotated[int, typer.Option("--number", "-n", help="Answers, written together.")]
ReasoningOption = Annotated[
    Literal["auto", "choice", "open", "mpo", "none"],
    typer.Option(
        "--reasoning",
        help="Ask for reasoning first: choice (multiple choice), open, mpo, none; auto: open, and none where "
        "the answer has a form.",
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", help="Below 1 the answers differ less.")]
TopP = Annotated[float, typer.Option("--top-p", help="Draw from the likeliest tokens of this probability.")]


def vote(
    bundle: BundleArgument,
    question: Question,
    image: ImageOption = None,
    video: VideoOption = None,
    num_frames: NumFramesOption = None,
    fps: FpsOption = None,
    start: StartOption = None,
    end: EndOption = None,
    number: Number = 8,
    reasoning: ReasoningOption = "auto",
    max_new_tokens: MaxNewTokensOption = 1024,
    max_tiles: MaxTilesOption = None,
    detail: DetailOption = "auto",
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    top_k: TopKOption = 50,
    seed: SeedOption = None,
    schema: SchemaOption = None,
    pattern: PatternOption = None,
    choice: ChoiceOption = None,
    engine: EngineOption = "native",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    cache_tokens: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer several times, and take the answer that most of them end with."""
    arguments: AskArguments = {
        "max_new_tokens": max_new_tokens,
        "max_tiles": max_tiles,
        "detail": detail,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        **video_arguments(video, num_frames, fps, start, end),
        **form_arguments(schema, pattern, choice),
    }
    with load_model(
        bundle, device=device, engine=engine, threads=threads, cache_tokens=cache_tokens
    ) as model:
        won = model.vote(question, list(image or []), n=number, reasoning=_reasoning(reasoning), **arguments)
    if as_json:
        _print_json(
            won.samples,
            {"answer": won.answer, "share": won.share, "counts": won.counts, "answers": list(won.answers)},
        )
        return
    print(won.answer if won.answer is not None else "no answer was found in any of the samples")
    _tell(f"{count} of {len(won.samples)}: {answer}" for answer, count in won.counts.items())


def best_of(
    bundle: BundleArgument,
    question: Question,
    critic: Annotated[
        Path,
        typer.Option("--critic", metavar="BUNDLE", help="A critic such as VisualPRM-8B.", show_default=False),
    ],
    image: ImageOption = None,
    video: VideoOption = None,
    num_frames: NumFramesOption = None,
    fps: FpsOption = None,
    start: StartOption = None,
    end: EndOption = None,
    number: Number = 8,
    reasoning: ReasoningOption = "auto",
    max_new_tokens: MaxNewTokensOption = 1024,
    max_tiles: MaxTilesOption = None,
    detail: DetailOption = "auto",
    temperature: Temperature = 0.6,
    top_p: TopP = 0.95,
    top_k: TopKOption = 50,
    seed: SeedOption = None,
    engine: EngineOption = "native",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    cache_tokens: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer several times, and take the answer that a critic model likes best."""
    arguments: AskArguments = {
        "max_new_tokens": max_new_tokens,
        "max_tiles": max_tiles,
        "detail": detail,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        **video_arguments(video, num_frames, fps, start, end),
    }
    options: dict[str, Any] = {
        "device": device,
        "engine": engine,
        "threads": threads,
        "cache_tokens": cache_tokens,
    }
    with load_model(bundle, **options) as model, load_model(critic, **options) as judge:
        best = model.best_of(
            question,
            list(image or []),
            score=judge,
            n=number,
            reasoning=_reasoning(reasoning),
            **arguments,
        )
    if as_json:
        steps = [list(judgement.step_scores) for judgement in best.judgements]
        _print_json(
            best.samples,
            {
                "answer": best.answer.text,
                "index": best.index,
                "scores": list(best.scores),
                "step_scores": steps,
            },
        )
        return
    print(best.answer.text)
    _tell(f"answer {i + 1}: {score:.3f}" for i, score in enumerate(best.scores))


def _reasoning(reasoning: str) -> AnyReasoning:
    return None if reasoning == "none" else cast("AnyReasoning", reasoning)


def _print_json(samples: tuple[Answer, ...], document: dict[str, Any]) -> None:
    from internvl_rt.cli.output import print_json

    print_json({**document, "samples": [answer_document(sample) for sample in samples]})


def _tell(lines: Any) -> None:
    import sys

    for line in lines:
        print(f"[{line}]", file=sys.stderr)
