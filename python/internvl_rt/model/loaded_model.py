"""A bundle and its engine: their life, and what they compute of arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload
from weakref import WeakSet

import numpy.typing as npt

from internvl_rt import _core
from internvl_rt._core import PromptRenderer, Scheduler
from internvl_rt.answers.results import Answer
from internvl_rt.answers.settings import (
    GenerationArguments,
    GenerationSettings,
    generation_settings,
)
from internvl_rt.answers.structured import Constraints
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.engine import Engine, Float32Array
from internvl_rt.engines.native import NativeEngine
from internvl_rt.errors import InternVLError
from internvl_rt.images import Orientation
from internvl_rt.model.arrays import checked_features, checked_ids, checked_pixels
from internvl_rt.model.asking import PictureRules
from internvl_rt.model.image_encoder import ImageEncoder
from internvl_rt.model.preprocessor import Preprocessor
from internvl_rt.model.prompt import Prompt, TileProgress
from internvl_rt.model.requests import RunningRequest, answer_requests, repeated, submit
from internvl_rt.prompts.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

_engines: WeakSet[Engine] = WeakSet()
"""Of the models that are loaded."""
_left_behind: list[Engine] = []
"""Engines of the process that this one was forked from, kept so that nothing ends them here: an engine's end
may wait for threads that stayed behind."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _left_behind.extend(_engines))


