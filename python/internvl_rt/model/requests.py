"""Requests: made of a prompt, handed to the scheduler, and waited for."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from internvl_rt import _core
from internvl_rt.answers.results import Answer, Piece, Timings, Usage, ms_since
from internvl_rt.answers.settings import GenerationSettings, checked_sequences
from internvl_rt.answers.structured import Constraints
from internvl_rt.bundle.manifest import Tiling
from internvl_rt.errors import PromptError
from internvl_rt.images import Orientation
from internvl_rt.model.prompt import Prompt, TileProgress


@dataclass(frozen=True)
class RunningRequest:
    """A request that the scheduler works on, and what its answers are told about."""

    request: _core.Request
    tiles: int
    """That are to be encoded, equal ones counted too."""
    progress: TileProgress | None = None
    image_sizes: tuple[tuple[int, int], ...] = ()
    orientations: tuple[Orientation, ...] = ()
    """Of the pictures; see ``Answer``."""
    ended: Callable[[Answer | None], None] | None = None
    """Is told the answer of a stream, or that nobody waits for it any more."""

    def answers(self) -> list[Answer]:
        """Waits for the end, and returns the answers.

        Raises:
            BaseException: what ended the request; an interrupt, or what the progress raised, after the
                request was ended.
        """
        try:
            while self.next_piece() is None:
                pass
        except BaseException:
            self.abandon()
            raise
        return self.finished()

    def finished(self) -> list[Answer]:
        """The answers, in the order in which they were asked for, once the last piece was taken."""
        return [self._answer(answer) for answer in self.request.answers]

    def next_piece(self) -> Piece | None:
        """Waits for an event; the piece that it brought, if it brought one."""
        return self.piece_of(self.request.next())

    def piece_of(self, event: _core.TilesEncoded | _core.Piece | _core.Ended) -> Piece | None:
        """The piece of an event. The progress is told of the others."""
        if isinstance(event, _core.TilesEncoded):
            if self.progress is not None:
                self.progress(event.tiles, self.tiles)
            return None
        if isinstance(event, _core.Piece):
            return Piece(event.text, event.token_ids)
        answers = self.request.answers
        result = self._answer(answers[0]) if answers else None
        if self.ended is not None:
            self.ended(result)
        return Piece(event.rest.text, event.rest.token_ids, result)

    def abandon(self) -> None:
        """Ends it, and waits until it has ended."""
        self.request.abandon()
        if self.ended is not None:
            self.ended(None)

    def _answer(self, answer: _core.Answer) -> Answer:
        usage = answer.usage
        return Answer(
            text=answer.text,
            token_ids=answer.token_ids,
            finish_reason=answer.finish_reason,
            timings=timings_of(answer.timings),
            usage=Usage(
                tiles=usage.tiles,
                tiles_wanted=usage.tiles_wanted,
                image_tokens=usage.image_tokens,
                prompt_tokens=usage.prompt_tokens,
                reused_tokens=usage.reused_tokens,
                dropped_turns=usage.dropped_turns,
                new_tokens=usage.new_tokens,
                forced_tokens=usage.forced_tokens,
                cached_tiles=usage.cached_tiles,
            ),
            grounding_text=answer.grounding_text,
            image_sizes=self.image_sizes,
            orientations=self.orientations,
        )


def timings_of(timings: _core.Timings) -> Timings:
    """The core's timings as the results have them."""
    return Timings(
        decode_image=timings.decode_image,
        tile=timings.tile,
        vit=timings.vit,
        projector=timings.projector,
        prefill=timings.prefill,
        first_token=timings.first_token,
        per_token=timings.per_token,
        total=timings.total,
    )


def repeated(settings: GenerationSettings, sequences: int | None) -> list[GenerationSettings]:
    """The settings of so many answers; of one where the caller gave no number.

    Raises:
        PromptError: if they would all be the same answer.
    """
    number = 1 if sequences is None else checked_sequences(sequences)
    if number > 1 and not settings.do_sample:
        raise PromptError(
            f"num_return_sequences={number} without do_sample would give the same answer {number} times. "
            "Set do_sample=True, and a temperature above 0."
        )
    return [settings] * number


def answer_requests(
    constraints: Constraints, settings: Sequence[GenerationSettings]
) -> list[_core.AnswerRequest]:
    """What each of several answers, which have seed and form in common, is asked for with.

    Raises:
        InternVLError: if the form needs a library that is not installed.
        PromptError: if the form cannot be kept.
    """
    seed = secrets.randbits(64) if settings[0].seed is None else settings[0].seed
    forms = constraints.compile(settings[0], len(settings))
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
        for index, (own, constraint) in enumerate(zip(settings, forms, strict=True))
    ]


def submit(
    scheduler: _core.Scheduler,
    tiling: Tiling,
    prompt: Prompt,
    requests: Sequence[_core.AnswerRequest],
    *,
    streamed: bool = False,
    cancelled: bool = False,
) -> RunningRequest:
    """Hands a prompt to the scheduler, which encodes its pictures and writes the answers.

    Args:
        scheduler: the model's.
        tiling: the model's rules.
        prompt: what is asked.
        requests: for each answer; none where pictures are only to be encoded.
        streamed: pieces of the one answer are wanted while it is written.
        cancelled: it is over before it begins.
    """
    new = [picture for picture in prompt.pictures if picture.features is None]
    session = prompt.session
    tiles = sum(picture.tiles for picture in prompt.pictures)
    more = 0 if session is None else sum(session.tiles) - tiles
    request = scheduler.submit(
        prompt.input_ids,
        [picture.core(tiling) for picture in prompt.pictures] if session is None else session.pictures,
        requests,
        features=prompt.given,
        elapsed_ms=ms_since(prompt.started),
        decode_image_ms=prompt.decode_ms + sum(picture.decode_ms for picture in new),
        tiles=tiles + more,
        tiles_wanted=sum(picture.tiles_wanted for picture in prompt.pictures) + more,
        dropped_turns=0 if session is None else session.dropped_turns,
        priority=prompt.priority,
        cache_salt=prompt.cache_salt,
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
