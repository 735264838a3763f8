"""Pictures in any form, decoded to RGB."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO, Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from internvl_rt.errors import ImageError
from internvl_rt.files.regular import read_regular_file
from internvl_rt.images.container import Container, orientation_of, read_container
from internvl_rt.images.dlpack import SupportsDLPack, from_dlpack
from internvl_rt.images.frame import Frame
from internvl_rt.images.sources import source_of

RgbArray: TypeAlias = npt.NDArray[np.uint8]

Orientation = Literal["exif", "stored"]
"""Whether a picture is turned as its EXIF says, or seen as its pixels are stored."""


ImageSource: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | Image.Image
    | npt.NDArray[Any]
    | SupportsDLPack
    | Frame
)

MAX_PIXELS = 200_000_000
"""Pixels of the largest picture that is decoded: 200 million, 600 MB. Sensors end at about 150 million,
and what claims more is a file made to exhaust memory."""

BYTES_PER_PIXEL = 8
"""Memory that decoding may take for every pixel of the limit, 1.6 GB by default: what the decoder holds,
Pillow's picture and the RGB that comes out. What takes more is refused although it has fewer pixels."""

MAX_SIDE = 1 << 20
"""Pixels along the longest side that the tile kernels take."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of the file formats that are read. Pillow knows more, some of which start other programs."""

_STRIP = 1 << 20
"""Pixels that are converted to RGB at a time."""
_SCAN_LIMIT = 10
"""Scans of the largest picture; a smaller one may have more of them."""
_ACCEPTED = (
    "a path, bytes, a PIL image, or a uint8 array [height, width, 3] of RGB "
    "(NumPy, or any CPU array with __dlpack__)"
)


def decode_image(
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    orientation: Orientation = "stored",
    allow_paths: bool = True,
) -> RgbArray:
    """Decodes a picture to RGB.

    Files go through Pillow and are converted by its rules, as in the authors' code: alpha is dropped without
    compositing, grey is replicated, and of an animation the first frame is taken. Metadata is not decoded.

    Args:
        source: a path, a file URL or a data URL; the bytes of an image file; a PIL image; a uint8 array
            [height, width, 3] of RGB, with any strides; or an array of another library that supports DLPack,
            in CPU memory; or a ``Frame`` in a camera's format.
        max_pixels: the most pixels to decode. It is compared with the size in the file's header, before
            anything is allocated, and so is the memory that decoding takes, at 8 bytes for each of them.
        orientation: ``exif`` turns and mirrors files and PIL images as their EXIF says; ``stored`` does not,
            which is what the authors' code does. TIFF files are turned either way, because Pillow turns them
            while it reads them. Arrays and frames are never turned.
        allow_paths: False refuses paths and file URLs.

    Returns:
        uint8 [height, width, 3]. It may share the memory of ``source``.

    Raises:
        ImageError: if the picture cannot be read, is truncated, empty or too large, or is of another shape
            or type.
    """
    reading = _Reading(max_pixels, checked_orientation(orientation))
    if isinstance(source, np.ndarray):
        return _check_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return reading.picture(source, "The PIL image")
    if isinstance(source, Frame):
        _check_size(*source.size(), "The frame", max_pixels)
        return source.rgb()
    if isinstance(source, str):
        source = source_of(source, allow_paths=allow_paths)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return reading.content(_bytes_of(source), "The file in the image bytes")
    if isinstance(source, os.PathLike):
        return reading.file(source, allow_paths)
    if isinstance(source, SupportsDLPack):
        return _check_array(from_dlpack(source, _ACCEPTED), max_pixels)
    hint = ""
    if isinstance(source, (list, tuple)):
        hint = " Numbers in lists become an array with `np.asarray(numbers, np.uint8)`."
    elif isinstance(source, Iterator):
        hint = " Make a list of what it yields, and pass each of its pictures."
    kind = "None" if source is None else f"a {type(source).__name__}"
    raise ImageError(f"The image is {kind}; expected {_ACCEPTED}.{hint}")


def checked_orientation(orientation: Any) -> Orientation:
    """Raises ImageError unless it is one of the two."""
    for known in get_args(Orientation):
        if orientation == known:
            return cast("Orientation", known)
    raise ImageError(f"orientation must be one of {', '.join(get_args(Orientation))}, not {orientation!r}.")


def _check_array(array: npt.NDArray[Any], max_pixels: int) -> RgbArray:
    if array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(
            f"The image array has shape {array.shape}; expected [height, width, 3], RGB."
            f"{_advice_on_shape(array.shape)}"
        )
    if array.dtype != np.uint8:
        raise ImageError(
            f"The image array has dtype {array.dtype}; expected uint8, 0 to 255. {_advice_on_type(array)}"
        )
    _check_size(array.shape[1], array.shape[0], "The image array", max_pixels)
    return array


