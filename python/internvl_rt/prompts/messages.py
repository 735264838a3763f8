"""The forms that a question may take, checked and brought into one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, cast, get_args

from internvl_rt._core import ImagePlace as ImagePlace
from internvl_rt._core import MessageReader, read_question
from internvl_rt._core import Turn as Turn
from internvl_rt.errors import ImageError, PromptError
from internvl_rt.images.sources import PATHS_ARE_OFF, decode_base64, source_of

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""``[{"role": "user", "content": "..." | [{"type": "text", "text": "..."}, {"type": "image", ...}]}]``."""

Question: TypeAlias = str | Messages

History: TypeAlias = Sequence[tuple[str, str]]
"""Earlier (question, answer) pairs."""


Detail = Literal["low", "high", "auto"]
"""How closely a picture is looked at."""


@dataclass(frozen=True)
class Conversation:
    """What is asked: the turns, the last one the user's, and one image for each of their image places."""

    turns: tuple[Turn, ...]
    images: tuple[Any, ...] = ()
    system: str | None = None
    """Replaces the system message of bundle and template when not None."""


def conversation(
    question: Question,
    *,
    images: Sequence[Any] = (),
    history: History = (),
    system: str | None = None,
    allow_paths: bool = True,
) -> Conversation:
    """Reads a question in any of its forms.

    In a string, and in a message of the user whose content is a string, ``<image>`` marks the place of an
    image. A single question with images and no mark gets ``<image>`` and a newline in front, or one line
    ``Image-1: <image>`` and so on for each of several images. In content that is a list, ``image`` items are
    the places, each followed by a newline as in the models' own template, and ``<image>`` in a text item is
    plain text. In answers and system messages it always is.

    Args:
        question: a string, or messages of which the last is the user's.
        images: the images in the order of their places, or none where the items of messages carry them
            (``image``, ``path``, ``url``, ``base64`` or ``image_url``).
        history: earlier (question, answer) pairs, for a question that is a string.
        system: the system message.
        allow_paths: False refuses items of messages that name files; texts from elsewhere could name any.

    Raises:
        PromptError: if the form is not one of these, or images and places are not equally many.
    """
    images = list(images)
    carried: list[Any] = []
    turns_for: Callable[[int], list[Turn]]
    if isinstance(question, str):
        turns_for = partial(read_question, question, _pairs(history))
    elif isinstance(question, (list, tuple)):
        if history:
            raise PromptError("history was given beside messages. Put the earlier turns into the messages.")
        reader, carried = _read(question, allow_paths)
        turns_for = reader.turns
        if reader.system is not None:
            if system is not None:
                raise PromptError(
                    "the system message was given twice: as an argument and as the first message. Give one."
                )
            system = reader.system
    else:
        raise PromptError(f"a question is a string or a list of messages; found {type(question).__name__}.")
    if system is not None and not isinstance(system, str):
        raise PromptError(f"a system message is a string; found {type(system).__name__}.")
    if carried and images:
        raise PromptError(
            f"{_counted(images)} as an argument and {_counted(carried)} inside the messages. Give all of "
            "them in one of the two ways."
        )
    images = carried or images
    return Conversation(tuple(turns_for(len(images))), tuple(images), system)


def _counted(images: Sequence[Any]) -> str:
    return f"{len(images)} image{'' if len(images) == 1 else 's'}"


def _pairs(history: History) -> list[tuple[str, str]]:
    if isinstance(history, (str, bytes)) or not isinstance(history, Sequence):
        raise PromptError(f"history is a list of (question, answer) pairs; found {type(history).__name__}.")
    pairs: list[tuple[str, str]] = []
    for i, pair in enumerate(history):
        match pair:
            case (str(asked), str(answered)):
                pairs.append((asked, answered))
            case _:
                raise PromptError(
                    f"history[{i}] is a (question, answer) pair of strings; found {pair!r:.200}."
                )
    return pairs


def _read(messages: Messages, allow_paths: bool) -> tuple[MessageReader, list[Any]]:
    """The reader of messages at their end, and the images that their items carry."""
    reader = MessageReader()
    carried: list[Any] = []
    bare: list[str] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise PromptError(
                f"{where} is an object with 'role' and 'content'; found {type(message).__name__}."
            )
        reader.begin_message(*_word(message.get("role")))
        content = message.get("content")
        if isinstance(content, str):
            reader.text_content(content)
            continue
        if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
            raise PromptError(
                f"{where}['content'] is a string or a list of items; found {type(content).__name__}."
            )
        for j, item in enumerate(content):
            place = f"{where}['content'][{j}]"
            if not isinstance(item, Mapping):
                raise PromptError(f"{place} is an object with a 'type'; found {type(item).__name__}.")
            if reader.begin_item(*_word(item.get("type"))) == "text":
                reader.text_item(_text(item, place))
                continue
            source = _source(item, place, allow_paths)
            if source is None:
                bare.append(place)
            else:
                carried.append(source)
            reader.image_item(ImagePlace(_detail(item, place)))
    reader.end()
    if carried and bare:
        raise PromptError(
            f"{bare[0]} carries no image while other image items do. Put an image into each, or pass all of "
            "them as images=."
        )
    return reader, carried


def _word(value: Any) -> tuple[str, str]:
    """A role or a type as the core takes it, empty where it is no string, and as errors show it."""
    return value if isinstance(value, str) else "", repr(value)


def _text(item: Mapping[str, Any], where: str) -> str:
    text = item.get("text")
    if not isinstance(text, str):
        raise PromptError(f"{where}['text'] is a string; found {type(text).__name__}.")
    return text


def _detail(item: Mapping[str, Any], where: str) -> Detail | None:
    """What the item, or its ``image_url``, says of the resolution."""
    inner = item.get("image_url")
    found = item.get("detail", inner.get("detail") if isinstance(inner, Mapping) else None)
    if found is None:
        return None
    for detail in get_args(Detail):
        if found == detail:
            return cast("Detail", detail)
    raise PromptError(f"{where}['detail'] is one of {', '.join(get_args(Detail))}; found {found!r:.100}.")


def _source(item: Mapping[str, Any], where: str, allow_paths: bool) -> Any:
    """The image that an item carries: bytes, a path, or any object under ``image``; None if it has none."""
    found = [key for key in ("image", "path", "url", "base64", "image_url") if item.get(key) is not None]
    if not found:
        return None
    if len(found) > 1:
        raise PromptError(f"{where} carries an image in {found[0]!r} and in {found[1]!r}. Give one.")
    key, value = found[0], item[found[0]]
    if key == "image_url" and isinstance(value, Mapping):
        value = value.get("url")
    if isinstance(value, os.PathLike) and not allow_paths:
        raise PromptError(f"{where}: {str(value)[:200]!r} is a path: {PATHS_ARE_OFF}")
    if not isinstance(value, str):
        if key == "image" or isinstance(value, os.PathLike):
            return value
        raise PromptError(f"{where}[{key!r}] holds a string; found {type(value).__name__}.")
    try:
        return decode_base64(value) if key == "base64" else source_of(value, allow_paths=allow_paths)
    except ImageError as error:
        raise PromptError(f"{where}: {error}") from error
