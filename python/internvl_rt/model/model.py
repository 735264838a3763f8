"""A loaded model: questions in, answers out."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt._core import PromptRenderer, RenderedPrompt, Scheduler
from internvl_rt.answers.critic import Judgement, critic_conversation, judge_steps, shared_length, split_steps
from internvl_rt.answers.grounding import LOCATE_PROMPT, Location, locate_question
from internvl_rt.answers.reasoning import with_reasoning
from internvl_rt.answers.results import Answer, ImageFeatures, ms_since
from internvl_rt.answers.settings import (
    GenerationArguments,
    GenerationSettings,
    checked_sequences,
    generation_settings,
)
from internvl_rt.answers.structured import Constraints
from internvl_rt.answers.voting import (
    AnyReasoning,
    BestOf,
    Vote,
    count_votes,
    extractor,
    pick_best,
    reasoning_of,
    sampled,
)
from internvl_rt.bundle.manifest import Manifest, Tiling
from internvl_rt.engines.engine import Engine, Float32Array
from internvl_rt.engines.native import NativeEngine
from internvl_rt.errors import ImageError, InternVLError, PromptError
from internvl_rt.images import Orientation, decode_image
from internvl_rt.images.tiling import count_tiles, picture_of
from internvl_rt.images.video import VideoSource, sample_video
from internvl_rt.model.answer_stream import (
    AnswerStream,
    AsyncAnswerStream,
    RunningRequest,
    TileProgress,
    timings_of,
)
from internvl_rt.model.asking import (
    AskArguments,
    Asked,
    Image,
    PictureRules,
    TileBudget,
    ask,
)
from internvl_rt.prompts.messages import Conversation, Detail, Messages
from internvl_rt.prompts.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

_engines: WeakSet[Engine] = WeakSet()
"""Of the models that are loaded."""
_left_behind: list[Engine] = []
"""Engines of the process that this one was forked from, kept so that nothing ends them here: an engine's end
may wait for threads that stayed behind."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _left_behind.extend(_engines))


