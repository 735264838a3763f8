"""Bounding boxes in answers: reading them, drawing them, and the question that asks for one.

InternVL writes ``<ref>label</ref><box>[[x1, y1, x2, y2], ...]</box>`` with coordinates from 0 to 1000
relative to the whole original picture, however it was tiled. Where special tokens were left out of the
text, ``label[[x1, y1, x2, y2]]`` remains. Asked for JSON, or of its own accord, it writes objects such as
``{"bbox_2d": [x1, y1, x2, y2], "label": "..."}`` in the same coordinates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from internvl_rt.arguments import integer_of
from internvl_rt.errors import ImageError, PromptError
from internvl_rt.files.regular import read_regular_file
from internvl_rt.prompts.control_tokens import GROUNDING_TOKENS, IMAGE_MARK

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

    from internvl_rt.answers.results import Answer
    from internvl_rt.images import ImageSource, Orientation

COORDINATE_RANGE = 1000.0
"""Coordinates are thousandths of the picture's width and height."""

LOCATE_PROMPT = (
    "Please provide the bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
)
"""The question that the models were trained on, with ``{}`` for the phrase."""

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_PAIR = rf"\[{_NUMBER},{_NUMBER}\]"
_SHAPE = re.compile(
    "|".join(
        (
            rf"\[{','.join([_NUMBER] * 4)}\]",
            rf"\[{','.join([_NUMBER] * 8)}\]",
            r"\s*,\s*".join([_PAIR] * 4),
        )
    )
)
"""A box, or one of the two ways to write the four corners of a quad."""
_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_MARK = re.compile(r"</?(?:ref|box|quad)>")
_GROUP = re.compile(r"\[[^\[\]]*\]?")
_STRING = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_OBJECT = re.compile(rf"""\{{(?:[^{{}}"']|{_STRING})*\}}?""", re.DOTALL)
"""A JSON object that holds no other one, or the beginning of one; with the quotes of Python too."""
_KEY = re.compile(rf"({_STRING})\s*:")
_NAMED = re.compile(
    rf"""["'](?:label|name|class|class_name|category|object|ref|phrase|text|text_content|description)["']"""
    rf"""\s*:\s*({_STRING})""",
    re.IGNORECASE | re.DOTALL,
)
_BOX_KEY = re.compile(
    r"(?:b?box|bounding_?box|quad|coord|position|location|region|polygon|objects?$|results?$|detections?$)",
    re.IGNORECASE,
)
"""How a key begins that says what its value is; any other key of a box names the thing."""
_BULLET = re.compile(r"\s*(?:[-*+•·#>]+\s+|\(?\d{1,3}(?:[.)](?!\d)|、))+\s*")
"""What stands in front of a line of a list."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_KEY_LENGTH = 200
"""Characters before an object in which the key is looked for whose value it is."""
_FENCE = re.compile(r"```[a-zA-Z]*")
_FAR = 1 << 24
"""What is drawn lies within so many pixels of the picture's corner."""
_FONT_BYTES = 100_000_000
_SHOWN = 60
"""Characters of the text that a problem quotes."""


@dataclass(frozen=True)
class Box:
    """A labelled rectangle in pixels of the original picture, x1 <= x2 and y1 <= y2, from the top left."""

    label: str
    """The empty string where the answer names none."""
    x1: float
    y1: float
    x2: float
    y2: float
    corners: tuple[tuple[float, float], ...] | None = None
    """The four corners (x, y) of a quad, in the order of the answer; the rectangle is the one around them."""
    orientation: Orientation = field(default="stored", compare=False, repr=False)
    """Of the picture that the pixels are counted in: turned as its EXIF says, or as it is stored."""


@dataclass(frozen=True)
class Grounding:
    """What was read from an answer."""

    boxes: tuple[Box, ...]
    problems: tuple[str, ...]
    """What was passed over or put right, a sentence each. None where the answer is as it should be."""


@dataclass(frozen=True)
class Location:
    """Where a phrase is in a picture, see ``Model.locate``."""

    phrase: str
    boxes: tuple[Box, ...]
    """In pixels of the original picture; none where the answer holds none."""
    problems: tuple[str, ...]
    """See ``Grounding``."""
    answer: Answer


