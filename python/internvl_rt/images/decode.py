"""Pictures in any form, decoded to RGB."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from internvl_rt.errors import ImageError

RgbArray: TypeAlias = npt.NDArray[np.uint8]


@runtime_checkable
class SupportsDLPack(Protocol):
    """An array of another library, such as a torch tensor."""

    def __dlpack__(self, *, stream: Any = None) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


ImageSource: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[Any] | SupportsDLPack
)

MAX_PIXELS = 200_000_000
"""Pixels of the largest picture that is decoded: 200 million, 600 MB. Sensors end at about 150 million,
and what claims more is a file made to exhaust memory."""

MAX_SIDE = 1 << 20
"""Pixels along the longest side that the tile kernels take."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
"""Pillow's names of the file formats that are read. Pillow knows more, some of which start other programs."""

_DLPACK_CPU = 1
_ACCEPTED = (
    "a path, bytes, a PIL image, or a uint8 array [height, width, 3] of RGB "
    "(NumPy, or any CPU array with __dlpack__)"
)


def decode_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> RgbArray:
    """Decodes a picture to RGB.

    Files go through Pillow and are converted by its rules, as in the authors' code: alpha is dropped without
    compositing, grey is replicated, EXIF orientation is not applied, and of an animation the first frame is
    taken.

    Args:
        source: a path; the bytes of an image file; a PIL image; a uint8 array [height, width, 3] of RGB, with
            any strides; or an array of another library that supports DLPack, in CPU memory.
        max_pixels: the most pixels to decode. It is compared with the size in the file's header, before
            anything is allocated.

    Returns:
        uint8 [height, width, 3]. It may share the memory of ``source``.

    Raises:
        ImageError: if the picture cannot be read, is truncated, empty or too large, or is of another shape
            or type.
    """
    if isinstance(source, np.ndarray):
        return _check_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _convert(source, "The PIL image", max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode_bytes(source, max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _decode_file(source, max_pixels)
    if isinstance(source, SupportsDLPack):
        return _check_array(_from_dlpack(source), max_pixels)
    raise ImageError(f"The image is a {type(source).__name__}; expected {_ACCEPTED}.")


def _check_array(array: npt.NDArray[Any], max_pixels: int) -> RgbArray:
    if array.dtype != np.uint8:
        raise ImageError(
            f"The image array has dtype {array.dtype}; expected uint8. Scale to 0..255 and convert with "
            "`.astype(np.uint8)`."
        )
    if array.ndim != 3 or array.shape[2] != 3:
        hint = " Replicate a grey picture with `np.stack([grey] * 3, axis=-1)`." if array.ndim == 2 else ""
        raise ImageError(f"The image array has shape {array.shape}; expected [height, width, 3], RGB.{hint}")
    _check_size(array.shape[1], array.shape[0], "The image array", max_pixels)
    return array


def _check_size(width: int, height: int, what: str, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{what} is {width}x{height}; expected at least one pixel.")
    if width * height > max_pixels:
        raise ImageError(
            f"{what} is {width}x{height}, {width * height / 1e6:.0f} million pixels; at most "
            f"{max_pixels / 1e6:g} million are decoded. Shrink it, or pass a larger `max_pixels`."
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{what} is {width}x{height}; expected at most {MAX_SIDE} pixels a side. Crop it.")


def _from_dlpack(source: SupportsDLPack) -> npt.NDArray[Any]:
    try:
        device = source.__dlpack_device__()[0]
        if device != _DLPACK_CPU:
            raise ImageError(
                "The image array is not in CPU memory; expected a CPU array. Copy it to the CPU first."
            )
        return np.from_dlpack(source)
    except ImageError:
        raise
    except Exception as error:  # whatever another library's exporter raises
        raise ImageError(
            f"The {type(source).__name__} could not be read through DLPack ({error}); expected {_ACCEPTED}."
        ) from error


def _decode_bytes(data: bytes | bytearray | memoryview, max_pixels: int) -> RgbArray:
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
    return _open(BytesIO(content), "The file in the image bytes", max_pixels)


def _decode_file(source: str | os.PathLike[str], max_pixels: int) -> RgbArray:
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f"{path} is a folder; expected an image file.")
        with path.open("rb") as file:
            return _open(file, str(path), max_pixels)
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; expected an image file. Check the path.") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"{str(path)!r} cannot be read ({error}); expected an image file.") from error


def _open(file: IO[bytes], what: str, max_pixels: int) -> RgbArray:
    try:
        with _identify(file, what) as image:
            return _convert(image, what, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise _damaged(what, error) from error


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


def _convert(image: Image.Image, what: str, max_pixels: int) -> RgbArray:
    _check_size(image.width, image.height, what, max_pixels)
    try:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # decoding happens here
        raise _damaged(what, error) from error
