"""A camera's frame: pixels in another layout than RGB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.errors import ImageError
from internvl_rt.images.dlpack import SupportsDLPack, from_dlpack

PixelFormat = Literal["rgb", "bgr", "rgba", "bgra", "gray", "nv12", "yuyv", "i420"]
"""``rgb``, ``bgr``: 3 bytes a pixel; ``rgba``, ``bgra``: 4, the last one not looked at; ``gray``: one;
``nv12``: a plane of Y, and one of U and V in turn for every two by two pixels; ``yuyv``: Y U Y V for every
two pixels; ``i420``: a plane of Y, one of U and one of V, a value of these for every two by two pixels."""

Matrix = Literal["bt601", "bt709"]
"""How YUV is made of RGB: webcams have BT.601, HD video has BT.709."""

Plane: TypeAlias = npt.NDArray[Any] | SupportsDLPack | bytes | bytearray | memoryview

_PIXEL_BYTES: dict[str, int] = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "yuyv": 2}
_PLANES: dict[str, int] = {"nv12": 2, "i420": 3}


@dataclass(frozen=True, eq=False)
class Frame:
    """Pixels of 8 bits a channel, rows from the top. A picture wherever one is taken.

    The pixels are read when the frame is used. RGB arrays are not copied.
    """

    data: Plane | Sequence[Plane]
    """The pixels: uint8 arrays of NumPy, arrays with ``__dlpack__`` in CPU memory, or bytes. An array is
    [height, width, channels], [height, width] of gray, [height, width, 2] or [height, 2 width] of yuyv, and
    [height * 3 / 2, width] of nv12 and i420, as OpenCV has it; rows may be any distance apart. A list of two
    or three is the planes of nv12 or i420, [rows, bytes] each. What has one dimension needs ``width`` and
    ``height``."""
    format: PixelFormat
    width: int | None = None
    """Pixels; fewer than the rows of an array have where these are filled up at their ends."""
    height: int | None = None
    stride: int | None = None
    """Bytes from row to row of data with one dimension; None: they follow one another."""
    matrix: Matrix = "bt601"
    full_range: bool = False
    """YUV goes from 0 to 255; else Y from 16 to 235, U and V from 16 to 240."""

    def size(self) -> tuple[int, int]:
        """(width, height) in pixels.

        Raises:
            ImageError: if the data have another shape or type than the format asks for, or are too few.
        """
        planes = _planes_of(self)
        return _size_of(self, planes[0])

    def rgb(self) -> npt.NDArray[np.uint8]:
        """uint8 [height, width, 3]; it shares the memory of an RGB array.

        Raises:
            ImageError: as ``size``.
        """
        planes = _planes_of(self)
        width, height = _size_of(self, planes[0])
        first = planes[0]
        if self.format == "rgb" and first.ndim == 3 and first.shape[1] == width:
            return first[:height]
        return _core.frame_rgb(
            [_as_rows(plane) for plane in planes],
            width=width,
            height=height,
            pixel_format=self.format,
            stride=_stride_of(self, first),
            matrix=self.matrix,
            full_range=self.full_range,
        )


def _planes_of(frame: Frame) -> list[npt.NDArray[np.uint8]]:
    if frame.format not in get_args(PixelFormat):
        known = ", ".join(get_args(PixelFormat))
        raise ImageError(f"format must be one of {known}, not {frame.format!r}.")
    if frame.matrix not in get_args(Matrix):
        raise ImageError(f"matrix must be one of {', '.join(get_args(Matrix))}, not {frame.matrix!r}.")
    several = isinstance(frame.data, (list, tuple))
    given = list(cast("Sequence[Plane]", frame.data)) if several else [cast("Plane", frame.data)]
    if several and len(given) != _PLANES.get(frame.format, 1):
        raise ImageError(
            f"The frame has {len(given)} planes; {frame.format} has {_PLANES.get(frame.format, 1)}."
        )
    planes = [_array_of(plane) for plane in given]
    most = 3 if len(planes) == 1 and frame.format in _PIXEL_BYTES else 2
    for plane in planes:
        if not 1 <= plane.ndim <= most:
            raise ImageError(
                f"The data of a frame in {frame.format} have shape {plane.shape}; expected "
                f"{_expected(frame.format, len(planes))}."
            )
    return planes


def _array_of(plane: Plane) -> npt.NDArray[np.uint8]:
    if isinstance(plane, (bytes, bytearray, memoryview)):
        try:
            return np.frombuffer(plane, np.uint8)
        except (BufferError, ValueError) as error:
            raise ImageError(f"The bytes of the frame cannot be read ({error}).") from error
    array = plane
    if not isinstance(array, np.ndarray):
        if not isinstance(array, SupportsDLPack):
            raise ImageError(
                f"The data of the frame are a {type(plane).__name__}; expected a uint8 array, bytes, or a "
                "list of planes."
            )
        array = from_dlpack(array, "a uint8 array")
    if array.dtype != np.uint8:
        raise ImageError(f"The data of the frame are {array.dtype}; expected uint8.")
    return array


def _size_of(frame: Frame, first: npt.NDArray[np.uint8]) -> tuple[int, int]:
    width, height = _number("width", frame.width), _number("height", frame.height)
    if first.ndim == 1:
        if width is None or height is None:
            raise ImageError("The data of the frame have one dimension. Give width and height.")
        return width, height
    if frame.stride is not None:
        raise ImageError("stride is for data with one dimension; an array has its own.")
    rows, columns = first.shape[:2]
    if first.ndim == 3:
        expected = _PIXEL_BYTES[frame.format]
        if first.shape[2] != expected:
            raise ImageError(
                f"The data of a frame in {frame.format} have shape {first.shape}; expected "
                f"{_expected(frame.format, 1)}."
            )
    else:
        columns //= _PIXEL_BYTES.get(frame.format, 1)
    if frame.format in _PLANES and not isinstance(frame.data, (list, tuple)):
        if rows % 3 == 1:
            raise ImageError(
                f"The data of a frame in {frame.format} have {rows} rows; expected "
                f"{_expected(frame.format, 1)}."
            )
        rows = rows // 3 * 2 + rows % 3 // 2
    for name, given, most in (("width", width, columns), ("height", height, rows)):
        if given is not None and given > most:
            raise ImageError(f"The frame has a {name} of {given}, and its data of {most}.")
    if height not in (None, rows) and frame.format in _PLANES and not isinstance(frame.data, (list, tuple)):
        raise ImageError(f"The frame has a height of {height}, and its data of {rows}.")
    return columns if width is None else width, rows if height is None else height


def _number(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value < 1 << 31:
        raise ImageError(f"{name} is a number of pixels, at least 1; found {value!r}.")
    return int(value)


def _stride_of(frame: Frame, first: npt.NDArray[np.uint8]) -> int:
    """0 where an array has it, or rows follow one another."""
    if first.ndim > 1 or frame.stride is None:
        return 0
    stride: Any = frame.stride
    if isinstance(stride, bool) or not isinstance(stride, (int, np.integer)) or not 1 <= stride < 1 << 31:
        raise ImageError(f"stride is a number of bytes, at least 1; found {frame.stride!r}.")
    return int(stride)


def _as_rows(plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[rows, bytes] with the bytes of a row side by side and the rows behind one another, or [bytes]."""
    if plane.ndim == 3:
        side_by_side = plane.strides[2] == 1 and plane.strides[1] == plane.shape[2]
        plane = (plane if side_by_side else np.ascontiguousarray(plane)).reshape(len(plane), -1)
    if plane.ndim == 2 and (plane.strides[1] != 1 or plane.strides[0] < plane.shape[1]):
        return np.ascontiguousarray(plane)
    return plane if plane.ndim == 2 or plane.flags.c_contiguous else np.ascontiguousarray(plane)


def _expected(pixel_format: str, planes: int) -> str:
    if planes > 1:
        return "[rows, bytes] of every plane"
    if pixel_format == "gray":
        return "[height, width]"
    if pixel_format in _PLANES:
        return "[height * 3 / 2, width]"
    return f"[height, width, {_PIXEL_BYTES[pixel_format]}]"
