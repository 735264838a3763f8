"""Several answers to one question, and the one that most of them give or that a critic likes best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from internvl_rt.answers.reasoning import Reasoning, final_answer, same_answer
from internvl_rt.answers.results import Answer, Timings
from internvl_rt.errors import PromptError

if TYPE_CHECKING:
    from internvl_rt.answers.critic import Judgement
    from internvl_rt.model.asking import AskArguments

AnyReasoning: TypeAlias = Reasoning | Literal["auto"] | None
"""``auto`` is ``open``, and None where the answer has a form to keep (schema, pattern, choices)."""

SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
"""How candidates are drawn in the authors' released best-of-n evaluation. For voting nothing is published."""

Extract: TypeAlias = Callable[[str], str | None]


@dataclass(frozen=True)
class Vote:
    """What most of several answers say."""

    answer: str | None
    """The answer that was given most often, of equals the one that came first; None where none was found."""
    counts: dict[str, int]
    """How often each answer was given, most first, as it was written first."""
    answers: tuple[str | None, ...]
    """What each sample says; None where it ends without an answer, which is no vote."""
    samples: tuple[Answer, ...] = field(repr=False)
    timings: Timings = field(repr=False)
    """Of all together: stages, first token and total once, and the mean time of a step."""

    @property
    def share(self) -> float:
        """The winner's votes as a part of all samples, 0 to 1."""
        return max(self.counts.values(), default=0) / len(self.samples)


@dataclass(frozen=True)
class BestOf:
    """The answer with the highest score."""

    answer: Answer
    index: int
    """Which of the samples it is; of equals the first."""
    scores: tuple[float, ...]
    samples: tuple[Answer, ...] = field(repr=False)
    timings: Timings = field(repr=False)
    """Of writing the samples; see ``Vote``."""
    judgements: tuple[Judgement, ...] = field(default=(), repr=False)
    """Of each sample, where a model was the critic."""


def count_votes(samples: Sequence[Answer], extract: Extract) -> Vote:
    """Counts what the samples say.

    Raises:
        PromptError: if what ``extract`` finds is no text.
    """
    answers = tuple(_said(sample.text, extract) for sample in samples)
    written: dict[str, str] = {}
    votes: dict[str, int] = {}
    for answer in answers:
        if answer is not None:
            key = same_answer(answer)
            written.setdefault(key, answer)
            votes[key] = votes.get(key, 0) + 1
    # Sorting keeps the order of equals.
    counts = {written[key]: votes[key] for key in sorted(votes, key=lambda key: -votes[key])}
    return Vote(next(iter(counts), None), counts, answers, tuple(samples), timings_of(samples))


def _said(text: str, extract: Extract) -> str | None:
    answer = extract(text)
    if answer is None or isinstance(answer, str):
        return answer
    raise PromptError(f"extract gave {answer!r:.100}; the answer in a text is a text, or None.")


def pick_best(
    samples: Sequence[Answer], scores: Sequence[float], judgements: Sequence[Judgement] = ()
) -> BestOf:
    """The sample with the highest score.

    Raises:
        PromptError: if a score is not a number.
    """
    checked = []
    for score in scores:
        try:
            number = float(score)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise PromptError(f"the scoring function gave {score!r}; a number is expected, higher is better.")
        checked.append(number)
    index = max(range(len(checked)), key=checked.__getitem__)
    return BestOf(
        samples[index], index, tuple(checked), tuple(samples), timings_of(samples), tuple(judgements)
    )


def timings_of(samples: Sequence[Answer]) -> Timings:
    """The timings of samples that were written together."""
    steps = [sample.timings.per_token for sample in samples if sample.timings.per_token]
    return replace(
        samples[0].timings,
        per_token=sum(steps) / len(steps) if steps else 0.0,
        total=max(sample.timings.total for sample in samples),
    )


def reasoning_of(reasoning: AnyReasoning, arguments: AskArguments) -> Reasoning | None:
    """The prompt that ``auto`` stands for.

    Raises:
        PromptError: if reasoning is asked for and the answer has a form that leaves no room for it.
    """
    formed = [name for name in ("schema", "pattern", "choices") if arguments.get(name) is not None]
    if reasoning == "auto":
        return None if formed else "open"
    if reasoning is not None and formed:
        raise PromptError(
            f"{formed[0]} is for the whole answer and leaves no room for reasoning={reasoning!r}. Leave one "
            "out."
        )
    return reasoning


def sampled(arguments: AskArguments, n: int) -> AskArguments:
    """The arguments of ``n`` candidates, drawn as those are where they do not say how.

    Raises:
        PromptError: if several candidates would not be sampled.
    """
    drawn = cast("AskArguments", {**SAMPLING, **arguments})
    if n > 1 and not (drawn["do_sample"] and drawn["temperature"]):
        raise PromptError(
            f"n={n} answers are all the same without sampling. Set do_sample=True, and a temperature above 0."
        )
    return drawn


def extractor(reasoning: Reasoning | None, extract: Extract | None) -> Extract:
    """The caller's way to find the answer in a text, or ours.

    Raises:
        PromptError: if the caller's is no function.
    """
    if extract is not None and not callable(extract):
        raise PromptError(f"extract is a function of a text; found {type(extract).__name__}.")
    return extract if extract is not None else lambda text: final_answer(text, reasoning)
