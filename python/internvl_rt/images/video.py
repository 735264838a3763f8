"""Videos: which frames are looked at, reading them, and how they stand in a prompt.

Frames are chosen by the rule of the authors' model cards, and each is one tile. Files are read by PyAV (the
optional dependency ``internvl-rt[video]``) in a process of its own, see ``video_process``. Only the chosen
frames are held, and only they and what lies between them and the key frames before them is decoded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias, cast

from PIL import Image

from internvl_rt._core import IMAGE_MARK
from internvl_rt.arguments import checked_integer, number_of
from internvl_rt.errors import ImageError, PromptError
from internvl_rt.files.regular import open_regular_file
from internvl_rt.images import ImageSource, decode_image
from internvl_rt.images.decode import RgbArray
from internvl_rt.images.sources import source_of
from internvl_rt.images.video_process import check_installed, open_video

DEFAULT_FRAMES = 8
"""As in the model cards' example; training had 8 to 32."""
MOST_FRAMES = 1024
MAX_FRAMES_BYTES = 2_000_000_000
"""Memory of the frames that are chosen from a file, as RGB."""
TIMEOUT = 300.0
"""Seconds after which reading a file is given up."""


@dataclass(frozen=True)
class VideoFrames:
    """Frames that were chosen from a video, to be asked about any number of times."""

    frames: tuple[ImageSource, ...] = field(repr=False)
    """In their order; one may stand there twice where the video has fewer than were asked for."""
    indices: tuple[int, ...]
    """Where they stood in the video, from 0."""
    frame_rate: float | None
    """Frames per second of the video; None where it is not known."""
    decode_ms: float = field(default=0.0, repr=False)
    """What reading them took."""

    @property
    def times(self) -> tuple[float, ...] | None:
        """Seconds from the video's beginning; None where the frame rate is not known."""
        if self.frame_rate is None:
            return None
        return tuple(index / self.frame_rate for index in self.indices)

    @property
    def prompt(self) -> str:
        """What stands in front of a question about the frames: ``Frame1: <image>`` and so on, a line each."""
        return "".join(f"Frame{i + 1}: {IMAGE_MARK}\n" for i in range(len(self.frames)))


VideoSource: TypeAlias = str | os.PathLike[str] | bytes | Iterable[ImageSource] | VideoFrames
"""A path, the bytes of a file, a list of pictures in their order, an iterator of pictures such as a camera's,
or frames that ``sample_video`` chose."""


