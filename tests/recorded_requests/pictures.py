"""Pictures that are arrays of integers, or PNG files that need nothing of a decoder."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]


def pattern(width: int, height: int, seed: int = 0) -> Rgb:
    """uint8 [height, width, 3]; no two of its tiles are equal."""
    y, x, channel = np.indices((height, width, 3))
    values = x * (3 + seed) + y * 7 + x * y // 5 + channel * (41 + seed) + (x * x + y * y * 3) // 17
    return (values % 256).astype(np.uint8)


def blank(width: int, height: int, value: int = 0) -> Rgb:
    """uint8 [height, width, 3]; all of its tiles are equal."""
    return np.full((height, width, 3), value, np.uint8)


def png(rgb: Rgb, orientation: int | None = None) -> bytes:
    """A file with a picture, and how it has to be turned."""
    height, width, _ = rgb.shape
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    exif = b""
    if orientation is not None:
        tag = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
        exif = _chunk(b"eXIf", b"MM\0*" + struct.pack(">IH", 8, 1) + tag + bytes(4))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + exif
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def png_that_claims(width: int, height: int) -> bytes:
    """A file whose header tells a size, and that holds next to nothing."""
    whole = png(blank(1, 1))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return whole[:8] + _chunk(b"IHDR", header) + whole[33:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
