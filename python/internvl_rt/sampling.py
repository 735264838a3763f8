"""Chooses the tokens of an answer from the logits, as the settings say."""

from __future__ import annotations

import secrets

import numpy as np

from internvl_rt import _core
from internvl_rt.engines.engine import Float32Array
from internvl_rt.settings import GenerationSettings


class TokenChooser:
    """Chooses the next token of one answer.

    The repetition penalty looks at the answer alone, as it does in the authors' code, which gives embeddings
    instead of a prompt's ids to transformers.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        self._settings = settings
        self._history = np.empty(0, np.int64)
        self._sampler: _core.Sampler | None = None
        if settings.do_sample:
            self._sampler = _core.Sampler(secrets.randbits(64) if settings.seed is None else settings.seed)

    def choose(self, logits: Float32Array) -> int:
        """The next token, from logits [vocab].

        Raises:
            InternVLError: if the logits hold NaN.
        """
        settings = self._settings
        if self._sampler is None:
            token = _core.argmax(logits, settings.repetition_penalty, self._history)
        else:
            token = self._sampler.sample(
                logits,
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                repetition_penalty=settings.repetition_penalty,
                history=self._history,
            )
        if settings.repetition_penalty != 1.0:
            self._history = np.append(self._history, np.int64(token))
        return token