def _is_time(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def frame_indices(
    frames: int,
    segments: int,
    *,
    frame_rate: float = 1.0,
    start: float | None = None,
    end: float | None = None,
) -> list[int]:
    """The frames of a video that are looked at, by the rule of the authors' model cards.

    The video, or the part from ``start`` to ``end``, is cut into segments of equal length; of each the
    middle is taken, after the segment's beginning was rounded (half to even). A video with fewer frames than
    segments gives some of them more than once.

    Args:
        frames: of the whole video, at least 1.
        segments: how many frames are taken, at least 1.
        frame_rate: frames per second; it matters for a part alone.
        start: where the part begins, in seconds.
        end: where it ends; the video's end if that is earlier.

    Returns:
        ``segments`` indices from 0, ascending.

    Raises:
        PromptError: if a number is out of range.
    """
    frames, segments = checked_integer("frames", frames, 1), checked_integer("segments", segments, 1)
    for name, value in (("frame_rate", frame_rate), ("start", start), ("end", end)):
        if value is not None and not _is_time(value):
            raise PromptError(f"{name} must be a finite number, not {value!r}.")
    first, last = 0, frames - 1
    if start is not None:
        first = min(max(0, round(start * frame_rate)), last)
    if end is not None:
        last = max(first, min(round(end * frame_rate), last))
    length = (last - first) / segments
    return [min(last, int(first + length / 2 + round(length * i))) for i in range(segments)]


def sample_video(
    source: VideoSource,
    *,
    num_frames: int | None = None,
    frames_per_second: float | None = None,
    start: float | None = None,
    end: float | None = None,
    frame_rate: float | None = None,
    allow_paths: bool = True,
    timeout: float = TIMEOUT,
) -> VideoFrames:
    """Chooses frames of a video by ``frame_indices``.

    Args:
        source: see ``VideoSource``. A file is read twice, the first time without decoding; of an iterator at
            most ``2 * num_frames`` frames are held, and the frames taken lie within half a segment of those
            that the rule names, because its length is not known beforehand.
        num_frames: how many are taken; 8 where None, and all of a list. With ``frames_per_second``, the most.
        frames_per_second: take so many of every second instead.
        start: begin here, in seconds.
        end: end here, in seconds.
        frame_rate: frames per second of a list or an iterator; needed there for what is told in seconds.
        allow_paths: False refuses paths and file URLs, of the video and of its frames.
        timeout: seconds after which reading a file is given up; ``math.inf`` for never.

    Raises:
        PromptError: if a number is out of range, or the part is empty or lies behind the video's end.
        ImageError: if the video cannot be read, is damaged or holds no frame, or its frames take more than
            2 GB or reading it more time than ``timeout``.
        InternVLError: if a file is given and PyAV is not installed.
    """
    rule = _Rule(num_frames, frames_per_second, start, end)
    begun = perf_counter()
    rate: float | None
    if isinstance(source, VideoFrames):
        if rule != _Rule():
            raise PromptError("these frames were chosen already. Choose from the video itself.")
        return source
    if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        if timeout != math.inf:
            timeout = _positive("timeout", timeout)
        frames, indices, rate = _from_file(source, rule, allow_paths, timeout)
    else:
        rate = None if frame_rate is None else _positive("frame_rate", frame_rate)
        if rate is None and rule.in_seconds:
            raise PromptError(
                "start, end and frames_per_second are told in seconds: give the frame_rate of the frames too."
            )
        if isinstance(source, Sequence):
            frames, indices = _from_list(cast("Sequence[ImageSource]", source), rule, rate)
        elif isinstance(source, Iterable) and not hasattr(source, "__array__"):
            frames, indices = _from_iterator(iter(source), rule, rate)
        else:
            raise ImageError(
                f"the video is a {type(source).__name__}; expected a path, the bytes of a file, a list of "
                "pictures or an iterator of pictures."
            )
        for frame in frames if not allow_paths else ():
            if isinstance(frame, (str, os.PathLike)):
                source_of(os.fsdecode(frame), allow_paths=False)
    return VideoFrames(tuple(frames), tuple(indices), rate, (perf_counter() - begun) * 1000)


@dataclass(frozen=True)
class _Rule:
    """Which frames are wanted, checked."""

    num_frames: int | None = None
    frames_per_second: float | None = None
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        if self.num_frames is not None:
            checked_integer("num_frames", self.num_frames, 1, MOST_FRAMES)
        if self.frames_per_second is not None:
            _positive("frames_per_second", self.frames_per_second)
        if self.start is not None:
            _positive("start", self.start, or_zero=True)
        if self.end is not None:
            _positive("end", self.end)
            if self.end <= (self.start or 0.0):
                raise PromptError(f"the part from {self.start or 0} s to {self.end} s is empty.")

    @property
    def in_seconds(self) -> bool:
        return not (self.frames_per_second is None and self.start is None and self.end is None)

    @property
    def most(self) -> int:
        """The most frames that may be taken."""
        if self.num_frames is not None:
            return self.num_frames
        return DEFAULT_FRAMES if self.frames_per_second is None else MOST_FRAMES

    def indices(self, frames: int, rate: float | None) -> list[int]:
        """The frames to take of so many."""
        if self.start is not None and rate is not None and round(self.start * rate) >= frames:
            raise PromptError(f"start={self.start} s lies behind the video's end at {frames / rate:.2f} s.")
        segments = self.most
        if self.frames_per_second is not None:
            assert rate is not None, "checked by the caller"
            end = min(frames / rate, math.inf if self.end is None else self.end)
            seconds = end - (self.start or 0.0)
            segments = min(segments, max(1, round(seconds * self.frames_per_second)))
        return frame_indices(frames, segments, frame_rate=rate or 1.0, start=self.start, end=self.end)


def _positive(name: str, value: Any, *, or_zero: bool = False) -> float:
    number = number_of(value)
    if isinstance(value, bool) or not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        raise PromptError(
            f"{name} must be a number {'of at least' if or_zero else 'above'} 0, not {value!r}."
        )
    return number


def _from_list(
    pictures: Sequence[ImageSource], rule: _Rule, rate: float | None
) -> tuple[list[ImageSource], list[int]]:
    if not pictures:
        raise ImageError("the video is an empty list; expected at least one frame.")
    if rule == _Rule():
        if len(pictures) > MOST_FRAMES:
            raise PromptError(f"the list has {len(pictures)} frames. Give num_frames to choose among them.")
        return list(pictures), list(range(len(pictures)))
    indices = rule.indices(len(pictures), rate)
    return [pictures[index] for index in indices], indices


def _from_iterator(
    pictures: Iterator[ImageSource], rule: _Rule, rate: float | None
) -> tuple[list[ImageSource], list[int]]:
    first = 0 if rule.start is None or rate is None else round(rule.start * rate)
    last = math.inf if rule.end is None or rate is None else round(rule.end * rate)
    room = 2 * rule.most
    held: dict[int, ImageSource] = {}
    stride, count = 1, 0
    for index, picture in enumerate(pictures):
        if index > last:
            break
        count = index + 1
        if index < first or (index - first) % stride:
            continue
        if len(held) == room:
            # Twice as far apart from here on, and so for those that are held.
            stride *= 2
            held = {place: frame for place, frame in held.items() if (place - first) % stride == 0}
            if (index - first) % stride:
                continue
        held[index] = _kept(picture)
    if not count:
        raise ImageError("the video is an iterator without a frame; expected at least one.")
    wanted = rule.indices(count, rate)
    places = sorted(held)
    nearest = [min(places, key=lambda place, index=index: (abs(place - index), place)) for index in wanted]  # type: ignore[misc]
    return [held[place] for place in nearest], nearest


def _kept(picture: ImageSource) -> ImageSource:
    """A picture that stays as it is: cameras write the next frame into the memory of the last one."""
    if isinstance(picture, (str, os.PathLike, bytes)):
        return picture
    if isinstance(picture, (bytearray, memoryview)):
        return bytes(picture)
    if isinstance(picture, Image.Image):
        try:
            return picture.copy()
        except Exception as error:  # decoding may happen here, and raises almost anything
            raise ImageError(f"a frame of the video, a PIL image, cannot be decoded ({error}).") from error
    decoded: RgbArray = decode_image(picture).copy()
    return decoded


def _from_file(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    rule: _Rule,
    allow_paths: bool,
    timeout: float,
) -> tuple[list[ImageSource], list[int], float | None]:
    check_installed()
    if isinstance(source, (str, os.PathLike)):
        source = source_of(os.fsdecode(source), allow_paths=allow_paths)
    with ExitStack() as opened:
        if isinstance(source, Path):
            name = str(source)
            opening = open_regular_file(source, expected="a video file", error=ImageError)
            video = opened.enter_context(open_video(opened.enter_context(opening), name, timeout))
        else:
            name = "the video in the bytes"
            video = opened.enter_context(open_video(source, name, timeout))
        if video.frame_rate is None and rule.in_seconds:
            raise PromptError(f"{name}: does not tell its frame rate, so nothing can be chosen by seconds.")
        indices = rule.indices(video.frames, video.frame_rate)
        found = video.decode(sorted(set(indices)), MAX_FRAMES_BYTES)
        return [found[index] for index in indices], indices, video.frame_rate