def parse_boxes(text: str, image_size: tuple[int, int], *, orientation: Orientation = "stored") -> list[Box]:
    """Reads every bounding box of an answer: the boxes of ``parse_grounding``."""
    return list(parse_grounding(text, image_size, orientation=orientation).boxes)


def parse_grounding(
    text: str, image_size: tuple[int, int], *, orientation: Orientation = "stored"
) -> Grounding:
    """Reads every box and quad of an answer, and tells what is wrong with it.

    All forms are read, with the grounding tokens and without, and JSON, whole or cut off. Without grounding
    tokens a label is what stands before the box on its line, without the marks of lists and of bold type;
    in a JSON object it is the value of ``label``, ``name`` and the like, or the box's own key. Corners in
    the wrong order are swapped, coordinates outside of the picture are moved to its edge, and brackets that
    are no box are passed over; each of these is a problem that is told. Four numbers are a box, and eight a
    quad (the papers name quads and show none: their order of corners is the model's).

    Args:
        text: an answer.
        image_size: (width, height) of the original picture in pixels.
        orientation: how that picture was seen; the boxes carry it to ``draw_boxes``.

    Raises:
        PromptError: if ``text`` is no text.
        ImageError: if the size is not two positive numbers.
    """
    if not isinstance(text, str):
        raise PromptError(
            f"boxes are read from an answer's text, a str; found {type(text).__name__}. "
            "Give answer.grounding_text, or call answer.boxes()."
        )
    size = _checked_size(image_size)
    boxes: list[Box] = []
    problems: list[str] = []
    label, end = "", 0
    objects = iter([match for match in _OBJECT.finditer(text) if ":" in match[0]])
    current = next(objects, None)
    entered = False
    for match in _SHAPE.finditer(text):
        while current is not None and current.end() <= match.start():
            end = max(end, current.end())
            current, entered = next(objects, None), False
        between = text[end : match.start()]
        problems += _malformed(between)
        if current is not None and current.start() < match.start():
            if not entered:
                of_object, is_named = _label_of_object(current, text)
                entered, label = True, of_object
            keys = [] if is_named else _KEY.findall(text[max(end, current.start()) : match.start()])
            if keys:
                label = _key_as_label(keys[-1]) or of_object
            if not current[0].endswith("}"):
                problems.append(f"the object of {_quoted(match[0])} was cut off.")
        elif not boxes or between.strip(" \t\r\n[],"):
            label = _label(between)
        elif "]" in between:
            label = ""  # the group was closed and another one opened without a label
        end = match.end()
        numbers = [float(number) for number in match.groups() if number is not None]
        boxes.append(_box(label, numbers, size, orientation, _quoted(match[0]), problems))
    problems += _malformed(text[end:])
    for name in ("ref", "box", "quad"):
        opened, closed = text.count(f"<{name}>"), text.count(f"</{name}>")
        if opened != closed:
            problems.append(f"<{name}> stands {opened} times and </{name}> {closed} times.")
    return Grounding(tuple(boxes), tuple(problems))


def draw_boxes(
    image: ImageSource,
    boxes: Iterable[Box],
    *,
    line_width: int | None = None,
    font: str | Path | None = None,
    orientation: Orientation | None = None,
) -> PilImage:
    """Draws boxes and quads with their labels, a colour for each label.

    Args:
        image: anything that ``decode_image`` takes; it is not changed.
        boxes: in pixels of that picture.
        line_width: in pixels; by the picture's size where None.
        font: a TrueType or OpenType file for the labels; Pillow's own font, which is Latin, where None.
        orientation: whether the picture is turned as its EXIF says; as the boxes say where None.

    Returns:
        a new RGB picture of the same size.

    Raises:
        ImageError: if the picture or the font cannot be read, or ``line_width`` is not positive.
        PromptError: if ``boxes`` are not ``Box``, one of them has no finite coordinates in order, or they
            are of pictures that were seen in different orientations.
    """
    from PIL import Image, ImageDraw

    from internvl_rt.images import decode_image

    drawn = _checked_boxes(boxes)
    seen = orientation or _orientation_of(drawn)
    picture = Image.fromarray(decode_image(image, orientation=seen)).copy()
    if line_width is None:
        line_width = max(2, round(max(picture.size) / 250))
    width = integer_of(line_width)
    if width is None or width < 1:
        raise ImageError(f"line_width must be an integer of at least 1 pixel, not {line_width!r}.")
    letters = _font(font, max(11, round(max(picture.size) / 45)))
    draw = ImageDraw.Draw(picture)
    colours: dict[str, str] = {}
    for box in drawn:
        colour = colours.setdefault(box.label, _COLOURS[len(colours) % len(_COLOURS)])
        if box.corners is None:
            draw.rectangle((box.x1, box.y1, box.x2, box.y2), outline=colour, width=width)
        else:
            draw.line((*box.corners, box.corners[0]), fill=colour, width=width, joint="curve")
        if box.label:
            _draw_label(draw, box, colour, letters, picture.size)
    return picture


