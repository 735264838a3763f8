"""Questions about table-top scenes, in English and Chinese, with the answers that are expected.

A question's text holds everything that the prompt needs besides the template: one picture is left
to the template (it puts `<image>` and a newline in front), several pictures carry the family's own
markers (`Image-1: <image>`, `Frame1: <image>`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from internvl_rt.tabletop.scenes import (
    COLOURS,
    MAX_OBJECTS,
    SHAPES,
    Boxes,
    Label,
    Scene,
    SceneObject,
    draw,
    make_scene,
    random_label_text,
)

KINDS = ("objects", "count", "label", "box", "two_pictures", "direction", "text_only")
LANGUAGES = ("en", "zh")

_ZH = {
    "cube": "方块",
    "ball": "球",
    "cone": "圆锥",
    "cup": "杯子",
    "ring": "圆环",
    "star": "星星",
    "red": "红色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "black": "黑色",
    "label": "标签",
}

# Every fixed text; `{}` is a name or a string. The tokenizer is trained on these too, so that a
# sentence costs few tokens.
TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "objects": {
        "en": (
            "What objects are on the table, from left to right?",
            "List the objects from left to right.",
        ),
        "zh": ("桌上从左到右有哪些物体？", "请从左到右列出物体。"),
    },
    "count_all": {"en": ("How many objects are on the table?",), "zh": ("桌上有几个物体？",)},
    "count_colour": {"en": ("How many {} objects are there?",), "zh": ("有几个{}的物体？",)},
    "count_shape": {"en": ("How many {}s are there?",), "zh": ("有几个{}？",)},
    "label": {
        "en": ("What does the label say?", "What is printed on the label?"),
        "zh": ("标签上写的是什么？", "标签上印了什么？"),
    },
    "box": {
        "en": (
            "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>",
            "Where is the {}?",
        ),
        "zh": ("请给出<ref>{}</ref>的位置。", "{}在哪里？"),
    },
    "two_pictures": {
        "en": ("Which picture contains a {}?", "In which picture is there a {}?"),
        "zh": ("哪张图片里有{}？", "{}在哪张图片里？"),
    },
    "direction": {
        "en": ("In which direction does the {} move?", "Which way does the {} move?"),
        "zh": ("{}向哪个方向移动？", "{}往哪边移动？"),
    },
    "repeat": {"en": ('Repeat "{}".',), "zh": ('请重复"{}"。',)},
    "plus": {"en": ("What is {} plus {}?",), "zh": ("{}加{}等于几？",)},
    "after": {"en": ("Which number comes after {}?",), "zh": ("{}的下一个数是几？",)},
}

_FIXED: dict[str, tuple[tuple[str, str], ...]] = {
    "en": (
        ("Who are you?", "I am a small model that looks at table tops."),
        ("What can you do?", "I name, count, read and find things on a table."),
        ("Hello", "Hello! Show me a table top."),
        ("What is the opposite of left?", "right"),
        ("What is the opposite of up?", "down"),
    ),
    "zh": (
        ("你是谁？", "我是一个看桌面的小模型。"),
        ("你能做什么？", "我能说出、数出、读出和找到桌上的东西。"),
        ("你好", "你好！请给我看桌面的图片。"),
        ("左的反义词是什么？", "右"),
        ("上的反义词是什么？", "下"),
    ),
}

NOTHING = {"en": "nothing", "zh": "没有物体"}
PICTURE_ANSWERS = {"en": ("Image-1", "Image-2"), "zh": ("第一张", "第二张")}
DIRECTIONS = ("left", "right", "up", "down")
_DIRECTION_ANSWERS = {"en": DIRECTIONS, "zh": ("向左", "向右", "向上", "向下")}
TWO_PICTURES = "Image-1: <image>\nImage-2: <image>\n"
FOUR_FRAMES = "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\nFrame4: <image>\n"

# Answered coordinates are multiples of this (in thousandths of the picture). An object is at least
# 160 wide, so the rounding alone never costs more than a tenth of the overlap.
BOX_LATTICE = 10


@dataclass(frozen=True)
class Look:
    """Where in the pictures one sees how the answer goes on from its character `at`.

    `things` are (number of the picture, canvas box); several where any of them shows it.
    """

    at: int
    things: tuple[tuple[int, Boxes], ...]


@dataclass(frozen=True)
class Question:
    """`text` and `answer` are exactly what is asked and expected; `box` is set for `box` only.

    `looks` are the places of the answer that need a look at something in particular.
    """

    kind: str
    language: str
    text: str
    answer: str
    scenes: tuple[Scene, ...] = ()
    box: tuple[int, int, int, int] | None = None
    scale: float = field(default=1.0, compare=False)
    looks: tuple[Look, ...] = field(default=(), compare=False)

    def images(self) -> list[Image.Image]:
        """The pictures to be asked about, in the order of the markers in the text."""
        return [draw(scene, self.scale) for scene in self.scenes]


def named(thing: str, language: str) -> str:
    """The English name ("red cube") as it stands in a sentence of the language."""
    if language == "en":
        return thing
    return "".join(_ZH[word] for word in thing.split())


def list_of(names: list[str], language: str) -> str:
    """The answer that lists things, in the order given."""
    if not names:
        return NOTHING[language]
    return (", " if language == "en" else "、").join(named(name, language) for name in names)


def count_answer(names: list[str], language: str) -> str:
    """What was counted, and how many that is: "red cup, blue cup: 2". Nothing is "0".

    A number alone would have to be seen at one glance, and attention, whose weights sum to one, hardly
    tells two things from one; named one after the other, they are counted by counting words.
    """
    if not names:
        return "0"
    return f"{list_of(names, language)}{': ' if language == 'en' else '：'}{len(names)}"


def box_answer(phrase: str, box: tuple[int, int, int, int]) -> str:
    """The family's grounding form; `box` is in thousandths of the picture."""
    return f"<ref>{phrase}</ref><box>[[{', '.join(str(value) for value in box)}]]</box>"