def _advice_on_shape(shape: tuple[int, ...]) -> str:
    match shape:
        case (height, width):
            advice = " Replicate a grey picture with `np.stack([grey] * 3, axis=-1)`."
            if height % 3 == 0 and width % 2 == 0 and height:
                advice += (
                    f" If it is a camera's NV12 or I420 frame of {width}x{height // 3 * 2}, convert it: "
                    "`cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_NV12)`."
                )
            return advice
        case (3, _, width) if width > 4:
            return " It looks like channels first (CHW): `array.transpose(1, 2, 0)`."
        case (4, _, width) if width > 4:
            return " It looks like RGBA with channels first (CHW): `array[:3].transpose(1, 2, 0)`."
        case (1, _, width) if width > 4:
            return " It looks like grey with channels first: `np.stack([array[0]] * 3, axis=-1)`."
        case (_, _, 4):
            return " It looks like RGBA: take `array[..., :3]`, or `array[..., 2::-1]` of BGRA."
        case (_, _, 1):
            return " It looks grey: `np.repeat(array, 3, axis=-1)`."
        case (_, _, 2):
            return " It looks like a camera's YUYV or UYVY: `cv2.cvtColor(frame, cv2.COLOR_YUV2RGB_YUYV)`."
        case (_, _, _, _):
            return " It looks like several pictures: pass `list(array)`, or `array[0]` for the first."
    return ""


