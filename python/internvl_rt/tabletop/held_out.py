"""The held-out set, and how its answers are scored, for any engine.

Held-out by construction: training draws from streams that start with (0, ...), the held-out set
from streams that start with (1, ...), and label texts are split by their own hash.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from internvl_rt.tabletop.questions import KINDS, Question, Sampler

if TYPE_CHECKING:
    from internvl_rt.model.model import Model

TRAINING_STREAM = 0
HELD_OUT_STREAM = 1

MAX_TILES = 4
"""Of a picture, as the table-top checkpoint was trained."""

_SIZES = {
    "objects": 80,
    "count": 80,
    "label": 80,
    "box": 80,
    "two_pictures": 60,
    "direction": 60,
    "text_only": 60,
}
# Canvases that tile into 2x1, 1x2 and 2x2 tiles with a thumbnail.
_TILED_CANVASES = ((760, 380), (380, 760), (800, 800))
_ONE_PICTURE_KINDS = ("objects", "count", "label", "box")

_BOX = re.compile(r"<ref>(?P<phrase>.*?)</ref>\s*<box>\[\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]\]</box>")

Answer = Callable[[str, list[Image.Image]], str]


@dataclass(frozen=True)
class KindAccuracy:
    """How many of `asked` questions were answered right."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        """Right answers as a fraction, 0 to 1."""
        return self.right / self.asked if self.asked else 0.0


@dataclass(frozen=True)
class Mistake:
    """A wrong answer, kept so that a report can show it."""

    kind: str
    question: str
    expected: str
    answered: str


@dataclass(frozen=True)
class Evaluation:
    """Accuracy per kind of question; `tiled` counts again those whose picture takes several tiles."""

    kinds: dict[str, KindAccuracy]
    tiled: KindAccuracy
    seconds: float
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def overall(self) -> KindAccuracy:
        """All kinds together."""
        return KindAccuracy(
            sum(accuracy.right for accuracy in self.kinds.values()),
            sum(accuracy.asked for accuracy in self.kinds.values()),
        )


def held_out_questions() -> list[Question]:
    """The 500 questions, always the same: 80 of each one-picture kind, 60 of each other.

    Pictures are 320 to 600 pixels a side, nearly square, which is one tile; every eighth picture of
    the one-picture kinds is wide, tall or large and takes several. Ask them with at most four
    tiles per picture, as the checkpoint's own config says.
    """
    questions = []
    for kind_index, kind in enumerate(KINDS):
        for index in range(_SIZES[kind]):
            rng = np.random.default_rng((HELD_OUT_STREAM, kind_index, index))
            if kind in _ONE_PICTURE_KINDS and index % 8 == 7:
                canvas = _TILED_CANVASES[index // 8 % 3]
            else:
                side = int(rng.integers(340, 560))
                ratio = float(np.exp(rng.uniform(-0.11, 0.11)))
                canvas = (round(side * ratio), round(side / ratio))
            questions.append(Sampler(rng, held_out=True).ask(kind, canvas))
    return questions


def is_tiled(question: Question) -> bool:
    """Whether its picture takes several tiles and a thumbnail."""
    return any((scene.width, scene.height) in _TILED_CANVASES for scene in question.scenes)


def is_right(question: Question, answered: str) -> bool:
    """Exact match; for boxes the named phrase has to match and the IoU has to exceed one half."""
    if question.box is None:
        return answered.strip() == question.answer
    match, expected = _BOX.fullmatch(answered.strip()), _BOX.fullmatch(question.answer)
    if match is None or expected is None or match["phrase"] != expected["phrase"]:
        return False
    x1, y1, x2, y2 = (int(value) for value in match.groups()[1:])
    return iou((x1, y1, x2, y2), question.box) > 0.5


def iou(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2); 0 for boxes without an area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return both / (areas - both)


def answers_of(model: Model) -> Answer:
    """How the held-out questions are put to a loaded model: greedily, its pictures tiled as in training."""

    def answer(question: str, images: list[Image.Image]) -> str:
        return model.chat(
            question, images, max_tiles=MAX_TILES, max_new_tokens=64, keep_special_tokens="grounding"
        ).text

    return answer


def evaluate(answer: Answer, questions: Iterable[Question] | None = None) -> Evaluation:
    """Asks every question and scores the answers.

    Args:
        answer: (question text, pictures) to the answer's text. The text keeps the grounding tokens
            `<ref>`, `</ref>`, `<box>` and `</box>`, and greedy decoding is expected.
        questions: the held-out set when None.
    """
    right = dict.fromkeys(KINDS, 0)
    asked = dict.fromkeys(KINDS, 0)
    tiled_right = tiled_asked = 0
    mistakes = []
    started = time.perf_counter()
    for question in held_out_questions() if questions is None else questions:
        answered = answer(question.text, question.images())
        good = is_right(question, answered)
        asked[question.kind] += 1
        right[question.kind] += good
        if is_tiled(question):
            tiled_asked += 1
            tiled_right += good
        if not good:
            mistakes.append(Mistake(question.kind, question.text, question.answer, answered))
    return Evaluation(
        kinds={kind: KindAccuracy(right[kind], asked[kind]) for kind in KINDS if asked[kind]},
        tiled=KindAccuracy(tiled_right, tiled_asked),
        seconds=time.perf_counter() - started,
        mistakes=mistakes,
    )


def checkpoint_folder() -> Path:
    """The finished checkpoint that ships with the package, in the authors' format."""
    folder = Path(str(resources.files("internvl_rt.tabletop"))) / "checkpoint"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder} holds no model.safetensors; train one as training/README.md says, and export it there"
        )
    return folder
