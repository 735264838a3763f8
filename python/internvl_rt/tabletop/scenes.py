"""Seeded table-top scenes: coloured objects and printed labels, drawn at any size.

A scene is described in canvas pixels and can be drawn at any scale, so its boxes are exact for
every resolution. Things are drawn large (an object spans about a fifth of the picture, a character
about a sixth): the checkpoint's patches are 32 pixels of a 448-pixel tile, and what is smaller than
two patches takes far more pictures to learn.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ("cube", "ball", "cone", "cup", "ring", "star")
COLOURS = ("red", "yellow", "green", "blue", "purple", "black")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = "0123456789"
CHARACTERS = DIGITS + LETTERS

MAX_OBJECTS = 5
MAX_LABEL_LENGTH = 6

# What a label says is held out by its own text, so the rule needs no list that could drift apart.
_HELD_OUT_LABEL_SHARE = 26  # of 256

_RGB: dict[str, tuple[int, int, int]] = {
    "red": (212, 38, 38),
    "yellow": (246, 206, 28),
    "green": (36, 156, 58),
    "blue": (36, 84, 214),
    "purple": (148, 48, 176),
    "black": (34, 34, 36),
}
_TABLES: tuple[tuple[int, int, int], ...] = (
    (222, 196, 160),
    (198, 164, 122),
    (214, 214, 210),
    (176, 184, 192),
    (232, 224, 208),
    (190, 202, 186),
)
_INKS: tuple[tuple[int, int, int], ...] = ((20, 20, 24), (20, 30, 96), (110, 18, 24))

# Cell width and cap height of a printed character, in units of the font's size. Characters sit in
# cells of one width, so that the cell of each is known without asking the font for its metrics.
_CELL_WIDTH = 0.8
_CAP_HEIGHT = 0.72

Boxes = tuple[float, float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """One coloured object. `cx`, `cy`, `size` are canvas pixels; it fills a square of `size`."""

    shape: str
    colour: str
    cx: float
    cy: float
    size: float
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        """Colour and shape, the words that answers use."""
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> Boxes:
        """(x1, y1, x2, y2) in canvas pixels."""
        half = self.size / 2
        return (self.cx - half, self.cy - half, self.cx + half, self.cy + half)


@dataclass(frozen=True)
class Label:
    """A printed card. `font_size` is in canvas pixels; the card is centred on (`cx`, `cy`)."""

    text: str
    cx: float
    cy: float
    font_size: float
    ink: tuple[int, int, int]

    @property
    def name(self) -> str:
        """What questions call it."""
        return "label"

    @property
    def box(self) -> Boxes:
        """The whole card, (x1, y1, x2, y2) in canvas pixels."""
        half_width = (len(self.text) * _CELL_WIDTH + 0.3) * self.font_size / 2
        half_height = (_CAP_HEIGHT + 0.4) * self.font_size / 2
        return (
            self.cx - half_width,
            self.cy - half_height,
            self.cx + half_width,
            self.cy + half_height,
        )

    def cell(self, index: int) -> Boxes:
        """The cell of character `index`, (x1, y1, x2, y2) in canvas pixels."""
        width = _CELL_WIDTH * self.font_size
        left = self.cx + (index - len(self.text) / 2) * width
        half_height = _CAP_HEIGHT * self.font_size / 2
        return (left, self.cy - half_height, left + width, self.cy + half_height)


@dataclass(frozen=True)
class Scene:
    """A table top of `width` x `height` canvas pixels. `objects` are ordered from left to right."""

    width: int
    height: int
    table: tuple[int, int, int]
    planks: tuple[float, ...]
    objects: tuple[SceneObject, ...]
    labels: tuple[Label, ...] = field(default=())

    def normalised_box(self, box: Boxes) -> tuple[int, int, int, int]:
        """A canvas box in the family's own units: integers of 0 to 1000 over the whole picture."""
        x1, y1, x2, y2 = box
        return (
            round(x1 / self.width * 1000),
            round(y1 / self.height * 1000),
            round(x2 / self.width * 1000),
            round(y2 / self.height * 1000),
        )


def is_held_out_label(text: str) -> bool:
    """Whether a label may be used in the held-out set only (one text in ten)."""
    return hashlib.sha256(text.encode()).digest()[0] < _HELD_OUT_LABEL_SHARE


def random_label_text(rng: np.random.Generator, length: int, *, held_out: bool) -> str:
    """A word or a number of `length` characters from one side of the held-out split.

    A label is all letters or all digits, so that O and 0 can be told apart by their company; what
    could be read both ways ("O", "II") is never printed.
    """
    while True:
        alphabet = DIGITS if rng.random() < 0.4 else LETTERS
        text = "".join(alphabet[i] for i in rng.integers(0, len(alphabet), length))
        if set(text) <= set("OI0"):
            continue
        if is_held_out_label(text) == held_out:
            return text


