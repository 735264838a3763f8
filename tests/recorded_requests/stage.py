"""One request: what it is, how it runs, and what is written down of what came back.

What is written down is what must not change: texts, ids, reasons, counts, boxes, errors. Times are left out,
and what another library says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from math import isfinite
from typing import Any

import numpy as np

import internvl_rt as ivl
from recorded_requests.bundles import Models, Says
from recorded_requests.engine import ArithmeticEngine

Reply = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A request of the record."""

    name: str
    """It begins with the model's."""
    model: str
    run: Callable[[Stage], Any]
    says: tuple[Says, ...] = ()
    """What the engine says; noise that follows from the prompt where this is empty."""
    needs: str | None = None
    """A library without which it is left out."""


class Stage:
    """Where a request runs: a model, and the engine that it computes with."""

    def __init__(self, models: Models, request: Request) -> None:
        self.models = models
        self._request = request
        self.model, self.engine = models.loaded(request.model)
        self._stand()

    def _stand(self) -> None:
        self.engine.forget()
        self.engine.replies = self.models.replies(self._request.model, self._request.says)

    def load_anew(self) -> None:
        """Goes on with a model that no other request has."""
        self.model, self.engine = self.models.load(self._request.model)
        self._stand()

    def says(self, *told: Says) -> None:
        """The engine says something else from here on."""
        self.engine.replies = self.models.replies(self._request.model, told)

    def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Calls the model; what stands for a value that only a model has is put in."""
        filled = [self._filled(value) for value in arguments]
        named = {name: self._filled(value) for name, value in named.items()}
        return getattr(self.model, method)(*filled, **named)

    def afterwards(self) -> Reply:
        """What the model does when the request is over: its next answer needs the whole context."""
        self._stand()
        self.engine.replies = ()
        answer = self.model.chat("Next?", system="", seed=1, do_sample=True, max_new_tokens=4)
        whole = self.model.stream("Next?", system="", max_new_tokens=1 << 20)
        next(whole)
        whole.close()
        return {"next": ids_text(answer.token_ids), "free": self.engine.free_tokens}

    def _filled(self, value: Any) -> Any:
        if isinstance(value, Filled):
            return value.make(self)
        if isinstance(value, (list, tuple)):
            return type(value)(self._filled(item) for item in value)
        if isinstance(value, dict):
            return {key: self._filled(item) for key, item in value.items()}
        return value


@dataclass(frozen=True)
class Filled:
    """Stands for an argument that is made when the request runs."""

    make: Callable[[Stage], Any]


def encoded(picture: Any, **options: Any) -> Filled:
    """Its features, computed by the same model."""
    return Filled(lambda stage: stage.call("encode", picture, **options))


def iterated(values: Iterable[Any]) -> Filled:
    """An iterator over the values."""
    return Filled(lambda stage: iter(list(values)))


def model_of(bundle: str) -> Filled:
    """Another model."""
    return Filled(lambda stage: stage.models.loaded(bundle)[0])


def call(method: str, *arguments: Any, **named: Any) -> Callable[[Stage], Any]:
    """A request that is one call."""
    return lambda stage: stage.call(method, *arguments, **named)


def replied(models: Models, request: Request) -> Reply:
    """Runs a request, and tells what came back.

    Raises:
        AssertionError: if it left something in the cache.
    """
    stage = Stage(models, request)
    try:
        reply = described(request.run(stage))
    except (ivl.InternVLError, TypeError) as error:
        reply = error_of(error)
    engine: ArithmeticEngine = stage.engine
    assert models.reuses or engine.sequences == 0, f"{request.name}: {engine.sequences} sequences are left"
    return reply if isinstance(reply, dict) else {"value": reply}


def described(value: Any) -> Any:
    """What is written down of a value."""
    if isinstance(value, ivl.AnswerStream):
        return _described_stream(list(value))
    for kind, describe in _KINDS.items():
        if isinstance(value, kind):
            return describe(value)
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [described(item) for item in value]
    assert value is None or isinstance(value, (bool, int, float)), type(value)
    return value


def text(value: str) -> str:
    """A text that every file takes: lone surrogates are written out."""
    return value.encode("utf-8", "backslashreplace").decode()


def ids_text(ids: Iterable[int]) -> str:
    """Ids in one text, runs of equal ones as ``id*count``."""
    runs = ((token, len(list(run))) for token, run in groupby(int(token) for token in ids))
    return " ".join(str(token) if count == 1 else f"{token}*{count}" for token, count in runs)


def error_of(error: BaseException) -> Reply:
    """The public kind of an error, and its message without what depends on the clock or another library."""
    public = next(kind for kind in type(error).__mro__ if kind.__name__ in ivl.__all__ or kind in _BUILT_IN)
    if isinstance(error, TypeError):
        return {"error": public.__name__}
    message = text(str(error))
    for pattern, words in _NOT_OURS:
        message = re.sub(pattern, words, message)
    return {"error": public.__name__, "message": message}


_BUILT_IN = (Exception, KeyboardInterrupt, TypeError, ZeroDivisionError)
_NOT_OURS = (
    (r"\d+\.\d s\b", "# s"),
    (r"(cannot be kept: ).*", r"\1..."),
    (r"((?:malformed|cannot be decoded) \().*?(\);)", r"\1...\2"),
)


def _described_answer(answer: ivl.Answer) -> Reply:
    usage = {f.name: getattr(answer.usage, f.name) for f in fields(answer.usage)}
    reply: Reply = {
        "text": text(answer.text),
        "ids": ids_text(answer.token_ids),
        "ended": answer.finish_reason,
        "usage": {name: number for name, number in usage.items() if number},
    }
    if answer.grounding_text != answer.text:
        reply["grounding_text"] = text(answer.grounding_text)
    if answer.image_sizes:
        reply["sizes"] = [list(size) for size in answer.image_sizes]
    if set(answer.orientations) - {"stored"}:
        reply["orientations"] = list(answer.orientations)
    return reply


def described_pieces(pieces: Sequence[ivl.Piece]) -> list[Any]:
    """The text and the ids of each."""
    return [[text(piece.text), ids_text(piece.token_ids)] for piece in pieces]


def _described_stream(pieces: Sequence[ivl.Piece]) -> Reply:
    results = [piece.result for piece in pieces]
    assert [result is not None for result in results] == [False] * (len(results) - 1) + [True]
    assert results[-1] is not None
    reply = _described_answer(results[-1])
    assert "".join(piece.text for piece in pieces) == results[-1].text
    assert sum((piece.token_ids for piece in pieces), ()) == results[-1].token_ids
    del reply["ids"]
    return {"pieces": described_pieces(pieces), **reply}


def _described_box(box: ivl.Box) -> list[Any]:
    found = [text(box.label), box.x1, box.y1, box.x2, box.y2]
    return found if box.corners is None else [*found, [list(corner) for corner in box.corners]]


def _described_judgement(judgement: ivl.Judgement) -> Reply:
    # A probability is an exponential, whose last bits are the processor's.
    return {
        "score": round(judgement.score, 6),
        "steps": [text(step) for step in judgement.steps],
        "step_scores": [round(score, 6) for score in judgement.step_scores],
    }


def _described_best(best: ivl.BestOf) -> Reply:
    reply: Reply = {
        "index": best.index,
        # JSON has no infinity.
        "scores": [round(score, 6) if isfinite(score) else str(score) for score in best.scores],
        "samples": [described(sample) for sample in best.samples],
    }
    if best.judgements:
        reply["judgements"] = [described(judgement) for judgement in best.judgements]
    return reply


def _digest(array: np.ndarray[Any, Any]) -> str:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return f"{array.dtype} {list(array.shape)} {hashlib.sha256(little.tobytes()).hexdigest()[:16]}"


def _described_features(features: ivl.ImageFeatures) -> Reply:
    reply: Reply = {
        "tiles": features.tiles,
        "tokens": features.tokens,
        "grid": list(features.grid),
        "size": list(features.image_size),
        "features": _digest(features.features),
    }
    if features.tile_tokens:
        reply["tile_tokens"] = list(features.tile_tokens)
    if features.orientation != "stored":
        reply["orientation"] = features.orientation
    return reply


_KINDS: dict[Any, Callable[[Any], Any]] = {
    ivl.Answer: _described_answer,
    ivl.Box: _described_box,
    ivl.Judgement: _described_judgement,
    ivl.BestOf: _described_best,
    ivl.Vote: lambda vote: {
        "answer": described(vote.answer),
        # In their order, which an object of JSON does not keep here.
        "counts": [[text(answer), number] for answer, number in vote.counts.items()],
        "answers": described(vote.answers),
        "samples": described(vote.samples),
    },
    ivl.Location: lambda found: {
        "phrase": text(found.phrase),
        "boxes": described(found.boxes),
        "problems": described(found.problems),
        "answer": described(found.answer),
    },
    ivl.RenderedPrompt: lambda prompt: {"text": text(prompt.text), "ids": ids_text(prompt.input_ids)},
    ivl.ImageFeatures: _described_features,
    np.ndarray: _digest,
}