def fixed_texts() -> Iterator[str]:
    """Every text that questions and answers are made of, in the pieces that words come in."""
    for by_language in TEMPLATES.values():
        for texts in by_language.values():
            for text in texts:
                yield from text.split("{}")
    for pairs in _FIXED.values():
        for question, answer in pairs:
            yield question
            yield answer
    for shape in SHAPES:
        yield from (shape, f" {shape}", f" {shape}s", _ZH[shape])
    for colour in COLOURS:
        yield from (colour, f" {colour}", _ZH[colour])
    yield from (" label", "label", _ZH["label"], ", ", "、", TWO_PICTURES, FOUR_FRAMES)
    for language in LANGUAGES:
        yield NOTHING[language]
        yield from PICTURE_ANSWERS[language]
        yield from _DIRECTION_ANSWERS[language]


class Sampler:
    """Draws scenes and asks about them, from one seeded stream.

    Args:
        rng: the stream; whoever makes it decides which side of the split it is (see `held_out`).
        held_out: print only labels that training never sees.
        max_label_length: of the labels that are asked about.
        max_objects: in one picture; fewer make an easier start for training.
    """

    def __init__(
        self, rng: np.random.Generator, *, held_out: bool = False, max_label_length: int = 4
    ) -> None:
        self.rng = rng
        self.held_out = held_out
        self.max_label_length = max_label_length
        self.max_objects = MAX_OBJECTS

    def ask(self, kind: str, canvas: tuple[int, int] = (448, 448)) -> Question:
        """A new scene (or two, or four) and one question of the kind about it."""
        language = LANGUAGES[self.rng.integers(2)]
        while True:
            question = self._try_to_ask(kind, language, canvas)
            if question is not None:
                return question

    def _try_to_ask(self, kind: str, language: str, canvas: tuple[int, int]) -> Question | None:
        if kind == "text_only":
            return self.text_only(language)
        if kind == "direction":
            return self.direction(language, self.frames(canvas))
        if kind == "two_pictures":
            return self.two_pictures(language, (self.scene(canvas), self.scene(canvas)))
        scene = self.scene(canvas, with_label=True if kind == "label" else None)
        return self.about(kind, language, scene)

    def about(self, kind: str, language: str, scene: Scene) -> Question | None:
        """A question of a one-picture kind, or None where the scene has no answer to it."""
        if kind == "objects":
            text = self._template("objects", language)
            answer = list_of([thing.name for thing in scene.objects], language)
            looks = _looks_at_list(scene.objects, language)
            return Question(kind, language, text, answer, (scene,), looks=looks)
        if kind == "count":
            return self._count(language, scene)
        if kind == "label":
            if not scene.labels:
                return None
            text = self._template("label", language)
            (label,) = scene.labels
            looks = tuple(Look(i, ((0, label.cell(i)),)) for i in range(len(label.text)))
            return Question(kind, language, text, label.text, (scene,), looks=looks)
        if kind == "box":
            return self._box(language, scene)
        raise ValueError(f"{kind!r} is not asked about one picture; expected one of {KINDS[:4]}")

    def scene(self, canvas: tuple[int, int], with_label: bool | None = None) -> Scene:
        """One to five objects; with a label, up to three."""
        if with_label is None:
            with_label = bool(self.rng.random() < 0.3)
        lengths: tuple[int, ...] = ()
        if with_label:
            lengths = (self._label_length(),)
            objects = int(self.rng.integers(0, min(3, self.max_objects) + 1))
        else:
            objects = int(self.rng.integers(1, self.max_objects + 1))
        return make_scene(
            self.rng,
            width=canvas[0],
            height=canvas[1],
            objects=objects,
            label_lengths=lengths,
            held_out=self.held_out,
            kinds=tuple(self._kinds(objects)),
        )

    def _label_length(self) -> int:
        # There are only 36 labels of one character, so they are asked about seldom.
        return 1 if self.rng.random() < 0.06 else int(self.rng.integers(2, self.max_label_length + 1))

    def _kinds(self, objects: int) -> list[tuple[str, str]]:
        """Independent kinds would hardly ever repeat a colour or shape, and counts would be 0 or 1."""
        kinds: list[tuple[str, str]] = []
        for _ in range(objects):
            colour = COLOURS[self.rng.integers(len(COLOURS))]
            shape = SHAPES[self.rng.integers(len(SHAPES))]
            if kinds and self.rng.random() < 0.3:
                other = kinds[self.rng.integers(len(kinds))]
                if self.rng.random() < 0.5:
                    colour = other[0]
                else:
                    shape = other[1]
            kinds.append((colour, shape))
        return kinds

    def frames(self, canvas: tuple[int, int]) -> tuple[tuple[Scene, ...], str, str]:
        """Four frames in which one object moves: (frames, its name, the direction)."""
        while True:
            objects = int(self.rng.integers(1, min(3, self.max_objects) + 1))
            scene = make_scene(
                self.rng, width=canvas[0], height=canvas[1], objects=objects, held_out=self.held_out
            )
            mover = scene.objects[self.rng.integers(objects)]
            if sum(thing.name == mover.name for thing in scene.objects) > 1:
                continue
            direction = DIRECTIONS[self.rng.integers(4)]
            moved = self._moved(scene, mover, direction)
            if moved is not None:
                return moved, mover.name, direction

    def _moved(self, scene: Scene, mover: SceneObject, direction: str) -> tuple[Scene, ...] | None:
        along_x = direction in ("left", "right")
        sign = -1 if direction in ("left", "up") else 1
        length = float(self.rng.uniform(0.24, 0.5)) * (scene.width if along_x else scene.height)
        places = []
        for step in range(4):
            shift = sign * length * step / 3
            sway = float(self.rng.normal(0, 0.006)) * math.sqrt(scene.width * scene.height)
            cx = mover.cx + (shift if along_x else sway)
            cy = mover.cy + (sway if along_x else shift)
            places.append(replace(mover, cx=cx, cy=cy))
        others = [thing for thing in scene.objects if thing is not mover]
        for place in places:
            x1, y1, x2, y2 = place.box
            if x1 < 2 or y1 < 2 or x2 > scene.width - 2 or y2 > scene.height - 2:
                return None
            if any(_overlap(place.box, other.box) for other in others):
                return None
        return tuple(
            replace(scene, objects=tuple(sorted([*others, place], key=lambda thing: thing.cx)))
            for place in places
        )

    def direction(self, language: str, moving: tuple[tuple[Scene, ...], str, str]) -> Question:
        """Asks which way the mover of `frames` goes."""
        frames, name, direction = moving
        text = FOUR_FRAMES + self._template("direction", language, named(name, language))
        answer = _DIRECTION_ANSWERS[language][DIRECTIONS.index(direction)]
        return Question("direction", language, text, answer, frames)

    def two_pictures(self, language: str, scenes: tuple[Scene, Scene]) -> Question | None:
        """Asks for something that exactly one of the two pictures contains."""
        holding = [
            {thing.name for thing in scene.objects} | ({"label"} if scene.labels else set())
            for scene in scenes
        ]
        choices = sorted(holding[0] ^ holding[1])
        if not choices:
            return None
        name = choices[self.rng.integers(len(choices))]
        text = TWO_PICTURES + self._template("two_pictures", language, named(name, language))
        picture = 0 if name in holding[0] else 1
        answer = PICTURE_ANSWERS[language][picture]
        things: list[SceneObject | Label] = [*scenes[picture].objects, *scenes[picture].labels]
        shown = tuple((picture, thing.box) for thing in things if thing.name == name)
        return Question("two_pictures", language, text, answer, scenes, looks=(Look(0, shown),))

    def text_only(self, language: str) -> Question:
        """No picture: what it is, small sums, what comes next, and strings to repeat."""
        kind = self.rng.random()
        if kind < 0.25:
            pairs = _FIXED[language]
            text, answer = pairs[self.rng.integers(len(pairs))]
        elif kind < 0.5:
            a, b = (int(value) for value in self.rng.integers(0, 10, 2))
            text = TEMPLATES["plus"][language][0].format(a, b)
            answer = str(a + b)
        elif kind < 0.6:
            a = int(self.rng.integers(0, 20))
            text = TEMPLATES["after"][language][0].format(a)
            answer = str(a + 1)
        else:
            answer = random_label_text(self.rng, self._label_length(), held_out=self.held_out)
            text = TEMPLATES["repeat"][language][0].format(answer)
        return Question("text_only", language, text, answer)

    def _count(self, language: str, scene: Scene) -> Question:
        # Half of the questions name something that is there, or "0" would answer most of them.
        present = bool(scene.objects) and self.rng.random() < 0.75
        thing = scene.objects[self.rng.integers(len(scene.objects))] if present else None
        kind = self.rng.random()
        if kind < 0.2:
            text, counted = self._template("count_all", language), list(scene.objects)
        elif kind < 0.6:
            colour = thing.colour if thing else COLOURS[self.rng.integers(len(COLOURS))]
            text = self._template("count_colour", language, named(colour, language))
            counted = [other for other in scene.objects if other.colour == colour]
        else:
            shape = thing.shape if thing else SHAPES[self.rng.integers(len(SHAPES))]
            text = self._template("count_shape", language, named(shape, language))
            counted = [other for other in scene.objects if other.shape == shape]
        answer = count_answer([other.name for other in counted], language)
        return Question("count", language, text, answer, (scene,), looks=_looks_at_list(counted, language))

    def _box(self, language: str, scene: Scene) -> Question | None:
        names = [thing.name for thing in scene.objects]
        choices: list[tuple[str, Boxes]] = [
            (thing.name, thing.box) for thing in scene.objects if names.count(thing.name) == 1
        ]
        choices += [("label", label.box) for label in scene.labels]
        if not choices:
            return None
        name, canvas_box = choices[self.rng.integers(len(choices))]
        phrase = named(name, language)
        box = scene.normalised_box(canvas_box)
        x1, y1, x2, y2 = (round(value / BOX_LATTICE) * BOX_LATTICE for value in box)
        answer = box_answer(phrase, (x1, y1, x2, y2))
        text = self._template("box", language, phrase)
        coordinates = (match.start() for match in re.finditer(r"\d+", answer))
        looks = tuple(Look(at, ((0, canvas_box),)) for at in coordinates)
        return Question("box", language, text, answer, (scene,), box, looks=looks)

    def _template(self, name: str, language: str, *slots: str) -> str:
        texts = TEMPLATES[name][language]
        return texts[self.rng.integers(len(texts))].format(*slots)


def _looks_at_list(things: Sequence[SceneObject], language: str) -> tuple[Look, ...]:
    """For every name of the list that the answer begins with, and for the separators: what goes on there."""
    separator = len(list_of(["", ""], language))
    looks: list[Look] = []
    at = 0
    for thing in things:
        shown = ((0, thing.box),)
        if looks:
            looks.append(Look(at, shown))
            at += separator
        looks.append(Look(at, shown))
        at += len(named(thing.name, language))
    return tuple(looks)


def _overlap(first: Boxes, second: Boxes) -> bool:
    gap = 4.0
    return (
        first[0] < second[2] + gap
        and second[0] < first[2] + gap
        and first[1] < second[3] + gap
        and second[1] < first[3] + gap
    )