class LoadedModel:
    """A bundle that is loaded into an engine, below the questions that ``Model`` answers with it."""

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        tokenizer: PromptTokenizer,
        renderer: PromptRenderer,
        *,
        context_tokens: int,
        threads: int | None,
        max_wait_s: float,
        max_waiting: int,
        tile_cache_bytes: int,
        frame_tolerance: int,
        prefix_cache_tokens: int | None,
        rules: PictureRules,
    ) -> None:
        self._manifest = manifest
        self._engine = engine
        _engines.add(engine)
        self._cache_tokens = engine.cache.tokens
        native = engine.core if isinstance(engine, NativeEngine) else None
        self._scheduler = Scheduler(
            native or engine,
            tokenizer,
            manifest.checked(),
            engine.team if isinstance(engine, NativeEngine) else _core.ThreadTeam(threads or 0),
            context_tokens=context_tokens,
            max_waiting=max_waiting,
            max_wait_s=max_wait_s,
            tile_cache_bytes=tile_cache_bytes,
            frame_tolerance=frame_tolerance,
            prefix_cache_tokens=self._cache_tokens if prefix_cache_tokens is None else prefix_cache_tokens,
        )
        self._tile_cache_bytes = tile_cache_bytes
        self._tokenizer = tokenizer
        self._planner = _core.PromptPlanner(tokenizer, renderer, manifest.checked(), context_tokens)
        self._preprocessor = Preprocessor(manifest, self._planner)
        self._encoder = ImageEncoder(manifest, engine, self._scheduler)
        self._context_tokens = context_tokens
        self._rules = rules
        self._constraints = Constraints(tokenizer, manifest.prompt.stop_ids, manifest.llm.vocab_size)
        self._process = os.getpid()

    @property
    def manifest(self) -> Manifest:
        """The facts of the model, as its bundle states them."""
        return self._manifest

    @property
    def engine(self) -> str:
        """The name of the engine that computes: ``native``, ``onnxruntime`` or ``tensorrt``."""
        return self._engine.name

    @property
    def orientation(self) -> Orientation:
        """Whether pictures are turned as their EXIF says, where a call does not say otherwise."""
        return self._rules.orientation

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds, all answers that are being written together."""
        return self._cache_tokens

    @property
    def context_tokens(self) -> int:
        """Tokens that one prompt and its answer may have together."""
        return self._context_tokens

    @property
    def tile_cache_bytes(self) -> int:
        """Bytes that the features of tiles may take which are kept for pictures that show them again."""
        return self._tile_cache_bytes

    def encode_pixels(
        self, pixel_values: npt.ArrayLike, *, progress: TileProgress | None = None
    ) -> Float32Array:
        """Encodes normalised tiles.

        Args:
            pixel_values: float32 [tiles, 3, tile_size, tile_size].
            progress: see ``TileProgress``.

        Returns:
            float32 [tiles, tokens_per_tile, hidden].

        Raises:
            ImageError: if shape or type is another one, or a value is not finite.
        """
        return self._encoder.encode_pixels(checked_pixels(pixel_values, self.manifest), progress)

    def logits(self, input_ids: npt.ArrayLike, image_features: Any = None) -> Float32Array:
        """The logits at every position of a prompt.

        Args:
            input_ids: integers [n].
            image_features: what stands in the places of the image context token: ``ImageFeatures``, an array
                [..., hidden], or a list of these in order.

        Returns:
            float32 [n, vocab]: 4 * n * vocab bytes.

        Raises:
            PromptError: if ids, features and their numbers do not fit the model.
            CacheFullError: as ``Model.chat``.
        """
        ids = checked_ids(input_ids, self.manifest)
        features = checked_features(image_features, self.manifest)
        self._scheduler.check_open()
        with self._scheduler.reserve(self._engine.cache.needed(len(ids), 0, 0)) as reservation:
            embeddings = self._engine.embed(ids, features)
            sequence = self._engine.new_sequence()
            try:
                return self._engine.prefill(
                    sequence, embeddings, all_logits=True, progress=lambda _: reservation.check_open()
                )
            finally:
                self._engine.drop(sequence)

    @overload
    def generate(
        self,
        input_ids: npt.ArrayLike,
        image_features: Any = None,
        *,
        num_return_sequences: None = None,
        **settings: Unpack[GenerationArguments],
    ) -> Answer: ...
    @overload
    def generate(
        self,
        input_ids: npt.ArrayLike,
        image_features: Any = None,
        *,
        num_return_sequences: int,
        **settings: Unpack[GenerationArguments],
    ) -> list[Answer]: ...
    def generate(
        self,
        input_ids: npt.ArrayLike,
        image_features: Any = None,
        *,
        num_return_sequences: int | None = None,
        **settings: Unpack[GenerationArguments],
    ) -> Answer | list[Answer]:
        """Continues a prompt of token ids.

        Args:
            input_ids: integers [n].
            image_features: see ``logits``.
            num_return_sequences: see ``Model.chat``.
            settings: see ``GenerationSettings``.

        Returns:
            the answer; a list of answers where ``num_return_sequences`` was given.

        Raises:
            PromptError: if ids, features, the prompt's length or a setting do not fit the model.
            CacheFullError: as ``Model.chat``.
        """
        checked = generation_settings(settings)
        requests = self._requests(repeated(checked, num_return_sequences))
        ids = checked_ids(input_ids, self.manifest)
        features = checked_features(image_features, self.manifest)
        self._planner.check_length(ids, [])
        prompt = Prompt(
            ids, (), perf_counter(), given=features, priority=checked.priority, cache_salt=checked.cache_salt
        )
        answers = self._submit(prompt, requests).answers()
        return answers[0] if num_return_sequences is None else answers

    def close(self) -> None:
        """Ends the calls that are running and frees the model's memory. Calling it twice is fine.

        In a forked process nothing is freed.
        """
        self._scheduler.close()
        if os.getpid() == self._process:
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> str:
        raise InternVLError(
            "a loaded model cannot be copied or sent to another process. Load the bundle there; its weights "
            "are in memory once for all processes."
        )

    def __repr__(self) -> str:
        return (
            f"Model({self.manifest.name!r}, engine={self.engine!r}, cache_tokens={self.cache_tokens}, "
            f"context_tokens={self.context_tokens})"
        )

    def _requests(self, settings: Sequence[GenerationSettings]) -> list[_core.AnswerRequest]:
        return answer_requests(self._constraints, settings)

    def _submit(
        self,
        prompt: Prompt,
        requests: Sequence[_core.AnswerRequest],
        *,
        streamed: bool = False,
        cancelled: bool = False,
    ) -> RunningRequest:
        tiling = self.manifest.tiling
        return submit(self._scheduler, tiling, prompt, requests, streamed=streamed, cancelled=cancelled)
