"""The program that decodes a video file, in a process of its own.

On a file that is made for that, FFmpeg stays in one call for minutes, takes all memory, or crashes. A
process can be ended at any time. ``video_process`` starts this one and talks with it. It is given an open
file, and opens no other one and no connection. It imports nothing of this package, so that it starts fast,
and runs with Python's ``-I``, so that nothing of the user's folder is imported either.

It writes a line of JSON ``{"frames": ..., "frame_rate": ..., "size": [width, height]}``, reads a line with
the indices that are wanted, and answers each with a line ``[index, height, width]`` and its RGB bytes; or
with a line ``{"error": ..., "damaged": ...}``.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

MAX_FRAME_PIXELS = 1 << 26
"""Pixels of the largest frame, twice those of 8K. Decoders hold twenty frames and more."""

_MOST_FRAMES = 20_000_000
"""Frames of a file: four days at 60 a second."""
_MEMORY = 8_000_000_000
"""Bytes of address space that decoding may take."""
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,av1,obu,ivf,"
    "vc1,dirac,cavsvideo,flv,ogg,asf,rm,nut,mxf,gxf,dv,wtv,swf,yuv4mpegpipe,mjpeg,mpjpeg,gif,apng,"
    "wav,mp3,aac,flac"
)
"""FFmpeg's names of the containers that are read, each of which holds its pictures itself. Not among them are
playlists, session descriptions and sequences of files. Those of sound are there to be told apart."""


class RefusedError(Exception):
    """A video that is not decoded for a reason that the message says."""


class _Reader:
    """The bytes of one file. It has no name, by which FFmpeg might look for others."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


class VideoFile:
    """A video file, begun anew for each of the two times that it is read."""

    def __init__(self, library: Any, file: BinaryIO) -> None:
        self.frame_rate: float | None = None
        """Frames per second, after ``plan``; None where it is not known."""
        self.size = (0, 0)
        """(width, height) in pixels, after ``plan``."""
        self._library = library
        self._file = file

    def plan(self) -> array[int]:
        """The time stamps of all frames, ascending, by reading the file without decoding it."""
        stamps = array("q")
        self._keys = array("q")
        self._stamped = True
        with self._open() as container:
            stream = self._stream(container)
            for packet in container.demux(stream):
                if packet.size == 0:
                    continue
                if len(stamps) == _MOST_FRAMES:
                    raise RefusedError(f"has more than {_MOST_FRAMES} frames.")
                if packet.pts is None:
                    self._stamped = False
                stamp = len(stamps) if packet.pts is None else packet.pts
                stamps.append(stamp)
                if packet.is_keyframe:
                    self._keys.append(stamp)
            if not stamps:
                raise RefusedError("the video holds no frame.")
            rate = stream.average_rate or stream.guessed_rate
            seconds = (max(stamps) - min(stamps)) * (stream.time_base or 0) if self._stamped else 0
            if rate:
                self.frame_rate = float(rate)
            elif seconds > 0:
                self.frame_rate = float((len(stamps) - 1) / seconds)
        self._keys = array("q", sorted(self._keys))
        return array("q", sorted(stamps))

    def frames(self, plan: array[int], indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Decodes the frames at ascending indices, from the key frame before each.

        Yields:
            the index, and uint8 [height, width, 3].
        """
        done = -1
        if self._stamped:
            with self._open() as container:
                for done, pixels in self._seeking(container, self._stream(container), plan, indices):
                    yield done, pixels
        remaining = [index for index in indices if index > done]
        if remaining:
            # What cannot be sought in, or has no time stamps, is decoded from its beginning.
            with self._open() as container:
                yield from self._in_order(container, self._stream(container), plan, remaining)

    def _seeking(
        self, container: Any, stream: Any, plan: array[int], indices: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        """Ends before the first frame that was not found."""
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
                following = next(decoded, None)
                if following is None:
                    break
                if following.pts is None or (sought and following.pts > wanted >= key):
                    return
                frame, position, sought = following, following.pts, False
            if frame is None:
                return
            yield index, self._pixels(frame)

    def _in_order(
        self, container: Any, stream: Any, plan: array[int], indices: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        frame: Any = None
        remaining = iter(indices)
        index = next(remaining, None)
        for count, decoded in enumerate(container.decode(stream)):
            frame = decoded
            while index is not None and (
                count >= index if not self._stamped or frame.pts is None else frame.pts >= plan[index]
            ):
                yield index, self._pixels(frame)
                index = next(remaining, None)
            if index is None:
                return
        if frame is None:
            raise RefusedError("none of its frames can be decoded.")
        while index is not None:  # fewer frames than packets: the last one stands for what is missing
            yield index, self._pixels(frame)
            index = next(remaining, None)

    def _open(self) -> Any:
        self._file.seek(0)
        # Three times over, nothing but these bytes is read: by the kinds of files, by the protocols, of which
        # there is none of that name, and by the function that would open another file.
        return self._library.open(
            _Reader(self._file),
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
                raise RefusedError("is coded in a way that this PyAV does not decode. Convert it to H.264.")
            self.size = (stream.codec_context.width, stream.codec_context.height)
            _check_size(*self.size)
            stream.thread_type = "AUTO"
            return stream
        raise RefusedError("has no video stream.")

    def _pixels(self, frame: Any) -> Any:
        """RGB [height, width, 3], turned as players show it."""
        import numpy as np

        _check_size(frame.width, frame.height)
        pixels = frame.to_ndarray(format="rgb24")
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise RefusedError(
            f"its frames are {width}x{height}; at most {MAX_FRAME_PIXELS / 1e6:.0f} million pixels of a "
            "frame are decoded. Scale the video down."
        )


def _open_nothing(url: str, *_: object) -> Any:
    raise PermissionError(f"the video names another file, {url[:200]!r}, which is not opened")


def _limit_this_process() -> None:
    """Ends with the process that started it, and takes no more memory than it may."""
    import ctypes
    import resource
    import signal

    if sys.platform == "linux":
        end_with_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(end_with_parent, signal.SIGKILL)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY if most == resource.RLIM_INFINITY else min(_MEMORY, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def _say(document: object) -> None:
    sys.stdout.buffer.write(json.dumps(document).encode() + b"\n")


def main(descriptor: int, folders: Sequence[str]) -> None:
    """Decodes the file of that descriptor. Libraries are looked for in the folders too."""
    _limit_this_process()
    sys.path += folders
    try:
        import av

        with os.fdopen(descriptor, "rb") as opened:
            file = VideoFile(av, opened)
            plan = file.plan()
            _say({"frames": len(plan), "frame_rate": file.frame_rate, "size": file.size})
            sys.stdout.buffer.flush()
            wanted = json.loads(sys.stdin.buffer.readline() or "[]")
            for index, pixels in file.frames(plan, wanted):
                _say([index, *pixels.shape[:2]])
                sys.stdout.buffer.write(memoryview(pixels).cast("B"))
    except RefusedError as refused:
        _say({"error": str(refused), "damaged": False})
    except Exception as error:  # PyAV raises almost anything on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        _say({"error": str(reason), "damaged": True})
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
