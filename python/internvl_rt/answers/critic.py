r"""A model that judges the steps of a solution, in VisualPRM's conversation form.

The system message, the form of the turns and the splitting of steps are those of the pipeline that made the
critic's training data (``tools/reasoning_data_pipeline`` in OpenGVLab/InternVL, and its script for
VisualPRM400K-v1.1): steps are what ``"\n\n"`` separates, kept as they are, and neighbours are joined where
there are more than 16; the question is the whole prompt that the solutions were written to, its request for
reasoning included. Every step is a turn of the user that the critic answers with ``+`` or ``-``; ``+`` is put
in for all of them, a step's score is the probability of ``+`` beside ``-`` in its place, and a solution's the
mean over its steps: so does the scoring by probabilities in the model code of VisualPRM-8B, of which a public
copy was read. That code sets no limit of its own; more steps than in training are joined here all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.manifest import Rope
from internvl_rt.engines.engine import Engine, Float32Array, Progress
from internvl_rt.errors import PromptError
from internvl_rt.prompts.messages import Conversation, ImagePlace, Turn
from internvl_rt.prompts.tokenizer import PromptTokenizer

SYSTEM_MESSAGE = """\
You are an advanced AI assistant, designed to serve as a process supervision model. In this task, I will \
provide a problem statement followed by the first step of the solution process. For each subsequent turn, I \
will give you a new step in the solution. Your role is to assess whether the solution process is correct up \
to the current step.

- In the **first round**, I will input the problem and the first step of the solution process.
- In **each subsequent round**, I will provide the next step in the solution.

For each step, you should:

- Respond with **"+"** if you believe the solution process is correct up to this step.
- Respond with **"-"** if you detect any issues or errors in the process up to this step.

Please note:
- Only respond with **"+"** or **"-"**. Do not provide any additional explanations, comments, or \
justifications.

Your task is to verify the accuracy and correctness of each step in the given solution process."""

STEP_END = "\n\n"
MOST_STEPS = 16
GOOD, BAD = "+", "-"

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """What a critic thinks of a solution."""

    score: float
    """The mean over the steps, 0 to 1; 0 for a solution without text."""
    steps: tuple[str, ...]
    step_scores: tuple[float, ...]
    """The probability that the solution is right up to each step."""


def split_steps(solution: str) -> list[str]:
    """The steps of a solution, 16 at most; none of one that is white space."""
    if not solution.strip():
        return []
    steps = solution.split(STEP_END)
    joined = -(-len(steps) // MOST_STEPS)
    return [STEP_END.join(steps[i : i + joined]) for i in range(0, len(steps), joined)]


def critic_conversation(asked: Conversation, steps: Sequence[str]) -> Conversation:
    """What the critic reads before it judges the last of the steps: those before it were judged ``+``.

    Args:
        asked: the prompt that the solution was written to, with its pictures.
        steps: at least one.
    """
    parts: tuple[str | ImagePlace, ...] = ("### Question:\n", *asked.turns[-1].parts)
    turns = [Turn("user", (*parts, f"\n\n### Solution Process:\n{steps[0]}"))]
    for step in steps[1:]:
        turns += [Turn("assistant", (GOOD,)), Turn("user", (step,))]
    return Conversation(tuple(turns), asked.images, SYSTEM_MESSAGE)


def judge_steps(
    engine: Engine,
    tokenizer: PromptTokenizer,
    rope: Rope,
    features: Float32Array | None,
    prompts: Sequence[Sequence[Ids]],
    progress: Progress,
) -> list[list[float]]:
    """The probability of ``+`` after each prompt.

    What the first prompts of all solutions have in common, pictures included, is computed once and forked
    (see ``shared_length``); each further prompt of a solution goes on where the one before it ended, unless
    its length changes the rotary frequencies.

    Args:
        engine: computes; its cache has the room that ``shared_length`` tells.
        tokenizer: the critic's.
        rope: of the critic.
        features: of the pictures of the question, which every prompt has; None where it has none.
        prompts: for each solution the prompt of each of its steps.
        progress: asked on the way whether to go on.

    Raises:
        PromptError: if the tokenizer does not write ``+`` and ``-`` as a token each.
    """
    pair = [_sign(tokenizer, GOOD), _sign(tokenizer, BAD)]
    shared, _ = shared_length(engine, rope, prompts)
    if not any(len(solution) for solution in prompts):
        return [[] for _ in prompts]
    first = next(solution[0] for solution in prompts if len(solution))
    base = engine.new_sequence()
    try:
        if shared:
            engine.prefill(base, engine.embed(first, features)[:shared], progress=progress)
        return [_judge(engine, rope, base, features, solution, pair, progress) for solution in prompts]
    finally:
        engine.drop(base)


def _judge(
    engine: Engine,
    rope: Rope,
    base: int,
    features: Float32Array | None,
    prompts: Sequence[Ids],
    pair: list[int],
    progress: Progress,
) -> list[float]:
    scores = []
    sequence: int | None = None
    done: Ids = np.empty(0, np.int64)
    shared = engine.length(base)
    try:
        for ids in prompts:
            if (
                sequence is not None
                and np.array_equal(ids[: len(done)], done)
                and rope.same_frequencies(len(done), len(ids))
            ):
                rest = engine.embed(ids[len(done) :], None)
            else:
                # The first step; or the tokenizer joined the end of a prompt with what follows it.
                if sequence is not None:
                    engine.drop(sequence)
                    sequence = None
                sequence = engine.fork(base)
                rest = engine.embed(ids, features)[shared:]
            good, bad = engine.prefill(sequence, rest, progress=progress)[-1][pair].astype(np.float64)
            scores.append(float(1.0 / (1.0 + np.exp(np.clip(bad - good, -700, 700)))))
            done = ids
    finally:
        if sequence is not None:
            engine.drop(sequence)
    return scores


def shared_length(engine: Engine, rope: Rope, prompts: Sequence[Sequence[Ids]]) -> tuple[int, int]:
    """How many ids are computed once for all solutions, and the room in the cache that judging them takes.

    They are what all first prompts begin with, at least one fewer than the shortest has. None are shared
    where a prompt is so long that its rotary frequencies are others, or the cache has no room for both.
    """
    longest = max((len(ids) for solution in prompts for ids in solution), default=0)
    firsts = [solution[0] for solution in prompts if len(solution)]
    shared = max(0, min((len(ids) for ids in firsts), default=0) - 1)
    if shared:
        together = np.stack([ids[:shared] for ids in firsts])
        differ = np.flatnonzero((together != together[0]).any(axis=0))
        shared = int(differ[0]) if len(differ) else shared
    if shared and rope.same_frequencies(shared, longest):
        room = engine.cache.needed(shared, longest - shared, 1)
        if room <= engine.cache.tokens:
            return shared, room
    return 0, engine.cache.needed(longest, 0, 0)


def _sign(tokenizer: PromptTokenizer, sign: str) -> int:
    # It follows the newline that ends the assistant's role in every template.
    token = tokenizer.encode(f"\n{sign}")[-1]
    if tokenizer.token_bytes(token, "none") != sign.encode():
        raise PromptError(f"this model cannot be a critic: its tokenizer does not write {sign!r} as a token.")
    return token
