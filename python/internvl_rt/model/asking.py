"""What is asked: a question in any of its forms, its pictures, and at what resolution they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast, get_args

from internvl_rt import _core
from internvl_rt.answers.results import ImageFeatures
from internvl_rt.answers.settings import GenerationArguments, GenerationSettings, generation_settings
from internvl_rt.arguments import checked_integer
from internvl_rt.bundle.manifest import Tiling
from internvl_rt.errors import ImageError, PromptError
from internvl_rt.images import MAX_PIXELS, ImageSource, Orientation, checked_orientation
from internvl_rt.images.video import VideoSource, sample_video
from internvl_rt.model.prompt import TileProgress
from internvl_rt.prompts.control_tokens import IMAGE_MARK
from internvl_rt.prompts.messages import Conversation, Detail, History, Messages, conversation

Image: TypeAlias = ImageSource | ImageFeatures
"""A path, a data URL, the bytes of a file, a PIL image, a uint8 RGB array [height, width, 3], a CPU array of
another library with ``__dlpack__`` of that form, or ``ImageFeatures``."""


class AskArguments(GenerationArguments, total=False):
    """The keyword arguments of a question: those below, and those of ``GenerationSettings``."""

    history: History
    """Earlier (question, answer) pairs."""
    system: str | None
    """Replaces the system message."""
    max_tiles: int | None
    """The most tiles that every picture is cut into, 1 to 40, its thumbnail not counted."""
    detail: Detail
    """Where ``max_tiles`` is not given. ``low``: every picture is one tile. ``auto``: the model's own figure
    (12 in the published checkpoints). ``high``: 40 tiles, enough for small print on a page or a 4K frame. The
    tiles of ``auto`` and ``high`` are for all pictures together: n pictures have ``max(1, tiles // n)`` each,
    as in training. Where the prompt would not fit the context they are fewer: as many as leave a quarter of
    the context for the answer, if it may be so long; ``usage.tiles_wanted`` tells how many were asked for."""

    as_one: bool
    """All pictures stand in one place, their tiles one after the other as if they were one picture's: the
    authors' other form for several pictures, where ``Image-1: <image>`` and so on tells them apart."""
    video: VideoSource | None
    """A video in place of ``images``: a path, the bytes of a file, a list or an iterator of frames, or what
    ``sample_video`` chose. Frames are one tile each, and a question that does not say where they stand
    gets ``Frame1: <image>`` and so on in front, a line each, as in training."""
    num_frames: int | None
    """So many frames are taken, by the authors' rule (``frame_indices``); 8 where None, and all of a list."""
    progress: TileProgress | None
    """Is told how many of the tiles of all pictures are encoded."""
    orientation: Orientation | None
    """``exif``: pictures are turned as their EXIF says; ``stored``: they are not. Where None, what ``load``
    was given."""
    allow_paths: bool | None
    """False: no file is opened, whoever names it. Pictures are bytes, data URLs, PIL images, arrays or
    features, in messages too; right for messages that came from elsewhere. Where None, what ``load`` was
    given."""


@dataclass(frozen=True)
class PictureRules:
    """How pictures are read.

    Raises:
        ImageError: if ``orientation`` is neither of the two.
        PromptError: if another value is of another type or out of range.
    """

    orientation: Orientation = "stored"
    allow_paths: bool = True
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        checked_orientation(self.orientation)
        if not isinstance(self.allow_paths, bool):
            raise PromptError(f"allow_paths must be True or False, not {self.allow_paths!r:.100}.")
        checked_integer("max_pixels", self.max_pixels, 1)

    def overridden(self, orientation: Orientation | None, allow_paths: bool | None) -> PictureRules:
        """These, but for what one call says otherwise."""
        return PictureRules(
            self.orientation if orientation is None else orientation,
            self.allow_paths if allow_paths is None else allow_paths,
            self.max_pixels,
        )


@dataclass(frozen=True)
class TileBudget:
    """How many tiles pictures may have.

    Raises:
        PromptError: if ``detail`` is none of the three, or both are given.
        ImageError: if ``max_tiles`` is not an integer from 1 to 40.
    """

    max_tiles: int | None = None
    """For every picture."""
    detail: Detail = "auto"
    """For all of them together; see ``AskArguments``."""
    core: _core.TileBudget = field(init=False, repr=False, compare=False)
    """What reckons with it."""

    def __post_init__(self) -> None:
        if self.detail not in get_args(Detail):
            raise PromptError(f"detail must be one of {', '.join(get_args(Detail))}, not {self.detail!r}.")
        try:
            if isinstance(self.max_tiles, bool):
                raise TypeError
            core = _core.TileBudget(self.max_tiles, self.detail)
        except TypeError:
            raise ImageError(
                f"max_tiles is the most tiles of a picture, an integer from 1 to {_core.MOST_TILES}; found "
                f"{self.max_tiles!r}."
            ) from None
        object.__setattr__(self, "core", core)

    def per_picture(self, tiling: Tiling, pictures: int) -> int:
        """The most tiles of each of so many pictures, their thumbnails not counted."""
        return self.core.per_picture(tiling.max_tiles, pictures)


@dataclass(frozen=True)
class Asked:
    """A question whose form and settings were checked."""

    conversation: Conversation
    tile_budget: TileBudget
    settings: GenerationSettings
    rules: PictureRules
    as_one: bool = False
    """The conversation has one place for all of its pictures."""
    decode_ms: float = 0.0
    """What reading the frames of a video took."""
    progress: TileProgress | None = None
    video: bool = False
    """The pictures are the frames of a video."""

    def most_tiles(self, tiling: Tiling) -> list[int]:
        """The most tiles of every picture. An item of a message may ask for a detail of its own."""
        return _core.most_tiles(
            self.tile_budget.core,
            self.conversation,
            pictures=len(self.conversation.images),
            as_one=self.as_one,
            own=tiling.max_tiles,
        )

    @property
    def may_have_fewer_tiles(self) -> bool:
        """The caller named no number of tiles, but a detail."""
        return self.tile_budget.max_tiles is None

    def tiles_of_places(self, tiles: Sequence[int]) -> list[int]:
        """The tiles of every place, from those of every picture."""
        return [sum(tiles)] if self.as_one else list(tiles)


def ask(
    question: str | Messages,
    images: Sequence[Image] | Image | None,
    arguments: AskArguments,
    rules: PictureRules,
) -> Asked:
    """Checks a question and sorts its arguments; ``rules`` are the model's own.

    Raises:
        PromptError: if the question or an argument has another form or is out of range.
        ImageError: if ``max_tiles`` or ``orientation`` is out of range, an image is no picture, or a video
            cannot be read.
        TypeError: for the name of an argument that there is not.
    """
    rest = dict(arguments)
    progress: Any = rest.pop("progress", None)
    return replace(_ask(question, images, rest, rules), progress=progress)


def _ask(
    question: str | Messages,
    images: Sequence[Image] | Image | None,
    rest: dict[str, Any],
    rules: PictureRules,
) -> Asked:
    history: Any = rest.pop("history", ())
    system: Any = rest.pop("system", None)
    video: Any = rest.pop("video", None)
    num_frames: Any = rest.pop("num_frames", None)
    as_one = bool(rest.pop("as_one", False))
    max_tiles, detail = rest.pop("max_tiles", None), rest.pop("detail", "auto")
    if video is not None and max_tiles is None and detail == "auto":
        max_tiles = 1
    rules = rules.overridden(
        cast("Orientation | None", rest.pop("orientation", None)),
        cast("bool | None", rest.pop("allow_paths", None)),
    )
    budget = TileBudget(cast("int | None", max_tiles), cast("Detail", detail))
    settings = generation_settings(cast("GenerationArguments", rest))
    if video is None:
        if num_frames is not None:
            raise PromptError(f"num_frames={num_frames!r} was given, and no video.")
        if as_one:
            asked = _in_one_place(question, _as_list(images), history, system)
            return Asked(asked, budget, settings, rules, True)
        asked = conversation(
            question,
            images=_as_list(images),
            history=history,
            system=system,
            allow_paths=rules.allow_paths,
        )
        return Asked(asked, budget, settings, rules)
    if images is not None and _as_list(images):
        raise PromptError(
            "images and a video were given. Give one; sample_video(...).frames are pictures that may stand "
            "among others in images."
        )
    if as_one:
        raise PromptError("the frames of a video have a place each. Leave as_one out.")
    if not isinstance(question, str):
        raise PromptError(
            "a question about a video is a text; with messages, put sample_video(...).frames into them as "
            "images."
        )
    frames = sample_video(video, num_frames=num_frames, allow_paths=rules.allow_paths)
    marked = question if IMAGE_MARK in question else frames.prompt + question
    asked = conversation(marked, images=frames.frames, history=history, system=system)
    return Asked(asked, budget, settings, rules, decode_ms=frames.decode_ms, video=True)


def _in_one_place(
    question: str | Messages, images: list[Image], history: History, system: str | None
) -> Conversation:
    if not isinstance(question, str) or history or not images:
        raise PromptError(
            "as_one is for a question that is a text without history, and at least one picture in images."
        )
    asked = conversation(question, images=[None], system=system)
    return replace(asked, images=tuple(images))


def _as_list(images: Sequence[Image] | Image | None) -> list[Image]:
    """One picture may be given without a list around it."""
    if images is None:
        return []
    if isinstance(images, Iterator):
        raise ImageError(
            f"images is a {type(images).__name__}; expected a list. Call list() on it, or give it as video= "
            "if they are frames."
        )
    given = list(images) if isinstance(images, (list, tuple)) else [cast("Image", images)]
    for i, image in enumerate(given):
        if image is None:
            raise ImageError(f"images[{i}] is None; expected a picture. Leave it out, or check what made it.")
        if isinstance(image, (list, tuple)):
            raise ImageError(
                f"images[{i}] is a {type(image).__name__}; expected a picture. Give all pictures in one flat "
                "list; numbers become a picture with `np.asarray(numbers, np.uint8)`."
            )
    return given