def _advice_on_type(array: npt.NDArray[Any]) -> str:
    convert = "Scale to 0..255 and convert with `.astype(np.uint8)`."
    if array.dtype == np.bool_:
        return "Convert with `array.astype(np.uint8) * 255`."
    if array.dtype.kind not in "iuf" or array.size == 0 or array.size > 3 * MAX_PIXELS:
        return convert
    least, most = float(array.min()), float(array.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        return "It holds NaN or infinite values: check how it was computed."
    seen = f"Its values lie between {least:.4g} and {most:.4g}"
    if least < 0:
        return f"{seen}: if they were normalised, undo that. {convert}"
    if most <= 1 and array.dtype.kind == "f":
        return f"{seen}: `(array * 255).round().astype(np.uint8)`."
    if most <= 255:
        return f"{seen}: `array.round().astype(np.uint8)`."
    if most <= 65535 and array.dtype.kind in "iu":
        return f"{seen}: of 16 bits take the upper eight, `(array >> 8).astype(np.uint8)`."
    return f"{seen}. {convert}"


def _check_size(width: int, height: int, what: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{what} is {width}x{height}; expected at least one pixel.")
    if width * height > max_pixels:
        raise ImageError(
            f"{what} is {width}x{height}, {width * height / 1e6:.0f} million pixels; at most "
            f"{max_pixels / 1e6:g} million are decoded. Shrink it, or in Python give `load` a larger "
            "max_pixels."
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{what} is {width}x{height}; expected at most {MAX_SIDE} pixels a side. Crop it.")


def _bytes_of(data: bytes | bytearray | memoryview) -> bytes:
    try:
        content = bytes(data)
    except (BufferError, ValueError) as error:
        raise ImageError(
            f"The image bytes cannot be read ({error}); expected the content of a file."
        ) from error
    if not content:
        raise ImageError(
            "The image bytes are empty; expected the content of an image file such as JPEG or PNG."
        )
    return content


@dataclass(frozen=True)
class _Reading:
    """How a picture is decoded."""

    max_pixels: int
    orientation: Orientation

    @property
    def most_bytes(self) -> int:
        """What decoding may take."""
        return BYTES_PER_PIXEL * self.max_pixels

    def file(self, path: os.PathLike[str], allow_paths: bool) -> RgbArray:
        named = source_of(os.fsdecode(path), allow_paths=allow_paths)
        if isinstance(named, bytes):
            return self.content(named, "The file in the data URL")
        what = "an image file"
        content = read_regular_file(named, most_bytes=self.most_bytes, expected=what, error=ImageError)
        return self.content(content, str(named))

    def content(self, content: bytes, what: str) -> RgbArray:
        try:
            container = read_container(content)
        except ValueError as error:
            raise _damaged(what, error) from error
        del content
        # Turning makes a copy, and Pillow's picture is gone by then.
        return _turned(*self._decoded(container, what))

    def picture(self, image: Image.Image, what: str) -> RgbArray:
        _check_size(image.width, image.height, what, self.max_pixels)
        return _turned(*self._converted(image, what, _pillows_orientation))

    def _decoded(self, container: Container, what: str) -> tuple[RgbArray, int]:
        try:
            with _identify(BytesIO(container.content), what) as image:
                self._check_memory(image, container, what)
                return self._converted(image, what, lambda opened: _turn(opened, container))
        except ImageError:
            raise
        except Exception as error:  # Pillow's decoders raise almost anything on damaged files
            raise _damaged(what, error) from error

    def _converted(
        self, image: Image.Image, what: str, orientation_of: Callable[[Image.Image], int]
    ) -> tuple[RgbArray, int]:
        """RGB, and how it has to be turned."""
        try:
            rgb = _rgb(image)  # decoding happens here
            return rgb, orientation_of(image) if self.orientation == "exif" else 1
        except Exception as error:
            raise _damaged(what, error) from error

    def _check_memory(self, image: ImageFile, container: Container, what: str) -> None:
        """Refuses what takes more memory or work than a picture of so many pixels may."""
        _check_size(image.width, image.height, what, self.max_pixels)
        pixels = image.width * image.height
        decoder = _DECODER_BYTES.get(image.format or "", 0)
        if image.format == "JPEG" and container.scans > 1:
            decoder = 2 * len(image.getbands())  # coefficients
        # The decoder's part is free again when the RGB is made.
        needed = pixels * (_STORED_BYTES.get(image.mode, 4) + max(3, decoder)) + container.tile_bytes
        if needed > self.most_bytes:
            raise ImageError(
                f"{what} is {image.width}x{image.height} and takes {needed / 1e6:.0f} MB while it is "
                f"decoded; at most {self.most_bytes / 1e6:.0f} MB are given to a picture. Shrink it, save it "
                "as a JPEG that is not progressive, or in Python give `load` a larger max_pixels."
            )
        if pixels * container.scans > _SCAN_LIMIT * self.max_pixels:
            raise ImageError(
                f"{what} is {image.width}x{image.height} in {container.scans} scans; so many pixels are not "
                "gone over so often. Save it again as a JPEG that is not progressive."
            )


_STORED_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
"""Bytes of a pixel in Pillow's memory; 4 in every other mode."""

_DECODER_BYTES = {"WEBP": 12, "AVIF": 10, "JPEG2000": 16}
"""Bytes of a pixel that a decoder holds beside Pillow's picture."""


def _rgb(image: Image.Image) -> RgbArray:
    """Converts to RGB, by strips where the picture is large: a second copy of it could be too much."""
    image.load()
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb[top : top + rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return rgb


def _turned(rgb: RgbArray, orientation: int) -> RgbArray:
    if orientation == 1:
        return rgb
    if orientation >= 5:  # mirrored along the diagonal, and then like one of the first four
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    return np.ascontiguousarray(rgb)


def _turn(image: Image.Image, container: Container) -> int:
    if image.format == "TIFF":
        return 1  # Pillow has turned it
    if image.format == "AVIF":
        return _pillows_orientation(image)  # which knows the file's own boxes for it too
    exif = container.exif or image.info.get("exif", b"")
    xmp = container.xmp or image.info.get("xmp", b"")
    return orientation_of(exif, xmp if isinstance(xmp, bytes) else b"")


def _pillows_orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # damaged metadata raises almost anything, and says nothing
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _damaged(what: str, error: Exception) -> ImageError:
    reason = str(error) or type(error).__name__
    return ImageError(
        f"{what} cannot be decoded ({reason}); expected a complete image file. It may be truncated or "
        "damaged: save or download it again."
    )


def _identify(file: IO[bytes], what: str) -> ImageFile:
    """Reads the header of an image file.

    ``Image.open`` is not used: it judges the size by a limit that belongs to the whole process, and warns.
    """
    prefix = file.read(16)
    Image.preinit()
    if not any(name in Image.OPEN and _accepts(name, prefix) for name in FORMATS):
        Image.init()  # every plugin
    for name in FORMATS:
        if name not in Image.OPEN or not _accepts(name, prefix):
            continue
        file.seek(0)
        try:
            return Image.OPEN[name][0](file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):  # the first bytes deceived
            continue
    raise ImageError(
        f"{what} is not an image that can be read; expected a file of one of {', '.join(FORMATS)}. "
        "Check that it holds a picture, whatever its name says."
    )


def _accepts(name: str, prefix: bytes) -> bool:
    accept = Image.OPEN[name][1]
    return accept is None or accept(prefix) is True
