"""The forms that a question may take, checked and brought into one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from internvl_rt.errors import ImageError, PromptError
from internvl_rt.images.sources import PATHS_ARE_OFF, decode_base64, source_of
from internvl_rt.prompts.control_tokens import IMAGE_MARK

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""``[{"role": "user", "content": "..." | [{"type": "text", "text": "..."}, {"type": "image", ...}]}]``."""

Question: TypeAlias = str | Messages

History: TypeAlias = Sequence[tuple[str, str]]
"""Earlier (question, answer) pairs."""


Detail = Literal["low", "high", "auto"]
"""How closely a picture is looked at."""


@dataclass(frozen=True)
class ImagePlace:
    """Where one image stands in a message."""

    detail: Detail | None = None
    """The resolution that its item asks for, as in the OpenAI API; None where it does not say."""


@dataclass(frozen=True)
class Turn:
    """One message: text and image places in their order."""

    role: Literal["user", "assistant"]
    parts: tuple[str | ImagePlace, ...]


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
    if isinstance(question, str):
        turns = _from_history(question, history)
    elif isinstance(question, (list, tuple)):
        if history:
            raise PromptError("history was given beside messages. Put the earlier turns into the messages.")
        turns, carried, given = _from_messages(question, allow_paths)
        if given is not None:
            if system is not None:
                raise PromptError(
                    "the system message was given twice: as an argument and as the first message. Give one."
                )
            system = given
    else:
        raise PromptError(f"a question is a string or a list of messages; found {type(question).__name__}.")
    if system is not None and not isinstance(system, str):
        raise PromptError(f"a system message is a string; found {type(system).__name__}.")

    if carried and images:
        raise PromptError(
            f"{_count(len(images), 'image')} as an argument and {_count(len(carried), 'image')} inside the "
            "messages. Give all of them in one of the two ways."
        )
    images = carried or images
    if len(turns) == 1 and (isinstance(question, str) or isinstance(question[-1]["content"], str)):
        turns = [_with_places(turns[0], len(images))]
    places = sum(isinstance(part, ImagePlace) for turn in turns for part in turn.parts)
    check_image_count(places, len(images))
    return Conversation(tuple(turns), tuple(images), system)


def check_image_count(places: int, images: int) -> None:
    """Raises PromptError unless every image has a place and every place an image."""
    if places == images:
        return
    advice = (
        f"Give {places} images, or remove {IMAGE_MARK} marks."
        if places > images
        else f"Mark the place of every image with {IMAGE_MARK}, in the order of the images."
    )
    raise PromptError(
        f"the prompt has {_count(places, 'image place')}; {_count(images, 'image')} given. {advice}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _from_history(question: str, history: History) -> list[Turn]:
    turns: list[Turn] = []
    if isinstance(history, (str, bytes)) or not isinstance(history, Sequence):
        raise PromptError(f"history is a list of (question, answer) pairs; found {type(history).__name__}.")
    for i, pair in enumerate(history):
        match pair:
            case (str(asked), str(answered)):
                turns += [Turn("user", _marked(asked)), Turn("assistant", (answered,))]
            case _:
                raise PromptError(
                    f"history[{i}] is a (question, answer) pair of strings; found {pair!r:.200}."
                )
    return [*turns, Turn("user", _marked(question))]


def _from_messages(messages: Messages, allow_paths: bool) -> tuple[list[Turn], list[Any], str | None]:
    """The turns, the images that items carry, and the system message."""
    turns: list[Turn] = []
    carried: list[Any] = []
    bare: list[str] = []
    system: str | None = None
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise PromptError(
                f"{where} is an object with 'role' and 'content'; found {type(message).__name__}."
            )
        role = message.get("role")
        if role == "system":
            if i > 0:
                raise PromptError(f"{where} is a system message; only the first message can be one.")
            system = "".join(_texts(message, where))
            continue
        expected: Literal["user", "assistant"] = "assistant" if len(turns) % 2 else "user"
        if role != expected:
            raise PromptError(
                f"{where} has the role {role!r}; {expected!r} was expected: after an optional system "
                "message, 'user' and 'assistant' take turns."
            )
        if role == "assistant":
            turns.append(Turn("assistant", tuple(_texts(message, where))))
        else:
            turns.append(Turn("user", _user_parts(message, where, carried, bare, allow_paths)))
    if not turns or turns[-1].role != "user":
        raise PromptError("the last message must be the user's: it is the question to answer.")
    if carried and bare:
        raise PromptError(
            f"{bare[0]} carries no image while other image items do. Put an image into each, or pass all of "
            "them as images=."
        )
    return turns, carried, system


def _items(message: Mapping[str, Any], where: str) -> Iterator[tuple[str, Mapping[str, Any], Any]]:
    """The items of a content list: where each stands, itself, and its type."""
    content = message.get("content")
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise PromptError(
            f"{where}['content'] is a string or a list of items; found {type(content).__name__}."
        )
    for j, item in enumerate(content):
        place = f"{where}['content'][{j}]"
        if not isinstance(item, Mapping):
            raise PromptError(f"{place} is an object with a 'type'; found {type(item).__name__}.")
        yield place, item, item.get("type")


def _text(item: Mapping[str, Any], where: str) -> str:
    text = item.get("text")
    if not isinstance(text, str):
        raise PromptError(f"{where}['text'] is a string; found {type(text).__name__}.")
    return text


def _texts(message: Mapping[str, Any], where: str) -> Iterator[str]:
    if isinstance(message.get("content"), str):
        yield message["content"]
        return
    for place, item, kind in _items(message, where):
        if kind != "text":
            raise PromptError(
                f"{place} has the type {kind!r}; messages of the role {message['role']!r} take 'text' only."
            )
        yield _text(item, place)


def _user_parts(
    message: Mapping[str, Any], where: str, carried: list[Any], bare: list[str], allow_paths: bool
) -> tuple[str | ImagePlace, ...]:
    if isinstance(message.get("content"), str):
        return _marked(message["content"])
    parts: list[str | ImagePlace] = []
    for place, item, kind in _items(message, where):
        if kind == "text":
            parts.append(_text(item, place))
        elif kind in ("image", "image_url"):
            source = _source(item, place, allow_paths)
            if source is None:
                bare.append(place)
            else:
                carried.append(source)
            parts += [ImagePlace(_detail(item, place)), "\n"]
        else:
            raise PromptError(f"{place} has the type {kind!r}; expected 'text', 'image' or 'image_url'.")
    return tuple(parts)


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


def _marked(text: str) -> tuple[str | ImagePlace, ...]:
    parts: list[str | ImagePlace] = []
    for i, piece in enumerate(text.split(IMAGE_MARK)):
        if i:
            parts.append(ImagePlace())
        if piece:
            parts.append(piece)
    return tuple(parts)


def _with_places(turn: Turn, images: int) -> Turn:
    """A single question without marks has its images in front."""
    if images == 0 or any(isinstance(part, ImagePlace) for part in turn.parts):
        return turn
    if images == 1:
        return Turn("user", (ImagePlace(), "\n", *turn.parts))
    front: list[str | ImagePlace] = []
    for i in range(images):
        front += [f"Image-{i + 1}: ", ImagePlace(), "\n"]
    return Turn("user", (*front, *turn.parts))
