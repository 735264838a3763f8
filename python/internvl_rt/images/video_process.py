"""The process that decodes a video file, from the side of the one that starts it; see ``video_decoder``."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from internvl_rt.errors import ImageError, InternVLError
from internvl_rt.images.decode import RgbArray


class VideoProcess:
    """A process that has a video file open. Made by ``open_video``."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, timeout: float) -> None:
        self._process = process
        self._name = name
        self._timeout = timeout
        self._timed_out = False
        self._timer = threading.Timer(min(timeout, threading.TIMEOUT_MAX), self._time_is_over)
        self._timer.daemon = True
        self._timer.start()
        self.frames = 0
        """How many it has."""
        self.frame_rate: float | None = None
        """Frames per second; None where it is not known."""
        self._size = (0, 0)

    def look(self) -> None:
        """Waits for what is told of the file: how many frames it has, and how many a second."""
        about = self._line()
        self.frames, self.frame_rate = int(about["frames"]), about["frame_rate"]
        self._size = tuple(about["size"])

    def decode(self, indices: Sequence[int], most_bytes: int) -> dict[int, RgbArray]:
        """The frames at ascending indices, uint8 [height, width, 3]. To be called once.

        Raises:
            ImageError: if the file is damaged, its frames take more memory than that, or the time is over.
        """
        self._check_memory(self._size, len(indices), len(indices), most_bytes)
        assert self._process.stdin is not None, "it was started with pipes"
        with suppress(OSError):  # where it has ended, what it said last tells why
            self._process.stdin.write(json.dumps(list(indices)).encode() + b"\n")
            self._process.stdin.flush()
        found: dict[int, RgbArray] = {}
        while len(found) < len(indices):
            index, height, width = self._line()
            # A file may change the size of its frames on the way.
            self._check_memory((width, height), len(indices) - len(found), len(indices), most_bytes)
            most_bytes -= height * width * 3
            found[index] = np.frombuffer(self._bytes(height * width * 3), np.uint8).reshape(height, width, 3)
        return found

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what could not be sent to it any more
                if pipe is not None:
                    pipe.close()

    def _time_is_over(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _check_memory(self, size: tuple[int, int], frames: int, of: int, most_bytes: int) -> None:
        width, height = size
        if frames * width * height * 3 > most_bytes:
            raise ImageError(
                f"{self._name}: {of} frames of {width}x{height} take {of * width * height * 3 / 1e9:.1f} GB; "
                "at most 2 GB are held. Take fewer frames, or scale the video down."
            )

    def _line(self) -> Any:
        assert self._process.stdout is not None, "it was started with pipes"
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        said = json.loads(line)
        if "error" not in said:
            return said
        if not said["damaged"]:
            raise ImageError(f"{self._name}: {said['error']}")
        raise ImageError(
            f"{self._name}: cannot be read as a video ({said['error']}). It may be truncated, damaged or of "
            "another kind, such as a playlist: play it, or check it with `ffprobe`."
        )

    def _bytes(self, size: int) -> bytearray:
        assert self._process.stdout is not None, "it was started with pipes"
        content = bytearray(size)
        view, filled = memoryview(content), 0
        while filled < size:
            count = self._process.stdout.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise self._ended()
            filled += count
        return content

    def _ended(self) -> ImageError:
        status = self._process.wait()
        if self._timed_out:
            return ImageError(
                f"{self._name}: reading it took longer than {self._timeout:g} s and was given up. Give "
                "sample_video a larger timeout, or cut the part that matters out of the file."
            )
        return ImageError(
            f"{self._name}: cannot be read as a video (the process that decodes it ended with {status}). It "
            "may be damaged: play it, or convert it to H.264."
        )


@contextmanager
def open_video(
    source: BinaryIO | bytes | bytearray | memoryview, name: str, timeout: float
) -> Iterator[VideoProcess]:
    """Starts a process that decodes a video, and ends it.

    Args:
        source: an open file, or the content of one.
        name: of the video, for messages.
        timeout: seconds after which the process is ended, wherever it is.

    Raises:
        ImageError: if the video cannot be read, or the time is over.
        InternVLError: if PyAV is not installed, or no process can be started.
    """
    folders = [_folder_of("av"), _folder_of("numpy")]
    with _descriptor_of(source) as descriptor:
        program = Path(__file__).with_name("video_decoder.py")
        command = [_python(), "-I", str(program), str(descriptor), *folders]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # Threads that nobody uses would take up the memory that it may take.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
                pass_fds=[descriptor],
                start_new_session=True,  # Ctrl-C is for the caller, who ends it
            )
        except OSError as error:
            raise InternVLError(
                f"no process can be started to read {name} ({error}). Video files are decoded by a Python of "
                "their own, the one that multiprocessing.set_executable() names."
            ) from error
    video = VideoProcess(process, name, timeout)
    try:
        video.look()
        yield video
    finally:
        video.close()


def check_installed() -> None:
    """Raises InternVLError unless PyAV is there."""
    _folder_of("av")


def _folder_of(module: str) -> str:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise InternVLError(
            "video files need PyAV. Install it: pip install 'internvl-rt[video]', or pass a list of frames."
        )
    return str(Path(found.origin).parents[1])


def _python() -> str:
    from multiprocessing.spawn import get_executable

    # A program that embeds Python says there which one its processes are.
    found = get_executable()
    if not found:
        raise InternVLError(
            "video files are decoded by a Python of their own, and this program does not know where one is. "
            "Say it with multiprocessing.set_executable()."
        )
    return os.fsdecode(found)


@contextmanager
def _descriptor_of(source: BinaryIO | bytes | bytearray | memoryview) -> Iterator[int]:
    if not isinstance(source, (bytes, bytearray, memoryview)):
        yield source.fileno()
        return
    with tempfile.TemporaryFile() if not hasattr(os, "memfd_create") else _in_memory() as file:
        file.write(source)
        file.seek(0)
        yield file.fileno()


def _in_memory() -> BinaryIO:
    return os.fdopen(os.memfd_create("video", os.MFD_CLOEXEC), "w+b")