def locate_question(phrase: str, prompt: str = LOCATE_PROMPT) -> str:
    """The question for a phrase's box.

    Raises:
        PromptError: if the phrase is empty or holds a grounding token or ``<image>``, or the prompt has no
            place for it.
    """
    if not isinstance(phrase, str) or not phrase.strip():
        raise PromptError(f"a phrase that names something in the picture is expected; found {phrase!r}.")
    for token in (*GROUNDING_TOKENS, IMAGE_MARK):
        if token in phrase:
            raise PromptError(f"the phrase {phrase!r} holds {token}. Give the words alone.")
    if not isinstance(prompt, str) or prompt.count("{}") != 1:
        raise PromptError(f"a prompt for locate has one {{}} where the phrase stands; found {prompt!r:.200}.")
    return prompt.replace("{}", phrase.strip())


_COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#f032e6")


def _checked_boxes(boxes: Iterable[Box]) -> list[Box]:
    if not isinstance(boxes, Iterable):
        raise PromptError(f"draw_boxes takes a list of Box; found {type(boxes).__name__}.")
    drawn = list(boxes)
    for box in drawn:
        if not isinstance(box, Box):
            raise PromptError(f"draw_boxes takes Box, as parse_boxes makes them; found {type(box).__name__}.")
        try:
            sound = box.x1 <= box.x2 and box.y1 <= box.y2
            sound &= all(abs(x) < _FAR and abs(y) < _FAR for x, y in _corners(box))
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise PromptError(
                f"{box!r:.200} cannot be drawn: its coordinates are pixels, x1 <= x2 and y1 <= y2, each "
                f"within {_FAR} of the picture's corner."
            )
    return drawn


def _orientation_of(boxes: list[Box]) -> Orientation:
    found = {box.orientation for box in boxes}
    if len(found) > 1:
        raise PromptError(
            "some of the boxes are of the picture as its EXIF turns it, and some of it as it is stored. Draw "
            "them one after the other."
        )
    return found.pop() if found else "stored"


def _corners(box: Box) -> Iterable[tuple[float, float]]:
    return ((box.x1, box.y1), (box.x2, box.y2), *(box.corners or ()))


def _font(path: str | Path | None, size: int) -> Any:
    from PIL import ImageFont

    if path is not None:
        content = read_regular_file(path, most_bytes=_FONT_BYTES, expected="a font file", error=ImageError)
        try:
            return ImageFont.truetype(BytesIO(content), size)
        except (OSError, ImportError) as error:
            raise ImageError(f"{path}: is not a font that can be read ({error}).") from error
    try:
        return ImageFont.load_default(size)
    except (TypeError, ImportError):  # Pillow before 10.1, or without FreeType: one size
        return ImageFont.load_default()


def _draw_label(draw: Any, box: Box, colour: str, letters: Any, size: tuple[int, int]) -> None:
    text = box.label.splitlines()[0][:_SHOWN]
    try:
        left, top, right, bottom = draw.textbbox((0, 0), text, font=letters)
    except UnicodeEncodeError:  # Pillow's font of one size knows Latin 1 alone
        text = text.encode("latin-1", "replace").decode("latin-1")
        left, top, right, bottom = draw.textbbox((0, 0), text, font=letters)
    width, height = right - left + 4, bottom - top + 4
    # Above the box where there is room, and never outside of the picture.
    x = max(0.0, min(box.x1, size[0] - width))
    y = box.y1 - height if box.y1 >= height else min(box.y1, size[1] - height)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, fill="white", font=letters)


