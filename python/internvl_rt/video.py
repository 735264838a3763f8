"""Videos: which frames are looked at, reading them, and how they stand in a prompt.

Frames are chosen by the rule of the authors' model cards, and each is one tile. Files are read by PyAV (the
optional dependency ``internvl-rt[video]``), which is given the bytes of the file and nothing else: it opens
no other file and no connection, whatever the video names. Only the chosen frames are held, and only they and
what lies between them and the key frames before them is decoded.
"""

from __future__ import annotations

import math
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from PIL import Image

from internvl_rt.errors import ImageError, InternVLError, PromptError
from internvl_rt.files import open_regular_file
from internvl_rt.images import ImageSource, decode_image
from internvl_rt.images.decode import RgbArray
from internvl_rt.images.sources import source_of
from internvl_rt.prompts.control_tokens import IMAGE_MARK
from internvl_rt.settings import checked_integer

DEFAULT_FRAMES = 8
"""As in the model cards' example; training had 8 to 32."""
MOST_FRAMES = 1024
MAX_FRAME_PIXELS = 1 << 26
"""Pixels of the largest frame of a file, twice those of 8K. Decoders hold twenty frames and more."""
MAX_FRAMES_BYTES = 2_000_000_000
"""Memory of the frames that are chosen from a file, as RGB."""
TIMEOUT = 300.0
"""Seconds after which reading a file is given up."""

_MOST_PACKETS = 20_000_000
"""Frames of a file: four days at 60 a second."""
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,av1,obu,ivf,vc1,"
    "dirac,cavsvideo,flv,ogg,asf,rm,nut,mxf,gxf,dv,wtv,swf,yuv4mpegpipe,mjpeg,mpjpeg,gif,apng,wav,mp3,aac,flac"
)
"""FFmpeg's names of the containers that are read, each of which holds its pictures itself. Not among them are
playlists, session descriptions and sequences of files. Those of sound are there to be told apart."""


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
        number = self.num_frames
        if number is not None and (
            isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MOST_FRAMES
        ):
            raise PromptError(f"num_frames must be an integer from 1 to {MOST_FRAMES}, not {number!r}.")
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
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
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
    library = _av()
    if isinstance(source, (str, os.PathLike)):
        source = source_of(os.fsdecode(source), allow_paths=allow_paths)
    with ExitStack() as opened:
        if isinstance(source, Path):
            name = str(source)
            opening = open_regular_file(source, expected="a video file", error=ImageError)
            bytes_of: BinaryIO = opened.enter_context(opening)
        else:
            name = "the video in the bytes"
            bytes_of = BytesIO(source)
        file = _File(library, _LimitedReader(bytes_of, timeout), name)
        try:
            plan = file.plan()
            if file.frame_rate is None and rule.in_seconds:
                raise PromptError(
                    f"{name}: does not tell its frame rate, so nothing can be chosen by seconds."
                )
            indices = rule.indices(len(plan), file.frame_rate)
            wanted = sorted(set(indices))
            file.check_memory(len(wanted))
            found = file.frames(plan, wanted)
        except InternVLError:
            raise
        except TimeoutError as error:
            raise ImageError(
                f"{name}: reading it took longer than {timeout:g} s and was given up. Give sample_video a "
                "larger timeout, or cut the part that matters out of the file."
            ) from error
        except Exception as error:  # PyAV raises almost anything on damaged files
            reason = getattr(error, "strerror", None) or error or type(error).__name__
            raise ImageError(
                f"{name}: cannot be read as a video ({reason}). It may be truncated, damaged or of another "
                "kind, such as a playlist: play it, or check it with `ffprobe`."
            ) from error
    return [found[index] for index in indices], indices, file.frame_rate


class _LimitedReader:
    """The bytes of one file, for a limited time. FFmpeg has no other source, and asks here for a block."""

    def __init__(self, file: BinaryIO, timeout: float) -> None:
        self._file = file
        self._until = monotonic() + timeout

    def check_time(self) -> None:
        """Raises TimeoutError once the time is over."""
        if monotonic() > self._until:
            raise TimeoutError("the time for reading is over")

    def read(self, size: int = -1) -> bytes:
        self.check_time()
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.check_time()
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InternVLError(
            "video files need PyAV. Install it: pip install 'internvl-rt[video]', or pass a list of frames."
        ) from error
    return av


