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

from internvl_rt.engines.engine import Engine, Float32Array
from internvl_rt.errors import PromptError
from internvl_rt.generation import PREFILL_CHUNK
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
    features: Float32Array | None,
    prompts: Sequence[Sequence[Ids]],
) -> list[list[float]]:
    """The probability of ``+`` after each prompt.

    What the first prompts of all solutions have in common, pictures included, is computed once and forked;
    each further prompt of a solution goes on where the one before it ended.

    Args:
        engine: computes.
        tokenizer: the critic's.
        features: of the pictures of the question, which every prompt has; None where it has none.
        prompts: for each solution the prompt of each of its steps.

    Raises:
        PromptError: if the tokenizer does not write ``+`` and ``-`` as a token each.
        CacheFullError: if the cache has no room.
    """
    pair = [_sign(tokenizer, GOOD), _sign(tokenizer, BAD)]
    firsts = [solution[0] for solution in prompts if len(solution)]
    if not firsts:
        return [[] for _ in prompts]
    shared = _shared_length(firsts)
    base = engine.new_sequence()
    try:
        _extend(engine, base, engine.embed(firsts[0], features)[:shared])
        return [_judge(engine, base, shared, features, solution, pair) for solution in prompts]
    finally:
        engine.drop(base)


def _judge(
    engine: Engine,
    base: int,
    shared: int,
    features: Float32Array | None,
    prompts: Sequence[Ids],
    pair: list[int],
) -> list[float]:
    scores = []
    sequence: int | None = None
    done: Ids = np.empty(0, np.int64)
    try:
        for ids in prompts:
            if sequence is not None and np.array_equal(ids[: len(done)], done):
                rest = engine.embed(ids[len(done) :], None)
            else:
                # The first step; or the tokenizer joined the end of a prompt with what follows it.
                if sequence is not None:
                    engine.drop(sequence)
                    sequence = None
                sequence = engine.fork(base)
                rest = engine.embed(ids, features)[shared:]
            good, bad = _extend(engine, sequence, rest)[pair].astype(np.float64)
            scores.append(float(1.0 / (1.0 + np.exp(np.clip(bad - good, -700, 700)))))
            done = ids
    finally:
        if sequence is not None:
            engine.drop(sequence)
    return scores


def _extend(engine: Engine, sequence: int, embeddings: Float32Array) -> Float32Array:
    """The logits [vocab] after the last of the embeddings, of which there is at least one."""
    for begin in range(0, len(embeddings), PREFILL_CHUNK):
        logits = engine.prefill(sequence, embeddings[begin : begin + PREFILL_CHUNK])
    last: Float32Array = logits[-1]
    return last


def _shared_length(prompts: Sequence[Ids]) -> int:
    """How many ids all prompts begin with, at least one fewer than the shortest has."""
    shortest = min(len(ids) for ids in prompts) - 1
    together = np.stack([ids[:shortest] for ids in prompts])
    differ = np.flatnonzero((together != together[0]).any(axis=0))
    return int(differ[0]) if len(differ) else shortest


def _sign(tokenizer: PromptTokenizer, sign: str) -> int:
    # It follows the newline that ends the assistant's role in every template.
    token = tokenizer.encode(f"\n{sign}")[-1]
    if tokenizer.token_bytes(token, "none") != sign.encode():
        raise PromptError(f"this model cannot be a critic: its tokenizer does not write {sign!r} as a token.")
    return token
