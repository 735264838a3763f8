"""``internvl-rt vote`` and ``internvl-rt best-of``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from internvl_rt.cli.answers import answer_document
from internvl_rt.cli.options import (
    BundleArgument,
    FormOptions,
    JsonOption,
    MaxNewTokensOption,
    ModelOptions,
    PictureOptions,
    QuestionArgument,
    SeedOption,
    TopKOption,
    question_of,
    with_option_groups,
)
from internvl_rt.cli.tile_progress import tile_progress

if TYPE_CHECKING:
    from internvl_rt.answers.results import Answer
    from internvl_rt.answers.voting import AnyReasoning
    from internvl_rt.model.asking import AskArguments

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


@dataclasses.dataclass(frozen=True)
class CandidateOptions:
    """How the answers are written."""

    number: Number = 8
    reasoning: ReasoningOption = "auto"
    max_new_tokens: MaxNewTokensOption = 1024
    temperature: Temperature = 0.6
    top_p: TopP = 0.95
    top_k: TopKOption = 50
    seed: SeedOption = None

    @property
    def form(self) -> AnyReasoning:
        """The prompt that asks for reasoning."""
        return None if self.reasoning == "none" else cast("AnyReasoning", self.reasoning)

    def arguments(self) -> AskArguments:
        """How tokens are drawn, and how many.

        Raises:
            BadParameter: if the temperature leaves nothing to draw.
        """
        if self.temperature == 0:
            raise typer.BadParameter(
                "--temperature 0 takes the likeliest token every time, so that all answers are the same. "
                "Give one above 0."
            )
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
        }


@with_option_groups
def vote(
    bundle: BundleArgument,
    question: QuestionArgument,
    look: PictureOptions,
    candidates: CandidateOptions,
    form: FormOptions,
    options: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Answer several times, and take the answer that most of them end with. Exits with 1 if there is none."""
    from internvl_rt.errors import PromptError

    question = question_of(question, look.on_standard_input)
    arguments: AskArguments = {**candidates.arguments(), **look.arguments(), **form.arguments()}
    images = look.images()
    with options.load(bundle) as model, tile_progress(quiet=as_json) as progress:
        arguments["progress"] = progress
        won = model.vote(question, images, n=candidates.number, reasoning=candidates.form, **arguments)
    if as_json:
        _print_json(
            won.samples,
            {"answer": won.answer, "share": won.share, "counts": won.counts, "answers": list(won.answers)},
        )
    elif won.answer is not None:
        print(won.answer)
        _tell(f"{count} of {len(won.samples)}: {answer}" for answer, count in won.counts.items())
    if won.answer is None:
        raise PromptError(
            f"none of the {len(won.samples)} samples ends with an answer. What helps: more room "
            "(--max-new-tokens), --reasoning none, or a form (--choice, --pattern, --schema)."
        )


@with_option_groups
def best_of(
    bundle: BundleArgument,
    question: QuestionArgument,
    critic: Annotated[
        Path,
        typer.Option("--critic", metavar="BUNDLE", help="A critic such as VisualPRM-8B.", show_default=False),
    ],
    look: PictureOptions,
    candidates: CandidateOptions,
    options: ModelOptions,
    as_json: JsonOption = False,
) -> None:
    """Answer several times, and take the answer that a critic model likes best."""
    question = question_of(question, look.on_standard_input)
    arguments: AskArguments = {**candidates.arguments(), **look.arguments()}
    images = look.images()
    with (
        options.load(bundle) as model,
        options.load(critic) as judge,
        tile_progress(quiet=as_json) as progress,
    ):
        arguments["progress"] = progress
        best = model.best_of(
            question,
            images,
            score=judge,
            n=candidates.number,
            reasoning=candidates.form,
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


def _print_json(samples: tuple[Answer, ...], document: dict[str, Any]) -> None:
    from internvl_rt.cli.output import print_json

    print_json({**document, "samples": [answer_document(sample) for sample in samples]})


def _tell(lines: Any) -> None:
    import sys

    for line in lines:
        print(f"[{line}]", file=sys.stderr)