class Model:
    """A bundle that is loaded into an engine. Made by ``internvl_rt.load``.

    It may be used from several threads, and by many tasks of asyncio: their answers are written together, and
    none depends on the others. They share the size of the KV cache. Before anything is computed for a call,
    there is room for its prompt and the first tokens of its answer; where answers grow into each other, the
    ones that came last are written on later. A call that fails leaves the model as it was. Use it in a
    ``with`` statement, or call ``close``, to free its memory at a time of your choosing.
    """

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
        )
        self._tokenizer = tokenizer
        self._planner = _core.PromptPlanner(tokenizer, renderer, manifest.checked(), context_tokens)
        self._context_tokens = context_tokens
        self._rules = rules
        self._constraints = Constraints(tokenizer, manifest.prompt.stop_ids, manifest.llm.vocab_size)
        self._process = os.getpid()
        # The manifest holds the hashes of all files, so it tells bundles apart.
        self._fingerprint = hashlib.sha256(manifest.to_json().encode()).hexdigest()

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

    @overload
    def chat(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        *,
        num_return_sequences: None = None,
        **arguments: Unpack[AskArguments],
    ) -> Answer: ...
    @overload
    def chat(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        *,
        num_return_sequences: int,
        **arguments: Unpack[AskArguments],
    ) -> list[Answer]: ...
    def chat(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        *,
        num_return_sequences: int | None = None,
        **arguments: Unpack[AskArguments],
    ) -> Answer | list[Answer]:
        """Answers a question.

        Args:
            question: text, with ``<image>`` where a picture stands (put in front if there is none), or
                messages ``[{"role": "user", "content": [{"type": "image", "image": ...},
                {"type": "text", "text": "..."}]}]``.
            images: pictures in the order of their places, those of ``history`` included.
            num_return_sequences: answer so many times, and return a list. Pictures are encoded once, the
                prompt is computed once, and the answers are written together, one batch per token. Each is
                drawn from a stream of random numbers of its own: answer i does not depend on how many there
                are, and the first is the one that is given without this argument. Where the whole cache has
                no room for all of them at once, some wait for others. More than one need ``do_sample``.
            arguments: about the question, see ``AskArguments``: history, system, max_tiles, detail, as_one,
                video, num_frames, progress, orientation, allow_paths; and about the answer, see
                ``GenerationSettings``: max_new_tokens, do_sample, temperature, top_p, top_k,
                repetition_penalty, seed, stop, keep_special_tokens, ignore_stop_tokens; and the form that it
                keeps: schema, pattern, choices.

        Returns:
            the answer; a list of answers where ``num_return_sequences`` was given.

        Raises:
            PromptError: if the question, its length or a setting does not fit the model.
            ImageError: if a picture cannot be decoded, or its features are of another bundle.
            CacheFullError: if other calls kept the room that this one needs for longer than ``max_wait_s``.
        """
        asked = ask(question, images, arguments, self._rules)
        requests = self._requests(asked.settings, num_return_sequences)
        answers = self._submit(self._read(asked), requests).answers()
        return answers[0] if num_return_sequences is None else answers

    async def achat(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> Answer:
        """Answers a question, for asyncio. Arguments and errors are those of ``chat``.

        Waiting for the answer takes no thread. Cancelling the task ends the work at its next step.
        """
        stream = self.astream(question, images, **arguments)
        async for _ in stream:
            pass
        assert stream.result is not None, "the last piece has it"
        return stream.result

    def stream(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> AnswerStream:
        """Answers a question piece by piece. Arguments and errors are those of ``chat``.

        Returns:
            an iterator; its last piece carries the whole answer, which is the one that ``chat`` returns. Form
            and settings are checked at once; everything else happens while the iterator is advanced.
        """
        return AnswerStream(self._start_of(question, images, arguments))

    def astream(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> AsyncAnswerStream:
        """Answers a question piece by piece, for asyncio. Arguments and errors are those of ``chat``.

        Returns:
            an asynchronous iterator; see ``stream``. Waiting for a piece takes no thread.
        """
        return AsyncAnswerStream(self._start_of(question, images, arguments))

    def vote(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        *,
        n: int = 8,
        reasoning: AnyReasoning = "auto",
        extract: Callable[[str], str | None] | None = None,
        **arguments: Unpack[AskArguments],
    ) -> Vote:
        """Answers several times and takes the answer that most of them end with.

        The pictures are encoded once and the prompt is computed once; the answers are written together.

        Args:
            question: see ``chat``.
            images: see ``chat``.
            n: how many answers vote.
            reasoning: asks for reasoning before the answer, in the words of the InternVL 2.5 paper:
                ``choice`` for multiple choice, ``open`` for other questions; ``mpo`` in those of the MPO
                checkpoints; None asks the question as it is. ``auto`` is ``open``, and None where the answer
                has a form.
            extract: finds the answer in a text, None where there is none; ``final_answer`` by default.
            arguments: see ``chat``. Where they do not say otherwise, tokens are drawn with temperature 0.6
                and top_p 0.95. Reasoning takes room: the authors allow 4096 new tokens.

        Returns:
            the answer, how often each was given, and the samples.

        Raises:
            PromptError: as ``chat``, or if ``reasoning`` is not one of these or does not go with a form.
            CacheFullError: as ``chat``.
        """
        form = reasoning_of(reasoning, arguments)
        find = extractor(form, extract)
        asked = question if form is None else with_reasoning(question, form)
        n = checked_sequences(n, "n")
        samples = self.chat(asked, images, num_return_sequences=n, **sampled(arguments, n))
        return count_votes(samples, find)

    def best_of(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        *,
        score: Callable[[Answer], float] | Model,
        n: int = 8,
        reasoning: AnyReasoning = "auto",
        **arguments: Unpack[AskArguments],
    ) -> BestOf:
        """Answers several times and takes the answer with the highest score.

        As in the authors' evaluation, the first candidate is the likeliest answer and the others are drawn.
        The pictures are encoded once and the prompt is computed once; the candidates are written together.

        Args:
            question: see ``chat``; a text where a model is the critic.
            images: see ``chat``.
            score: a function of an answer, higher is better; or a model that judges the steps, see ``judge``.
            n: how many candidates.
            reasoning: see ``vote``.
            arguments: see ``vote``.

        Raises:
            PromptError: as ``vote``; if a score is not a number.
            CacheFullError: as ``chat``.
        """
        n = checked_sequences(n, "n")
        form = reasoning_of(reasoning, arguments)
        if isinstance(score, Model) and (not isinstance(question, str) or arguments.get("history")):
            raise PromptError("a model judges answers to a text without history. Give that, or a function.")
        if not callable(score) and not isinstance(score, Model):
            raise PromptError(f"score is a function of an Answer or a Model; found {type(score).__name__}.")
        video = arguments.get("video")
        if video is not None:
            # Chosen once, for the candidates and for the critic.
            rules = self._rules.overridden(None, arguments.get("allow_paths"))
            frames = sample_video(
                video, num_frames=arguments.get("num_frames"), allow_paths=rules.allow_paths
            )
            arguments = {**arguments, "video": frames, "num_frames": None}
        prompt = question if form is None else with_reasoning(question, form)
        asked = ask(prompt, images, sampled(arguments, n), self._rules)
        settings = [asked.settings] * n
        settings[0] = replace(asked.settings, do_sample=False)
        samples = self._submit(self._read(asked), self._requests_of(settings)).answers()
        if not isinstance(score, Model):
            return pick_best(samples, [score(sample) for sample in samples])
        judgements = score.judge(
            cast("str", prompt),
            [sample.text for sample in samples],
            images,
            max_tiles=arguments.get("max_tiles"),
            detail=arguments.get("detail", "auto"),
            video=arguments.get("video"),
            orientation=arguments.get("orientation"),
            allow_paths=arguments.get("allow_paths"),
        )
        return pick_best(samples, [judgement.score for judgement in judgements], judgements)

    def judge(
        self,
        question: str,
        solutions: Sequence[str],
        images: Sequence[Image] | Image | None = None,
        *,
        max_tiles: int | None = None,
        detail: Detail = "auto",
        video: VideoSource | None = None,
        num_frames: int | None = None,
        orientation: Orientation | None = None,
        allow_paths: bool | None = None,
    ) -> list[Judgement]:
        """Judges solutions step by step, where this model is a critic such as VisualPRM-8B.

        The conversation, the steps and the score are those of VisualPRM's training and evaluation; see
        ``critic``.

        Args:
            question: what was to be solved, as it was asked, with its request for reasoning: the critic was
                trained on whole prompts, those that ``with_reasoning`` makes with ``open``.
            solutions: texts that end with an answer.
            images: pictures of the question; see ``chat``.
            max_tiles: see ``AskArguments``, as the others.
            detail: of the pictures.
            video: in place of pictures.
            num_frames: of the video.
            orientation: of the pictures.
            allow_paths: whether pictures may be named by their paths.

        Returns:
            a judgement of each solution.

        Raises:
            PromptError: if the question or a solution does not fit the model.
            ImageError: if a picture cannot be decoded, or its features are of another bundle.
            CacheFullError: if other calls kept the room that this one needs for longer than ``max_wait_s``.
        """
        if not isinstance(solutions, (list, tuple)) or not all(isinstance(one, str) for one in solutions):
            raise PromptError("solutions are a list of texts.")
        about: AskArguments = {
            "max_tiles": max_tiles,
            "detail": detail,
            "video": video,
            "num_frames": num_frames,
            "orientation": orientation,
            "allow_paths": allow_paths,
        }
        asked = ask(question, images, about, self._rules)
        self._scheduler.check_open()
        steps = [split_steps(solution) for solution in solutions]

        conversations = [
            critic_conversation(asked.conversation, parts[: i + 1])
            for parts in steps
            for i in range(len(parts))
        ]
        pictures = self._pictures(asked, conversations)
        tiles = [picture.tiles for picture in pictures]
        rendered = iter([self._planner.render(one, tiles).input_ids for one in conversations])
        prompts = [[next(rendered) for _ in parts] for parts in steps]
        longest = max((ids for solution in prompts for ids in solution), key=len, default=None)
        if longest is not None:
            self._planner.check_length(longest, tiles, frames=asked.video)
        rope = self.manifest.llm.rope
        _, room = shared_length(self._engine, rope, prompts)
        with self._scheduler.reserve(room) as reservation:
            encoded = [self._encode_picture(picture) for picture in pictures]
            prompts = [[self._without_spare_places(ids, encoded) for ids in own] for own in prompts]
            scores = judge_steps(
                self._engine,
                self._tokenizer,
                rope,
                _joined(encoded),
                prompts,
                lambda _: reservation.check_open(),
            )
        return [
            Judgement(sum(own) / len(own) if own else 0.0, tuple(parts), tuple(own))
            for parts, own in zip(steps, scores, strict=True)
        ]

    def locate(
        self,
        phrase: str,
        image: Image,
        *,
        prompt: str = LOCATE_PROMPT,
        **arguments: Unpack[AskArguments],
    ) -> Location:
        """Asks where something is in a picture, with the question that the models were trained on.

        Args:
            phrase: names it, such as ``"red cube"``.
            image: see ``chat``.
            prompt: another question, with ``{}`` for the phrase.
            arguments: see ``chat``.

        Returns:
            boxes in pixels of the original picture, what is malformed in the answer, and the answer.

        Raises:
            PromptError: if the phrase is empty or holds grounding tokens; and as ``chat``.
        """
        answer = self.chat(locate_question(phrase, prompt), [image], **arguments)
        found = answer.grounding()
        return Location(phrase, found.boxes, found.problems, answer)

    def encode(
        self,
        image: Image,
        *,
        max_tiles: int | None = None,
        detail: Detail = "auto",
        orientation: Orientation | None = None,
        allow_paths: bool | None = None,
        progress: TileProgress | None = None,
    ) -> ImageFeatures:
        """Encodes a picture once, to be asked about many times.

        Args:
            image: see ``chat``; features of this bundle are returned as they are.
            max_tiles: the most tiles that the picture is cut into, 1 to 40.
            detail: chooses it where ``max_tiles`` is None; see ``AskArguments``.
            orientation: whether it is turned as its EXIF says; see ``AskArguments``.
            allow_paths: whether it may be a path; see ``AskArguments``.
            progress: is told how many of the picture's tiles are encoded; see ``TileProgress``.

        Raises:
            ImageError: if the picture cannot be decoded, or its features are of another bundle.
            PromptError: if ``detail`` is none of the three, or given beside ``max_tiles``.
        """
        started = perf_counter()
        most = TileBudget(max_tiles, detail).per_picture(self.manifest.tiling, 1)
        picture = self._picture(image, most, self._rules.overridden(orientation, allow_paths))
        if picture.features is not None:
            return picture.features
        encoded = self._encode_picture(picture, progress)
        return replace(encoded, timings=replace(encoded.timings, total=ms_since(started)))

    def render(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None = None,
        **arguments: Unpack[AskArguments],
    ) -> RenderedPrompt:
        """The prompt that ``chat`` would give to the model, its image places expanded.

        Pictures are decoded for their size and not encoded. Arguments and errors are those of ``chat``.
        """
        asked = ask(question, images, arguments, self._rules)
        tiles = [picture.tiles for picture in self._pictures(asked, [asked.conversation])]
        return self._planner.render(asked.conversation, asked.tiles_of_places(tiles))

    def encode_pixels(
        self, pixel_values: npt.ArrayLike, *, progress: TileProgress | None = None
    ) -> Float32Array:
        """Encodes normalised tiles.

        Args:
            pixel_values: float32 [tiles, 3, tile_size, tile_size].
            progress: see ``encode``.

        Returns:
            float32 [tiles, tokens_per_tile, hidden].

        Raises:
            ImageError: if shape or type is another one, or a value is not finite.
        """
        pixels = self._checked_pixels(pixel_values)
        told = -1

        def step(done: int) -> None:
            nonlocal told
            reservation.check_open()
            if progress is not None and done > told:
                told = done
                progress(done, len(pixels))

        with self._scheduler.reserve(0) as reservation:
            step(0)
            features = self._engine.encode_tiles(pixels, step).features
            step(len(pixels))
        return features

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
            CacheFullError: if other calls kept the room that this one needs for longer than ``max_wait_s``.
        """
        ids = self._checked_ids(input_ids)
        features = self._checked_features(image_features)
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
            num_return_sequences: see ``chat``.
            settings: see ``GenerationSettings``.

        Returns:
            the answer; a list of answers where ``num_return_sequences`` was given.

        Raises:
            PromptError: if ids, features, the prompt's length or a setting do not fit the model.
            CacheFullError: if other calls kept the room that this one needs for longer than ``max_wait_s``.
        """
        checked = generation_settings(settings)
        requests = self._requests(checked, num_return_sequences)
        ids = self._checked_ids(input_ids)
        features = self._checked_features(image_features)
        self._planner.check_length(ids, [])
        prompt = _Prompt(ids, (), perf_counter(), given=features, priority=checked.priority)
        answers = self._submit(prompt, requests).answers()
        return answers[0] if num_return_sequences is None else answers

    def close(self) -> None:
        """Ends the calls that are running and frees the model's memory. Calling it twice is fine.

        In a forked process nothing is freed.
        """
        self._scheduler.close()
        if os.getpid() == self._process:
            self._engine.close()

    def __enter__(self) -> Model:
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

    def _start_of(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None,
        arguments: AskArguments,
    ) -> Callable[[bool], RunningRequest]:
        """Checks a question's form and settings; what it returns begins to answer it."""
        asked = ask(question, images, arguments, self._rules)
        requests = self._requests(asked.settings, None)
        return lambda cancelled: self._submit(self._read(asked), requests, streamed=True, cancelled=cancelled)

    def _submit(
        self,
        prompt: _Prompt,
        requests: Sequence[_core.AnswerRequest],
        *,
        streamed: bool = False,
        cancelled: bool = False,
    ) -> RunningRequest:
        """Hands a prompt to the scheduler, which encodes its pictures and writes the answers."""
        new = [picture for picture in prompt.pictures if picture.features is None]
        request = self._scheduler.submit(
            prompt.input_ids,
            [picture.core(self.manifest.tiling) for picture in prompt.pictures],
            requests,
            features=prompt.given,
            elapsed_ms=ms_since(prompt.started),
            decode_image_ms=prompt.decode_ms + sum(picture.decode_ms for picture in new),
            tiles=sum(picture.tiles for picture in prompt.pictures),
            tiles_wanted=sum(picture.tiles_wanted for picture in prompt.pictures),
            priority=prompt.priority,
            streamed=streamed,
            tells_tiles=prompt.progress is not None,
            cancelled=cancelled,
        )
        return RunningRequest(
            request,
            sum(picture.tiles for picture in new),
            prompt.progress,
            tuple(picture.size for picture in prompt.pictures),
            tuple(picture.orientation for picture in prompt.pictures),
        )

    def _read(self, asked: Asked) -> _Prompt:
        """The prompt of a question, before its pictures are encoded: nothing is for one that does not fit."""
        self._scheduler.check_open()
        started = perf_counter() - asked.decode_ms / 1000.0
        pictures = self._pictures(asked, [asked.conversation])
        tiles = [picture.tiles for picture in pictures]
        rendered = self._planner.render(asked.conversation, asked.tiles_of_places(tiles))
        self._planner.check_length(rendered.input_ids, tiles, frames=asked.video)
        return _Prompt(
            rendered.input_ids,
            tuple(pictures),
            started,
            asked.decode_ms,
            asked.progress,
            priority=asked.settings.priority,
        )

    def _requests(self, settings: GenerationSettings, sequences: int | None) -> list[_core.AnswerRequest]:
        """What each of so many answers is asked for with; one where the caller gave no number."""
        number = 1 if sequences is None else checked_sequences(sequences)
        if number > 1 and not settings.do_sample:
            raise PromptError(
                f"num_return_sequences={number} without do_sample would give the same answer {number} times. "
                "Set do_sample=True, and a temperature above 0."
            )
        return self._requests_of([settings] * number)

    def _requests_of(self, settings: Sequence[GenerationSettings]) -> list[_core.AnswerRequest]:
        """The same for several settings, which have seed and form in common."""
        seed = secrets.randbits(64) if settings[0].seed is None else settings[0].seed
        constraints = self._constraints.compile(settings[0], len(settings))
        return [
            _core.AnswerRequest(
                max_new_tokens=own.max_new_tokens,
                do_sample=own.do_sample,
                temperature=own.temperature,
                top_k=own.top_k,
                top_p=own.top_p,
                repetition_penalty=own.repetition_penalty,
                seed=seed,
                index=index,
                stop=own.stop,
                keep_special_tokens=own.keep_special_tokens,
                ignore_stop_tokens=own.ignore_stop_tokens,
                constraint=constraint,
            )
            for index, (own, constraint) in enumerate(zip(settings, constraints, strict=True))
        ]

    def _pictures(self, asked: Asked, conversations: Sequence[Conversation]) -> list[_Picture]:
        """The pictures of a question, read and not yet cut into tiles.

        Where one of the conversations about them would not fit the context, and the caller chose a detail and
        no number of tiles, the pictures have fewer.
        """
        most = asked.most_tiles(self.manifest.tiling)
        pictures = [
            self._picture(image, tiles, asked.rules)
            for image, tiles in zip(asked.conversation.images, most, strict=True)
        ]
        if not (pictures and asked.may_have_fewer_tiles):
            return pictures
        fitted = self._planner.fit(
            [_core.PlannedPicture(picture.size, picture.max_tiles, picture.tiles) for picture in pictures],
            conversations,
            as_one=asked.as_one,
            max_new_tokens=asked.settings.max_new_tokens,
        )
        return [
            replace(picture, max_tiles=fewer.max_tiles, tiles=fewer.tiles)
            for picture, fewer in zip(pictures, fitted, strict=True)
        ]

    def _picture(self, image: Image, max_tiles: int, rules: PictureRules) -> _Picture:
        """Decodes a picture, or checks that its features are this model's."""
        if isinstance(image, ImageFeatures):
            self._check_fingerprint(image)
            return _Picture(None, image, 0, image.tiles, image.tiles, image.image_size, image.orientation)
        begun = perf_counter()
        rgb = decode_image(
            image,
            max_pixels=rules.max_pixels,
            orientation=rules.orientation,
            allow_paths=rules.allow_paths,
        )
        decode_ms = ms_since(begun)
        size = (rgb.shape[1], rgb.shape[0])
        tiles = count_tiles(size, self.manifest.tiling, max_tiles)
        return _Picture(rgb, None, max_tiles, tiles, tiles, size, rules.orientation, decode_ms)

    def _encode_picture(self, picture: _Picture, progress: TileProgress | None = None) -> ImageFeatures:
        """The features of a picture, encoded where it is not yet."""
        if picture.features is not None:
            return picture.features
        prompt = _Prompt(np.empty(0, np.int64), (picture,), perf_counter(), progress=progress)
        running = self._submit(prompt, [])
        running.answers()
        (encoded,) = running.request.take_pictures()
        features = encoded.features
        features.setflags(write=False)
        return ImageFeatures(
            features,
            encoded.grid,
            picture.size,
            self._fingerprint,
            timings_of(running.request.timings),
            () if self.manifest.flash is None else tuple(encoded.tile_tokens),
            picture.orientation,
        )

    def _without_spare_places(
        self, input_ids: npt.NDArray[np.int64], encoded: Sequence[ImageFeatures]
    ) -> npt.NDArray[np.int64]:
        """A prompt without the image places that its tiles, once encoded, turned out not to need."""
        return _core.without_spare_places(
            input_ids,
            image_context_id=self.manifest.prompt.image_context_id,
            tokens_per_tile=self.manifest.tokens_per_tile,
            tile_tokens=[tokens for picture in encoded for tokens in picture.tokens_of_tiles],
        )

    def _check_fingerprint(self, features: ImageFeatures) -> None:
        if features.fingerprint != self._fingerprint:
            raise ImageError(
                "these ImageFeatures were computed by another bundle, and mean nothing to this one "
                f"({self.manifest.name}). Encode the picture again with this model's encode()."
            )

    def _checked_pixels(self, pixel_values: npt.ArrayLike) -> Float32Array:
        size = self.manifest.tiling.tile_size
        expected = f"float32 [tiles, 3, {size}, {size}] with at least one tile"
        pixels = _as_array(pixel_values)
        if pixels.dtype != np.float32 or pixels.shape[1:] != (3, size, size) or len(pixels) == 0:
            raise ImageError(
                f"pixel_values are {pixels.dtype} {list(pixels.shape)}; expected {expected}. "
                "TiledImage.pixel_values() makes them from a picture."
            )
        if not np.isfinite(pixels).all():
            raise ImageError(
                "pixel_values hold NaN or infinite values. Normalised pixels lie between -3 and 3: check how "
                "they were computed."
            )
        return np.ascontiguousarray(pixels)

    def _checked_ids(self, input_ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        ids = _as_array(input_ids)
        if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu":
            raise PromptError(
                f"input_ids are {ids.dtype} {list(ids.shape)}; expected integers [n] with at least one token."
            )
        vocab = self.manifest.llm.vocab_size
        if int(ids.min()) < 0 or int(ids.max()) >= vocab:
            raise PromptError(
                f"input_ids lie between {ids.min()} and {ids.max()}; this model's ids are 0 to {vocab - 1}."
            )
        return ids.astype(np.int64)

    def _checked_features(self, given: Any) -> Float32Array | None:
        """Features in any of their forms as float32 [image tokens, hidden]."""
        if given is None:
            return None
        hidden = self.manifest.llm.hidden_size
        rows = []
        for item in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(item, ImageFeatures):
                self._check_fingerprint(item)
                item = item.rows
            array = _as_array(item)
            if array.dtype != np.float32 or array.ndim < 2 or array.shape[-1] != hidden:
                raise PromptError(
                    f"image_features are {array.dtype} {list(array.shape)}; expected float32 "
                    f"[..., {hidden}], as encode() and encode_pixels() make them."
                )
            if not np.isfinite(array).all():
                raise PromptError("image_features hold NaN or infinite values. Encode the picture again.")
            rows.append(array.reshape(-1, hidden))
        return np.ascontiguousarray(np.concatenate(rows)) if rows else None


def _joined(encoded: Sequence[ImageFeatures]) -> Float32Array | None:
    """The features of all pictures, float32 [image tokens, hidden]."""
    return np.concatenate([picture.rows for picture in encoded]) if encoded else None


@dataclass(frozen=True)
class _Picture:
    """A picture of a question: pixels that are to be cut into tiles and encoded, or features."""

    rgb: npt.NDArray[np.uint8] | None
    """[height, width, 3]"""
    features: ImageFeatures | None
    max_tiles: int
    tiles: int
    """Its thumbnail included."""
    tiles_wanted: int
    """That it would have in a context that is large enough."""
    size: tuple[int, int]
    """(width, height) in pixels."""
    orientation: Orientation
    decode_ms: float = 0.0
    """What decoding it took."""

    def core(self, tiling: Tiling) -> _core.Picture:
        """As the scheduler takes it."""
        if self.features is not None:
            return _core.Picture.of_features(self.features.rows, self.features.tokens_of_tiles)
        assert self.rgb is not None, "a picture has one of the two"
        return picture_of(self.rgb, tiling, self.max_tiles)


@dataclass(frozen=True)
class _Prompt:
    """What is asked, before anything is computed for it."""

    input_ids: npt.NDArray[np.int64]
    pictures: tuple[_Picture, ...]
    started: float
    """``perf_counter()`` at the call, in seconds."""
    decode_ms: float = 0.0
    """What reading a video took."""
    progress: TileProgress | None = None
    given: Float32Array | None = None
    """Features [image tokens, hidden] that came with the ids, in place of pictures."""
    priority: int = 0


def _as_array(given: Any) -> npt.NDArray[Any]:
    """An array of any type, which the caller checks; what makes no array becomes one of objects."""
    try:
        return np.asarray(given)
    except ValueError:  # rows of different lengths
        return np.asarray(None)
