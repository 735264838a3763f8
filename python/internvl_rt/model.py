"""A loaded model: questions in, answers out."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
import numpy.typing as npt

from internvl_rt._core import PromptRenderer, RenderedPrompt
from internvl_rt.asking import (
    AskArguments,
    Asked,
    Image,
    PictureRules,
    TileBudget,
    TileProgress,
    ask,
)
from internvl_rt.bundle.manifest import Manifest, Tiling
from internvl_rt.cache_room import CacheRoom
from internvl_rt.critic import Judgement, critic_conversation, judge_steps, shared_length, split_steps
from internvl_rt.engines.engine import EncodedTiles, Engine, Float32Array
from internvl_rt.errors import ImageError, InternVLError, PromptError
from internvl_rt.generation import AnswerStream, Question, Writer, all_answers, answer_pieces, ms_since
from internvl_rt.grounding import LOCATE_PROMPT, Location, locate_question
from internvl_rt.guarded_engine import GuardedEngine
from internvl_rt.images import Orientation, decode_image, tile_pixel_values
from internvl_rt.images.resolution import compressible
from internvl_rt.images.tiling import count_tiles
from internvl_rt.prompts.messages import Conversation, Detail, Messages
from internvl_rt.prompts.reasoning import with_reasoning
from internvl_rt.prompts.tokenizer import Detokeniser, PromptTokenizer
from internvl_rt.results import Answer, ImageFeatures, Piece, Timings, Usage
from internvl_rt.sampling import TokenChooser, new_seed
from internvl_rt.settings import (
    GenerationArguments,
    GenerationSettings,
    checked_sequences,
    generation_settings,
)
from internvl_rt.structured import Constraints
from internvl_rt.tile_encoding import EncodingCancelledError, TileEncoding
from internvl_rt.video import VideoSource, sample_video
from internvl_rt.voting import (
    AnyReasoning,
    BestOf,
    Vote,
    count_votes,
    extractor,
    pick_best,
    reasoning_of,
    sampled,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_LONG_TEXT = 1 << 16
"""Characters; they are tokenised in less time than a tile takes."""


class Model:
    """A bundle that is loaded into an engine. Made by ``internvl_rt.load``.

    It may be used from several threads: every call has a sequence of its own in the KV cache, whose size
    they share. Before anything is computed, a call reserves room for its prompt and its whole answer, and
    waits for it where other calls have it. A call that fails leaves the model as it was. Use it in a ``with``
    statement, or call ``close``, to free its memory at a time of your choosing.
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
        rules: PictureRules,
    ) -> None:
        self._manifest = manifest
        self._engine = GuardedEngine(engine)
        self._room = CacheRoom(engine.cache_tokens, max_wait_s)
        self._tokenizer = tokenizer
        self._renderer = renderer
        self._context_tokens = context_tokens
        self._threads = threads
        self._rules = rules
        self._constraints = Constraints(tokenizer, manifest.prompt.stop_ids, manifest.llm.vocab_size)
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
        return self._engine.cache_tokens

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
        writers = self._writers(asked.settings, num_return_sequences)
        answers = self._all_answers(self._read(asked), writers, threading.Event())
        return answers[0] if num_return_sequences is None else answers

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
        asked = ask(question, images, arguments, self._rules)
        (writer,) = self._writers(asked.settings, None)
        return AnswerStream(lambda cancelled: self._pieces(asked, writer, cancelled))

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
        writers = self._writers_of(settings)
        samples = self._all_answers(self._read(asked), writers, threading.Event())
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
        steps = [split_steps(solution) for solution in solutions]

        conversations = [
            critic_conversation(asked.conversation, parts[: i + 1])
            for parts in steps
            for i in range(len(parts))
        ]
        pictures = self._pictures(asked, conversations)
        tiles = [picture.tiles for picture in pictures]
        rendered = iter([self._rendered(one, tiles).input_ids for one in conversations])
        prompts = [[next(rendered) for _ in parts] for parts in steps]
        longest = max((ids for solution in prompts for ids in solution), key=len, default=None)
        if longest is not None:
            self._check_length(longest, tiles, asked.video)
        rope, never = self.manifest.llm.rope, threading.Event()
        _, room = shared_length(self._engine, rope, prompts)
        with self._room.reserved(room, never, self._engine.check_open):
            encoded, _ = self._encode_pictures(pictures, TileEncoding(self._engine))
            prompts = [[self._without_spare_places(ids, encoded) for ids in own] for own in prompts]
            scores = judge_steps(self._engine, self._tokenizer, rope, _joined(encoded), prompts)
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
        with _told(progress, picture.tiles) as step:
            encoded = self._encode_picture(picture, TileEncoding(self._engine, progress=step))
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
        return self._rendered(asked.conversation, asked.tiles_of_places(tiles))

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
        with _told(progress, len(pixels)) as step:
            return TileEncoding(self._engine, progress=step).encode(pixels).features

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
        embeddings = self._engine.embed(ids, features)
        room = self._engine.room(len(ids), 0, 0)
        with self._room.reserved(room, threading.Event(), self._engine.check_open):
            sequence = self._engine.new_sequence()
            try:
                return self._engine.prefill(sequence, embeddings, all_logits=True)
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
        writers = self._writers(checked, num_return_sequences)
        ids = self._checked_ids(input_ids)
        features = self._checked_features(image_features)
        self._check_length(ids, [])
        prompt = _Prompt(ids, (), perf_counter(), given=features)
        answers = self._all_answers(prompt, writers, threading.Event())
        return answers[0] if num_return_sequences is None else answers

    def close(self) -> None:
        """Frees the model's memory once the calls that are running are done. Calling it twice is fine."""
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

    def _pieces(
        self, asked: Asked, writer: Writer, cancelled: threading.Event
    ) -> Generator[Piece, None, None]:
        prompt = self._read(asked)
        with self._reserved(prompt, [writer], cancelled):
            question = self._question(prompt, cancelled)
            yield from answer_pieces(self._engine, question, writer, self._context_tokens, cancelled)

    def _all_answers(
        self, prompt: _Prompt, writers: Sequence[Writer], cancelled: threading.Event
    ) -> list[Answer]:
        with self._reserved(prompt, writers, cancelled) as at_once:
            question = self._question(prompt, cancelled)
            return all_answers(self._engine, question, writers, self._context_tokens, cancelled, at_once)

    @contextmanager
    def _reserved(
        self, prompt: _Prompt, writers: Sequence[Writer], cancelled: threading.Event
    ) -> Iterator[int]:
        """Holds room for a prompt and so many whole answers at once; see ``all_answers``."""
        tokens = len(prompt.input_ids)
        new = min(max(w.settings.max_new_tokens for w in writers), self._context_tokens - tokens)
        at_once, room = 0, self._engine.room(tokens, new, 0)
        while 1 < len(writers) > at_once:
            more = self._engine.room(tokens, new, at_once + 1)
            if more > self._room.tokens:
                break
            at_once, room = at_once + 1, more
        with self._room.reserved(room, cancelled, self._engine.check_open):
            yield at_once

    def _read(self, asked: Asked) -> _Prompt:
        """The prompt of a question, before its pictures are encoded: nothing is for one that does not fit."""
        self._engine.check_open()
        started = perf_counter() - asked.decode_ms / 1000.0
        pictures = self._pictures(asked, [asked.conversation])
        tiles = [picture.tiles for picture in pictures]
        rendered = self._rendered(asked.conversation, asked.tiles_of_places(tiles))
        self._check_length(rendered.input_ids, tiles, asked.video)
        return _Prompt(rendered.input_ids, tuple(pictures), started, asked.decode_ms, asked.progress)

    def _writers(self, settings: GenerationSettings, sequences: int | None) -> list[Writer]:
        """One writer for each of so many answers; one where the caller gave no number."""
        number = 1 if sequences is None else checked_sequences(sequences)
        if number > 1 and not settings.do_sample:
            raise PromptError(
                f"num_return_sequences={number} without do_sample would give the same answer {number} times. "
                "Set do_sample=True, and a temperature above 0."
            )
        return self._writers_of([settings] * number)

    def _writers_of(self, settings: Sequence[GenerationSettings]) -> list[Writer]:
        """A writer for each of several settings, which have seed and form in common."""
        seed = new_seed(settings[0])
        constraints = self._constraints.compile(settings[0], len(settings))
        return [
            Writer(
                own,
                TokenChooser(own, seed, index, constraint),
                Detokeniser(
                    self._tokenizer,
                    keep=own.keep_special_tokens,
                    stop=own.stop,
                    verbatim=own.constrained,
                ),
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
        tokens, tiles = self._longest(asked, conversations, pictures)
        if tokens < self._context_tokens:
            return pictures
        answer = min(asked.settings.max_new_tokens, self._context_tokens // 4)
        text = tokens - tiles * self.manifest.tokens_per_tile
        fitting = (self._context_tokens - answer - text) // self.manifest.tokens_per_tile
        for max_tiles in range(max(picture.max_tiles for picture in pictures) - 1, 0, -1):
            fewer = [picture.with_at_most(max_tiles, self.manifest.tiling) for picture in pictures]
            if sum(picture.tiles for picture in fewer) <= fitting:
                return fewer
        return pictures

    def _longest(
        self, asked: Asked, conversations: Sequence[Conversation], pictures: Sequence[_Picture]
    ) -> tuple[int, int]:
        """Tokens of the longest of several prompts, and the tiles that are in each."""
        tiles = [picture.tiles for picture in pictures]
        places = asked.tiles_of_places(tiles)
        return max((len(self._rendered(one, places).input_ids) for one in conversations), default=0), sum(
            tiles
        )

    def _picture(self, image: Image, max_tiles: int, rules: PictureRules) -> _Picture:
        """Decodes a picture, or checks that its features are this model's."""
        if isinstance(image, ImageFeatures):
            self._check_fingerprint(image)
            return _Picture(
                None, image, 0, image.tiles, image.tiles, image.image_size, image.orientation, Timings()
            )
        begun = perf_counter()
        rgb = decode_image(
            image,
            max_pixels=rules.max_pixels,
            orientation=rules.orientation,
            allow_paths=rules.allow_paths,
        )
        timings = Timings(decode_image=ms_since(begun))
        size = (rgb.shape[1], rgb.shape[0])
        tiles = count_tiles(size, self.manifest.tiling, max_tiles)
        return _Picture(rgb, None, max_tiles, tiles, tiles, size, rules.orientation, timings)

    def _encode_picture(self, picture: _Picture, encoding: TileEncoding) -> ImageFeatures:
        """The features of a picture, as one of those of a request.

        Raises:
            EncodingCancelledError: if the request was cancelled on the way.
        """
        if picture.features is not None:
            return picture.features
        assert picture.rgb is not None, "a picture has one of the two"
        begun = perf_counter()
        pixel_values, grid = tile_pixel_values(
            picture.rgb, self.manifest.tiling, picture.max_tiles, self._threads
        )
        timings = replace(picture.timings, tile=ms_since(begun))
        encoded = encoding.encode(pixel_values)
        features, tile_tokens = self._compress(encoded)
        features.setflags(write=False)
        timings = replace(timings, vit=encoded.vit_ms, projector=encoded.projector_ms)
        return ImageFeatures(
            features,
            grid,
            picture.size,
            self._fingerprint,
            timings,
            tile_tokens,
            picture.orientation,
        )

    def _compress(self, encoded: EncodedTiles) -> tuple[Float32Array, tuple[int, ...]]:
        """Puts tiles that can do with fewer tokens in the places of their features, and counts the tokens.

        Of a model without a resolution router, the features as they are, and no counts: ().
        """
        flash = self.manifest.flash
        if flash is None or encoded.compressed is None or encoded.scores is None:
            return encoded.features, ()
        few, most = self.manifest.tokens_per_compressed_tile, self.manifest.tokens_per_tile
        chosen = compressible(encoded.scores, flash)
        # Not in place: an equal tile of the next picture may be left as it is.
        features = encoded.features.copy()
        features[chosen, :few] = encoded.compressed[chosen]
        features[chosen, few:] = 0
        return features, tuple(few if less else most for less in chosen)

    def _encode_pictures(
        self, pictures: Sequence[_Picture], encoding: TileEncoding
    ) -> tuple[list[ImageFeatures], Timings]:
        """Features of all pictures, and the stages of those that were encoded now.

        No features where there are no pictures, or the request was cancelled on the way.
        """
        features: list[ImageFeatures] = []
        stages = Timings()
        for picture in pictures:
            try:
                encoded = self._encode_picture(picture, encoding)
            except EncodingCancelledError:
                return [], stages
            features.append(encoded)
            if picture.features is None:
                new = encoded.timings
                stages = replace(
                    stages,
                    decode_image=stages.decode_image + new.decode_image,
                    tile=stages.tile + new.tile,
                    vit=stages.vit + new.vit,
                    projector=stages.projector + new.projector,
                )
        return features, stages

    def _without_spare_places(
        self, input_ids: npt.NDArray[np.int64], encoded: Sequence[ImageFeatures]
    ) -> npt.NDArray[np.int64]:
        """A prompt without the image places that its tiles, once encoded, turned out not to need."""
        if not any(picture.tile_tokens for picture in encoded):
            return input_ids
        places = input_ids == self.manifest.prompt.image_context_id
        stays = ~places
        stays[places] = np.concatenate([picture.kept.reshape(-1) for picture in encoded])
        kept: npt.NDArray[np.int64] = input_ids[stays]
        return kept

    def _question(self, prompt: _Prompt, cancelled: threading.Event) -> Question:
        """The prompt with its pictures encoded; without their features where ``cancelled`` was set."""
        new_tiles = sum(picture.tiles for picture in prompt.pictures if picture.features is None)
        with _told(prompt.progress, new_tiles, cancelled) as step:
            encoding = TileEncoding(self._engine, cancelled, step)
            encoded, timings = self._encode_pictures(prompt.pictures, encoding)
        input_ids = self._without_spare_places(prompt.input_ids, encoded)
        image_tokens = int(np.count_nonzero(input_ids == self.manifest.prompt.image_context_id))
        return Question(
            input_ids=input_ids,
            features=_joined(encoded) if prompt.given is None else prompt.given,
            grounding_text=lambda ids: self._tokenizer.decode(ids, keep="grounding"),
            stop_ids=frozenset(self.manifest.prompt.stop_ids),
            timings=replace(timings, decode_image=timings.decode_image + prompt.decode_ms),
            usage=Usage(
                tiles=sum(picture.tiles for picture in prompt.pictures),
                tiles_wanted=sum(picture.tiles_wanted for picture in prompt.pictures),
                image_tokens=image_tokens,
                prompt_tokens=len(input_ids),
            ),
            image_sizes=tuple(picture.size for picture in prompt.pictures),
            orientations=tuple(picture.orientation for picture in prompt.pictures),
            started=prompt.started,
        )

    def _rendered(self, conversation: Conversation, tiles: Sequence[int]) -> RenderedPrompt:
        """A conversation's prompt, unless its text is so long that tokenising alone would take seconds.

        Raises:
            PromptError: if the text cannot fit, whatever its tokens are.
        """
        parts = [part for turn in conversation.turns for part in turn.parts if isinstance(part, str)]
        characters = sum(map(len, parts)) + len(conversation.system or "")
        # Looking for the longest token takes a while, so a text of ordinary length is not asked.
        if characters > max(_LONG_TEXT, self._context_tokens):
            most = self._context_tokens * self._tokenizer.longest_token
            if characters > most:
                raise PromptError(
                    f"the text has {characters:,} characters, which is more than the context of "
                    f"{self._context_tokens} tokens can hold: {most:,}, if all of them were the longest "
                    "token. Shorten the text."
                )
        return self._renderer.render(conversation, tiles)

    def _check_length(
        self, input_ids: npt.NDArray[np.int64], tiles: Sequence[int], video: bool = False
    ) -> None:
        tokens = len(input_ids)
        if tokens < self._context_tokens:
            return
        about, advice = "", ["shorten the text"]
        if tiles:
            pictures = "1 picture" if len(tiles) == 1 else f"{len(tiles)} pictures"
            image_tokens = sum(tiles) * self.manifest.tokens_per_tile
            about = f" {image_tokens} of them are for {sum(tiles)} tiles of {pictures}."
            advice = ["lower max_tiles", "give fewer pictures", *advice]
            if video:
                about = f" {image_tokens} of them are for {sum(tiles)} tiles of {len(tiles)} frames."
                frames = self._frames_that_fit(input_ids, len(tiles))
                advice = [f"take {frames} frames (num_frames)"] if frames else ["shorten the text"]
        rope = self.manifest.llm.rope
        most = rope.max_position_embeddings
        if self._context_tokens < most:
            advice.append(f"load the model with a larger cache_tokens (it takes contexts up to {most})")
        elif tokens < rope.longest_context:
            advice.append(
                f"load the model with a larger max_context (its rope stretches to {rope.longest_context})"
            )
        raise PromptError(
            f"the prompt has {tokens} tokens, and prompt and answer together have a context of "
            f"{self._context_tokens}.{about} What helps: {', or '.join(advice)}."
        )

    def _frames_that_fit(self, input_ids: npt.NDArray[np.int64], frames: int) -> int:
        """How many frames of a video leave a token for the answer; each counts as much as the others."""
        places = np.flatnonzero(input_ids == self.manifest.prompt.image_context_id)
        of_frames = int(places[-1]) + 1 - int(places[0])
        left = self._context_tokens - 1 - (len(input_ids) - of_frames)
        return max(0, left * frames // of_frames)

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


@contextmanager
def _told(
    progress: TileProgress | None, tiles: int, cancelled: threading.Event | None = None
) -> Iterator[Callable[[int], None] | None]:
    """While tiles are encoded: what to call with the number that is done."""
    if progress is None or tiles == 0:
        yield None
        return
    progress(0, tiles)
    yield lambda done: progress(done, tiles)
    if cancelled is None or not cancelled.is_set():
        progress(tiles, tiles)


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
    timings: Timings

    def with_at_most(self, max_tiles: int, tiling: Tiling) -> _Picture:
        """The same in so many tiles at most, the thumbnail not counted; features are as they are."""
        if self.features is not None or max_tiles >= self.max_tiles:
            return self
        return replace(self, max_tiles=max_tiles, tiles=count_tiles(self.size, tiling, max_tiles))


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


def _as_array(given: Any) -> npt.NDArray[Any]:
    """An array of any type, which the caller checks; what makes no array becomes one of objects."""
    try:
        return np.asarray(given)
    except ValueError:  # rows of different lengths
        return np.asarray(None)