def make_scene(
    rng: np.random.Generator,
    *,
    width: int,
    height: int,
    objects: int,
    label_lengths: tuple[int, ...] = (),
    held_out: bool = False,
    kinds: tuple[tuple[str, str], ...] | None = None,
) -> Scene:
    """Places labels, then objects, without overlap, and tries again until all of them fit.

    Args:
        rng: the stream that everything is drawn from.
        width: of the canvas in pixels; things are sized by the square root of the canvas area.
        height: of the canvas in pixels.
        objects: how many objects; their centres keep a distance along x, so that "from left to
            right" has one answer.
        label_lengths: one card per entry, with so many characters.
        held_out: which side of the label split the texts come from.
        kinds: (colour, shape) of each object; drawn at random when None.
    """
    unit = math.sqrt(width * height)
    for attempt in range(1000):
        # Crowded canvases are given smaller things after a while, never below what can be read.
        shrink = max(0.0, 1.0 - attempt / 40)
        scene = _place(rng, width, height, unit, objects, label_lengths, held_out, kinds, shrink)
        if scene is not None:
            return scene
    raise ValueError(
        f"{objects} objects and labels of {label_lengths} characters do not fit a canvas of "
        f"{width} x {height}; ask for fewer of them"
    )


def _place(
    rng: np.random.Generator,
    width: int,
    height: int,
    unit: float,
    objects: int,
    label_lengths: tuple[int, ...],
    held_out: bool,
    kinds: tuple[tuple[str, str], ...] | None,
    shrink: float,
) -> Scene | None:
    margin = 0.015 * unit
    taken: list[Boxes] = []

    def is_free(box: Boxes) -> bool:
        return all(
            box[2] + margin < other[0]
            or other[2] + margin < box[0]
            or box[3] + margin < other[1]
            or other[3] + margin < box[1]
            for other in taken
        )

    labels: list[Label] = []
    for length in label_lengths:
        room = (width - 2 * margin) / (length * _CELL_WIDTH + 0.3)
        largest = min(room, (0.18 + 0.10 * shrink) * unit)
        smallest = min(largest, 0.17 * unit)
        text = random_label_text(rng, length, held_out=held_out)
        ink = _INKS[rng.integers(len(_INKS))]
        font_size = float(rng.uniform(smallest, largest))
        at_origin = Label(text, 0.0, 0.0, font_size, ink).box
        half_width, half_height = at_origin[2], at_origin[3]
        for _ in range(20):
            cx = _between(rng, half_width + margin / 2, width - half_width - margin / 2)
            cy = _between(rng, half_height + margin / 2, height - half_height - margin / 2)
            label = Label(text, cx, cy, font_size, ink)
            if is_free(label.box):
                labels.append(label)
                taken.append(label.box)
                break
        else:
            return None

    placed: list[SceneObject] = []
    for index in range(objects):
        if kinds is None:
            colour = COLOURS[rng.integers(len(COLOURS))]
            shape = SHAPES[rng.integers(len(SHAPES))]
        else:
            colour, shape = kinds[index]
        size = float(rng.uniform(0.165, 0.20 + 0.08 * shrink)) * unit
        jitter = rng.integers(-16, 17, 3)
        base = _RGB[colour]
        rgb = (
            int(np.clip(base[0] + jitter[0], 0, 255)),
            int(np.clip(base[1] + jitter[1], 0, 255)),
            int(np.clip(base[2] + jitter[2], 0, 255)),
        )
        for _ in range(30):
            cx = _between(rng, size / 2 + margin / 2, width - size / 2 - margin / 2)
            cy = _between(rng, size / 2 + margin / 2, height - size / 2 - margin / 2)
            candidate = SceneObject(shape, colour, cx, cy, size, rgb)
            apart = all(abs(cx - other.cx) > 0.06 * width for other in placed)
            if apart and is_free(candidate.box):
                placed.append(candidate)
                taken.append(candidate.box)
                break
        else:
            return None

    table = _TABLES[rng.integers(len(_TABLES))]
    light = float(rng.uniform(0.82, 1.06))
    shade = (
        int(min(255, table[0] * light)),
        int(min(255, table[1] * light)),
        int(min(255, table[2] * light)),
    )
    planks = tuple(sorted(float(y) for y in rng.uniform(0, height, int(rng.integers(0, 4)))))
    placed.sort(key=lambda thing: thing.cx)
    return Scene(width, height, shade, planks, tuple(placed), tuple(labels))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high)) if high > low else (low + high) / 2


def draw(scene: Scene, scale: float = 1.0) -> Image.Image:
    """The picture of a scene as RGB, `scale` times as large as its canvas."""
    size = (round(scene.width * scale), round(scene.height * scale))
    picture = Image.new("RGB", size, scene.table)
    pen = ImageDraw.Draw(picture)
    seam = _shaded(scene.table, 0.9)
    for y in scene.planks:
        pen.line((0, y * scale, size[0], y * scale), fill=seam, width=max(1, round(3 * scale)))
    for label in scene.labels:
        _draw_label(pen, label, scale)
    for thing in scene.objects:
        x1, y1, x2, y2 = (value * scale for value in thing.box)
        _DRAWERS[thing.shape](pen, x1, y1, x2 - x1, y2 - y1, thing.rgb, scene.table)
    return picture


