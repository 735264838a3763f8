"""Bounding boxes in answers.

InternVL writes ``<ref>label</ref><box>[[x1, y1, x2, y2], ...]</box>`` with coordinates from 0 to 1000
relative to the whole original picture, however it was tiled. Where special tokens were left out of the
text, ``label[[x1, y1, x2, y2]]`` remains.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from internvl_rt.errors import ImageError, PromptError

COORDINATE_RANGE = 1000.0
"""Coordinates are thousandths of the picture's width and height."""

_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_QUAD = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_REF = re.compile(r"<ref>(.*?)</ref>", re.DOTALL)
_MARK = re.compile(r"</?(?:ref|box|quad)>")


@dataclass(frozen=True)
class Box:
    """A labelled rectangle in pixels of the original picture, x1 <= x2 and y1 <= y2, from the top left."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float


def parse_boxes(text: str, image_size: tuple[int, int]) -> list[Box]:
    """Reads every bounding box of an answer.

    Both forms are read, with the grounding tokens and without. Without them a label is what stands
    before the box on its line. Corners in the wrong order are swapped, coordinates outside of the picture
    are moved to its edge, and brackets that are not four numbers are passed over.

    Args:
        text: an answer.
        image_size: (width, height) of the original picture in pixels.

    Raises:
        PromptError: if ``text`` is no text.
        ImageError: if the size is not two positive numbers.
    """
    if not isinstance(text, str):
        raise PromptError(
            f"boxes are read from an answer's text, a str; found {type(text).__name__}. "
            "Give answer.grounding_text, or call answer.boxes()."
        )
    width, height = _checked_size(image_size)
    boxes: list[Box] = []
    label, end = "", 0
    for match in _QUAD.finditer(text):
        between = text[end : match.start()]
        end = match.end()
        if not boxes or between.strip(" \t\r\n[],"):
            label = _label(between)
        elif "]" in between:
            label = ""  # the group was closed and another one opened without a label
        x1, y1, x2, y2 = (min(max(float(value), 0.0), COORDINATE_RANGE) for value in match.groups())
        boxes.append(
            Box(
                label,
                min(x1, x2) / COORDINATE_RANGE * width,
                min(y1, y2) / COORDINATE_RANGE * height,
                max(x1, x2) / COORDINATE_RANGE * width,
                max(y1, y2) / COORDINATE_RANGE * height,
            )
        )
    return boxes


def _checked_size(image_size: tuple[int, int]) -> tuple[float, float]:
    try:
        width, height = (float(extent) for extent in image_size)
    except (TypeError, ValueError) as error:
        raise ImageError(f"image_size must be (width, height) in pixels, not {image_size!r}.") from error
    if not (0 < width < float("inf") and 0 < height < float("inf")):
        raise ImageError(f"image_size must be (width, height) in pixels, both above 0, not {image_size!r}.")
    return width, height


def _label(before: str) -> str:
    """The label of a box from the text since the last one."""
    refs = _REF.findall(before)
    if refs:
        return str(refs[-1]).strip()
    plain = _MARK.sub("", before)
    # The brackets that open the list of boxes, and those that closed the last one.
    plain = plain.rstrip(" \t\r\n[").lstrip(" \t\r\n],.;")
    return plain.splitlines()[-1].strip(" \t:") if plain else ""
