"""Chooses the tokens of an answer from the logits, as the settings say."""

from __future__ import annotations

import secrets

import numpy as np

from internvl_rt import _core
from internvl_rt.engines.engine import Float32Array
from internvl_rt.settings import GenerationSettings
from internvl_rt.structured import Constraint


def new_seed(settings: GenerationSettings) -> int:
    """The seed of the settings, or a random one."""
    return secrets.randbits(64) if settings.seed is None else settings.seed


class TokenChooser:
    """Chooses the next token of one answer.

    The repetition penalty looks at the answer alone, as it does in the authors' code, which gives embeddings
    instead of a prompt's ids to transformers.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        seed: int | None = None,
        index: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        """Starts an answer.

        Args:
            settings: how tokens are chosen.
            seed: of the random numbers; that of the settings where None, and a new one where there is none.
            index: of several answers with one seed. Each has a stream of its own, and the first one the
                stream of an answer that is alone.
            constraint: the form that the answer keeps.
        """
        self._settings = settings
        self._constraint = constraint
        self._history = np.empty(0, np.int64)
        self._sampler: _core.Sampler | None = None
        if settings.do_sample:
            sampler = _core.Sampler(new_seed(settings) if seed is None else seed)
            self._sampler = sampler.fork(index) if index else sampler

    @property
    def ended(self) -> bool:
        """The answer's form is complete."""
        return self._constraint is not None and self._constraint.complete

    def choose(self, logits: Float32Array) -> int:
        """The next token, from logits [vocab].

        Raises:
            InternVLError: if the logits hold NaN.
            PromptError: if the answer's form cannot be kept.
        """
        settings = self._settings
        if self._constraint is not None:
            logits = self._constraint.masked(logits)
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
        self._take(token)
        return token

    def choose_forced(self) -> int | None:
        """The next token without logits, where the form leaves no other one; else None.

        It counts as ``choose`` would have counted it: for the repetition penalty, the random numbers and the
        form.

        Raises:
            PromptError: if the answer's form cannot be kept.
        """
        token = None if self._constraint is None else self._constraint.forced
        if token is None:
            return None
        if self._sampler is not None:
            self._sampler.skip()
        self._take(token)
        return token

    def _take(self, token: int) -> None:
        if self._settings.repetition_penalty != 1.0:
            self._history = np.append(self._history, np.int64(token))
        if self._constraint is not None:
            self._constraint.take(token)