class _File:
    """A video file, begun anew for each of the two times that it is read."""

    def __init__(self, library: Any, reader: _LimitedReader, name: str) -> None:
        self.frame_rate: float | None = None
        self._library = library
        self._reader = reader
        self._name = name
        self._size = (0, 0)

    def plan(self) -> array[int]:
        """The time stamps of all frames, ascending, by reading the file without decoding it."""
        stamps = array("q")
        self._keys = array("q")
        self._stamped = True
        with self._open() as container:
            stream = self._stream(container)
            for packet in container.demux(stream):
                self._reader.check_time()
                if packet.size == 0:
                    continue
                if len(stamps) == _MOST_PACKETS:
                    raise ImageError(f"{self._name}: has more than {_MOST_PACKETS} frames.")
                if packet.pts is None:
                    self._stamped = False
                stamp = len(stamps) if packet.pts is None else packet.pts
                stamps.append(stamp)
                if packet.is_keyframe:
                    self._keys.append(stamp)
            if not stamps:
                raise ImageError(f"{self._name}: the video holds no frame.")
            rate = stream.average_rate or stream.guessed_rate
            seconds = (max(stamps) - min(stamps)) * (stream.time_base or 0) if self._stamped else 0
            if rate:
                self.frame_rate = float(rate)
            elif seconds > 0:
                self.frame_rate = float((len(stamps) - 1) / seconds)
        self._keys = array("q", sorted(self._keys))
        return array("q", sorted(stamps))

    def check_memory(self, frames: int) -> None:
        """Raises ImageError unless so many frames may be held."""
        width, height = self._size
        needed = frames * width * height * 3
        if needed > MAX_FRAMES_BYTES:
            raise ImageError(
                f"{self._name}: {frames} frames of {width}x{height} take {needed / 1e9:.1f} GB; at most "
                f"{MAX_FRAMES_BYTES / 1e9:g} GB are held. Take fewer frames, or scale the video down."
            )

    def frames(self, plan: array[int], indices: Sequence[int]) -> dict[int, RgbArray]:
        """Decodes the frames at ascending indices, from the key frame before each."""
        with self._open() as container:
            stream = self._stream(container)
            found = self._seeking(container, stream, plan, indices) if self._stamped else None
        if found is None:
            # What cannot be sought in, or has no time stamps, is decoded from its beginning.
            with self._open() as container:
                found = self._in_order(container, self._stream(container), plan, indices)
        return found

    def _seeking(
        self, container: Any, stream: Any, plan: array[int], indices: Sequence[int]
    ) -> dict[int, RgbArray] | None:
        found: dict[int, RgbArray] = {}
        position: int | None = None
        decoded: Iterator[Any] = iter(())
        frame: Any = None
        for index in indices:
            wanted = plan[index]
            key = self._keys[max(0, bisect_right(self._keys, wanted) - 1)] if self._keys else plan[0]
            sought = position is None or (position < key <= wanted)
            if sought:
                container.seek(key, stream=stream, backward=True, any_frame=False)
                decoded = container.decode(stream)
            while sought or position is None or position < wanted:
                self._reader.check_time()
                following = next(decoded, None)
                if following is None:
                    break
                if following.pts is None or (sought and following.pts > wanted >= key):
                    return None
                frame, position, sought = following, following.pts, False
            if frame is None:
                return None
            found[index] = self._pixels(frame)
        return found

    def _in_order(
        self, container: Any, stream: Any, plan: array[int], indices: Sequence[int]
    ) -> dict[int, RgbArray]:
        found: dict[int, RgbArray] = {}
        frame: Any = None
        remaining = iter(indices)
        index = next(remaining, None)
        for count, decoded in enumerate(container.decode(stream)):
            self._reader.check_time()
            frame = decoded
            while index is not None and (
                count >= index if not self._stamped or frame.pts is None else frame.pts >= plan[index]
            ):
                found[index] = self._pixels(frame)
                index = next(remaining, None)
            if index is None:
                return found
        if frame is None:
            raise ImageError(f"{self._name}: none of its frames can be decoded.")
        while index is not None:  # fewer frames than packets: the last one stands for what is missing
            found[index] = self._pixels(frame)
            index = next(remaining, None)
        return found

    def _open(self) -> Any:
        self._reader.seek(0)
        # Three times over, nothing but these bytes is read: by the kinds of files, by the protocols, of which
        # there is none of that name, and by the function that would open another file.
        return self._library.open(
            self._reader,
            options={"max_pixels": str(MAX_FRAME_PIXELS)},
            container_options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"},
            io_open=_open_nothing,
        )

    def _stream(self, container: Any) -> Any:
        # A song's cover is a video stream too.
        pictures = self._library.stream.Disposition.attached_pic
        for stream in container.streams.video:
            if stream.disposition & pictures:
                continue
            if stream.codec_context is None:
                raise ImageError(
                    f"{self._name}: is coded in a way that this PyAV does not decode. Convert it to H.264."
                )
            self._size = (stream.codec_context.width, stream.codec_context.height)
            self._check_size(*self._size)
            stream.thread_type = "AUTO"
            return stream
        raise ImageError(f"{self._name}: has no video stream.")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_FRAME_PIXELS:
            raise ImageError(
                f"{self._name}: its frames are {width}x{height}; at most {MAX_FRAME_PIXELS / 1e6:.0f} "
                "million pixels of a frame are decoded. Scale the video down."
            )

    def _pixels(self, frame: Any) -> RgbArray:
        """RGB [height, width, 3], turned as players show it."""
        self._check_size(frame.width, frame.height)
        pixels: RgbArray = frame.to_ndarray(format="rgb24")
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _open_nothing(url: str, *_: object) -> Any:
    raise PermissionError(f"the video names another file, {url[:200]!r}, which is not opened")