def _box(
    label: str,
    numbers: list[float],
    size: tuple[float, float],
    orientation: Orientation,
    quoted: str,
    problems: list[str],
) -> Box:
    inside = [min(max(number, 0.0), COORDINATE_RANGE) for number in numbers]
    if inside != numbers:
        problems.append(f"{quoted} has coordinates outside of 0 to 1000; they were moved to the edge.")
    points = [
        (x / COORDINATE_RANGE * size[0], y / COORDINATE_RANGE * size[1])
        for x, y in zip(inside[::2], inside[1::2], strict=True)
    ]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if len(points) == 2 and (xs[0] > xs[1] or ys[0] > ys[1]):
        problems.append(f"{quoted} has its corners in the wrong order; they were swapped.")
    if min(xs) == max(xs) or min(ys) == max(ys):
        problems.append(f"{quoted} has no area.")
    corners = tuple(points) if len(points) == 4 else None
    return Box(label, min(xs), min(ys), max(xs), max(ys), corners, orientation)


def _malformed(between: str) -> list[str]:
    """What looks like a box in a text that holds none."""
    found = []
    for match in _GROUP.finditer(between):
        inner = match[0].strip("[]")
        if "," not in inner or not any(character.isdigit() for character in inner):
            continue
        if any(mark in inner for mark in "\"'{"):
            continue  # a list of texts or of objects
        reason = "was cut off" if not match[0].endswith("]") else "is neither four numbers nor eight"
        found.append(f"{_quoted(match[0])} {reason}; it was passed over.")
    for name in ("box", "quad"):
        # A pair of marks that encloses no shape; one whose shape was read has its ends in two texts.
        enclosed = re.findall(rf"<{name}>[^<]*</{name}>", between)
        found += [f"{_quoted(whole)} holds no box." for whole in enclosed if "," not in whole]
    return found


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def _checked_size(image_size: tuple[int, int]) -> tuple[float, float]:
    try:
        width, height = (float(extent) for extent in image_size)
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"image_size must be (width, height) in pixels, not {image_size!r}.") from error
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise ImageError(f"image_size must be (width, height) in pixels, both above 0, not {image_size!r}.")
    return width, height


def _label(before: str) -> str:
    """The label of a box from the text since the last one."""
    refs = _REF.findall(before)
    if refs:
        return str(refs[-1]).strip()
    plain = _FENCE.sub("", _MARK.sub("", before))
    # The brackets that open the list of boxes, and those that closed the last one or were no box.
    plain = plain.rstrip(" \t\r\n[").rpartition("]")[2].lstrip(" \t\r\n,.;，。、；")
    return _without_markup(plain.splitlines()[-1]) if plain else ""


def _without_markup(line: str) -> str:
    """The words of a line, without the marks of lists, tables, headings, quotes and bold type."""
    line = line.rstrip(" \t|").rpartition("|")[2]
    return _BULLET.sub("", line, count=1).strip(" \t:：,，*_`\"'=-–—[")


def _label_of_object(found: re.Match[str], text: str) -> tuple[str, bool]:
    """The label of an object's boxes, and whether the object itself names it."""
    named = _NAMED.search(found[0])
    if named is not None:
        return _unquoted(named[1]), True
    # It may be the value of a key that does.
    before = text[max(0, found.start() - _KEY_LENGTH) : found.start()].rstrip(" \t\r\n[")
    keys = _KEY.findall(before)
    return (_key_as_label(keys[-1]) if keys and before.endswith(":") else ""), False


def _key_as_label(quoted: str) -> str:
    key = _unquoted(quoted)
    return "" if _BOX_KEY.match(key) else key


def _unquoted(quoted: str) -> str:
    """The text of a JSON string, or of Python's."""
    inner = quoted[1:-1]
    if quoted[0] == "'":
        inner = inner.replace("\\'", "'").replace('"', '\\"')
    try:
        found = str(json.loads(f'"{inner}"', strict=False))
    except ValueError:
        return inner.strip()
    return _LONE_SURROGATE.sub("\ufffd", found).strip()
