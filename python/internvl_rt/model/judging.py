"""A model as a critic: its questions about the steps of solutions, asked together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from internvl_rt import _core
from internvl_rt.answers.critic import Judgement, critic_conversation, judge_steps, shared_length, split_steps
from internvl_rt.answers.results import ImageFeatures
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.engine import Engine
from internvl_rt.model.asking import Asked
from internvl_rt.model.image_encoder import ImageEncoder
from internvl_rt.model.preprocessor import Preprocessor
from internvl_rt.model.prompt import Ids
from internvl_rt.prompts.tokenizer import PromptTokenizer


def judge(
    asked: Asked,
    solutions: Sequence[str],
    *,
    manifest: Manifest,
    engine: Engine,
    scheduler: _core.Scheduler,
    tokenizer: PromptTokenizer,
    preprocessor: Preprocessor,
    encoder: ImageEncoder,
) -> list[Judgement]:
    """A judgement of each solution; see ``Model.judge``. The other arguments are parts of the model."""
    scheduler.check_open()
    steps = [split_steps(solution) for solution in solutions]
    conversations = [
        critic_conversation(asked.conversation, parts[: i + 1]) for parts in steps for i in range(len(parts))
    ]
    pictures, ids = preprocessor.prompts(asked, conversations)
    left = iter(ids)
    prompts = [[next(left) for _ in parts] for parts in steps]
    rope = manifest.llm.rope
    _, room = shared_length(engine, rope, prompts)
    with scheduler.reserve(room) as reservation:
        encoded = [encoder.encode(picture) for picture in pictures]
        prompts = [[_without_spare_places(ids, encoded, manifest) for ids in own] for own in prompts]
        scores = judge_steps(
            engine,
            tokenizer,
            rope,
            np.concatenate([picture.rows for picture in encoded]) if encoded else None,
            prompts,
            lambda _: reservation.check_open(),
        )
    return [
        Judgement(sum(own) / len(own) if own else 0.0, tuple(parts), tuple(own))
        for parts, own in zip(steps, scores, strict=True)
    ]


def _without_spare_places(ids: Ids, encoded: Sequence[ImageFeatures], manifest: Manifest) -> Ids:
    """A prompt without the image places that its tiles, once encoded, turned out not to need."""
    return _core.without_spare_places(
        ids,
        image_context_id=manifest.prompt.image_context_id,
        tokens_per_tile=manifest.tokens_per_tile,
        tile_tokens=[tokens for picture in encoded for tokens in picture.tokens_of_tiles],
    )
