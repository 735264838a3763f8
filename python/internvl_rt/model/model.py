"""A model that is asked: questions in, answers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, cast, overload

from internvl_rt import _core
from internvl_rt._core import RenderedPrompt
from internvl_rt.answers.critic import Judgement
from internvl_rt.answers.grounding import LOCATE_PROMPT, Location, locate_question
from internvl_rt.answers.reasoning import with_reasoning
from internvl_rt.answers.results import Answer, ImageFeatures, ms_since
from internvl_rt.answers.settings import (
    checked_sequences,
)
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
from internvl_rt.errors import PromptError
from internvl_rt.images import Orientation
from internvl_rt.images.video import VideoSource, sample_video
from internvl_rt.model.answer_stream import AnswerStream, AsyncAnswerStream
from internvl_rt.model.asking import AskArguments, Asked, Image, TileBudget, ask
from internvl_rt.model.judging import judge
from internvl_rt.model.loaded_model import LoadedModel
from internvl_rt.model.prompt import Prompt, TileProgress
from internvl_rt.model.requests import RunningRequest, repeated
from internvl_rt.model.session import Session
from internvl_rt.prompts.messages import Detail, Messages

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Model(LoadedModel):
    """A bundle that is loaded into an engine. Made by ``internvl_rt.load``.

    It may be used from several threads, and by many tasks of asyncio: their answers are written together, and
    none depends on the others. They share the size of the KV cache. Before anything is computed for a call,
    there is room for its prompt and the first tokens of its answer; where answers grow into each other, the
    ones that came last are written on later. A call that fails leaves the model as it was. Use it in a
    ``with`` statement, or call ``close``, to free its memory at a time of your choosing.
    """

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
            arguments: about the question, see ``AskArguments``; about the answer and its form, see
                ``GenerationSettings``.

        Returns:
            the answer; a list of answers where ``num_return_sequences`` was given.

        Raises:
            PromptError: if the question, its length or a setting does not fit the model.
            ImageError: if a picture cannot be decoded, or its features are of another bundle.
            CacheFullError: if other calls kept the room that this one needs for longer than ``max_wait_s``.
        """
        asked = ask(question, images, arguments, self._rules)
        requests = self._requests(repeated(asked.settings, num_return_sequences))
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
        return await self.astream(question, images, **arguments).whole()

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

    def session(self, system: str | None = None) -> Session:
        """Begins a conversation that goes on from one question to the next; see ``Session``.

        Args:
            system: replaces the system message.

        Raises:
            PromptError: if ``system`` is no text.
        """
        if system is not None and not isinstance(system, str):
            raise PromptError(f"system must be a text, not {system!r:.100}.")
        self._scheduler.check_open()
        conversation = _core.Session(self._planner, context_tokens=self._context_tokens, system=system)

        def begin(prompt: Prompt, requests: Sequence[_core.AnswerRequest], cancelled: bool) -> RunningRequest:
            self._scheduler.check_open()
            return self._submit(prompt, requests, streamed=True, cancelled=cancelled)

        return Session(
            conversation, self._preprocessor, self._rules, self._requests, begin, self._scheduler.cut
        )

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
        settings = [replace(asked.settings, do_sample=False), *[asked.settings] * (n - 1)]
        samples = self._submit(self._read(asked), self._requests(settings)).answers()
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
            max_tiles: this and the others are about the pictures, see ``AskArguments``.
            detail: see there.
            video: see there.
            num_frames: see there.
            orientation: see there.
            allow_paths: see there.

        Returns:
            a judgement of each solution.

        Raises:
            PromptError: if the question or a solution does not fit the model.
            ImageError: as ``chat``.
            CacheFullError: as ``chat``.
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
        return judge(
            ask(question, images, about, self._rules),
            solutions,
            manifest=self._manifest,
            engine=self._engine,
            scheduler=self._scheduler,
            tokenizer=self._tokenizer,
            preprocessor=self._preprocessor,
            encoder=self._encoder,
        )

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
            max_tiles: see ``AskArguments``.
            detail: see ``AskArguments``.
            orientation: see ``AskArguments``.
            allow_paths: see ``AskArguments``.
            progress: is told how many of the picture's tiles are encoded; see ``TileProgress``.

        Raises:
            ImageError: if the picture cannot be decoded, or its features are of another bundle.
            PromptError: if ``detail`` is none of the three, or given beside ``max_tiles``.
        """
        started = perf_counter()
        most = TileBudget(max_tiles, detail).per_picture(self.manifest.tiling, 1)
        rules = self._rules.overridden(orientation, allow_paths)
        picture = self._preprocessor.picture(image, most, rules)
        if picture.features is not None:
            return picture.features
        encoded = self._encoder.encode(picture, progress)
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
        return self._preprocessor.render(ask(question, images, arguments, self._rules))

    def _start_of(
        self,
        question: str | Messages,
        images: Sequence[Image] | Image | None,
        arguments: AskArguments,
    ) -> Callable[[bool], RunningRequest]:
        """Checks a question's form and settings; what it returns begins to answer it."""
        asked = ask(question, images, arguments, self._rules)
        requests = self._requests([asked.settings])
        return lambda cancelled: self._submit(self._read(asked), requests, streamed=True, cancelled=cancelled)

    def _read(self, asked: Asked) -> Prompt:
        self._scheduler.check_open()
        return self._preprocessor.read(asked)