Colour = tuple[int, int, int]


def _shaded(rgb: Colour, factor: float) -> Colour:
    """Darker below 1, towards white above 1; black has to show its faces too."""
    if factor <= 1:
        return (int(rgb[0] * factor), int(rgb[1] * factor), int(rgb[2] * factor))
    lift = factor - 1
    return (
        int(rgb[0] + (255 - rgb[0]) * lift),
        int(rgb[1] + (255 - rgb[1]) * lift),
        int(rgb[2] + (255 - rgb[2]) * lift),
    )


def _draw_cube(
    pen: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float, rgb: Colour, _: Colour
) -> None:
    dx, dy = 0.28 * w, 0.28 * h
    top = [(x, y + dy), (x + dx, y), (x + w, y), (x + w - dx, y + dy)]
    side = [(x + w - dx, y + dy), (x + w, y), (x + w, y + h - dy), (x + w - dx, y + h)]
    pen.polygon(top, fill=_shaded(rgb, 1.35))
    pen.polygon(side, fill=_shaded(rgb, 0.62))
    pen.rectangle((x, y + dy, x + w - dx, y + h), fill=rgb)


def _draw_ball(
    pen: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float, rgb: Colour, _: Colour
) -> None:
    pen.ellipse((x, y, x + w, y + h), fill=rgb)
    pen.ellipse((x + 0.2 * w, y + 0.16 * h, x + 0.44 * w, y + 0.4 * h), fill=_shaded(rgb, 1.6))


def _draw_cone(
    pen: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float, rgb: Colour, _: Colour
) -> None:
    pen.ellipse((x, y + 0.74 * h, x + w, y + h), fill=_shaded(rgb, 0.7))
    pen.polygon([(x + w / 2, y), (x, y + 0.87 * h), (x + w, y + 0.87 * h)], fill=rgb)


def _draw_cup(
    pen: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float, rgb: Colour, _: Colour
) -> None:
    thick = max(2, round(0.09 * w))
    pen.ellipse((x + 0.52 * w, y + 0.25 * h, x + w, y + 0.75 * h), outline=_shaded(rgb, 0.8), width=thick)
    body = [
        (x, y + 0.12 * h),
        (x + 0.76 * w, y + 0.12 * h),
        (x + 0.64 * w, y + h),
        (x + 0.12 * w, y + h),
    ]
    pen.polygon(body, fill=rgb)
    pen.ellipse((x, y, x + 0.76 * w, y + 0.24 * h), fill=_shaded(rgb, 1.5))


def _draw_ring(
    pen: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float, rgb: Colour, table: Colour
) -> None:
    pen.ellipse((x, y, x + w, y + h), fill=rgb)
    pen.ellipse((x + 0.27 * w, y + 0.27 * h, x + 0.73 * w, y + 0.73 * h), fill=table)


def _draw_star(
    pen: ImageDraw.ImageDraw, x: float, y: float, w: float, h: float, rgb: Colour, _: Colour
) -> None:
    points = []
    for corner in range(10):
        radius = 0.5 if corner % 2 == 0 else 0.21
        angle = math.pi * corner / 5 - math.pi / 2
        points.append((math.cos(angle) * radius, math.sin(angle) * radius))
    # A star's own extent is not quite square; it is stretched to the box that answers give.
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    fitted = [
        (
            x + (px - min(xs)) / (max(xs) - min(xs)) * w,
            y + (py - min(ys)) / (max(ys) - min(ys)) * h,
        )
        for px, py in points
    ]
    pen.polygon(fitted, fill=rgb)


_DRAWERS = {
    "cube": _draw_cube,
    "ball": _draw_ball,
    "cone": _draw_cone,
    "cup": _draw_cup,
    "ring": _draw_ring,
    "star": _draw_star,
}


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; labels cannot be printed")
    return font


def _draw_label(pen: ImageDraw.ImageDraw, label: Label, scale: float) -> None:
    x1, y1, x2, y2 = (value * scale for value in label.box)
    pen.rectangle((x1, y1, x2, y2), fill=(250, 248, 240), outline=label.ink, width=2)
    font = _font(max(4, round(label.font_size * scale)))
    stroke = max(1, round(0.022 * label.font_size * scale))
    for index, character in enumerate(label.text):
        left, top, right, bottom = (value * scale for value in label.cell(index))
        pen.text(
            ((left + right) / 2, (top + bottom) / 2 + 0.36 * label.font_size * scale),
            character,
            font=font,
            fill=label.ink,
            anchor="ms",
            stroke_width=stroke,
            stroke_fill=label.ink,
        )
