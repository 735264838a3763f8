"""Pictures whose EXIF says that they have to be turned, against Pillow's own turning."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from internvl_rt.errors import ImageError
from internvl_rt.images import decode_image, tile_image

ORIENTATIONS = range(1, 9)


def picture(mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (11, 17, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def tagged(orientation: int, file_format: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a camera"
    file = io.BytesIO()
    picture().save(file, file_format, exif=exif, **options)
    return file.getvalue()


def by_pillow(content: bytes, *, turned: bool) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray((ImageOps.exif_transpose(image) if turned else image).convert("RGB"))


def same(content: bytes) -> None:
    """The file is turned as Pillow turns it, and left as Pillow leaves it."""
    for source in (content, Image.open(io.BytesIO(content))):
        np.testing.assert_array_equal(
            decode_image(source, orientation="exif"), by_pillow(content, turned=True)
        )
    np.testing.assert_array_equal(decode_image(content), by_pillow(content, turned=False))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_in_every_format(orientation: int) -> None:
    for file_format, options in (
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ):
        same(tagged(orientation, file_format, **options))
    upright = decode_image(tagged(orientation, "PNG"), orientation="exif")
    assert upright.shape == ((17, 11, 3) if orientation >= 5 else (11, 17, 3))
    assert upright.flags.c_contiguous


def test_avif_is_turned_by_its_own_boxes() -> None:
    pytest.importorskip("PIL.AvifImagePlugin")
    for orientation in ORIENTATIONS:
        same(tagged(orientation, "AVIF"))


def test_other_byte_order_and_other_types() -> None:
    for order, mark in ((">", b"MM\0*"), ("<", b"II*\0")):
        for kind, form in ((1, "Bxxx"), (3, "Hxx"), (4, "I")):
            entry = struct.pack(order + "HHI" + form, 0x0112, kind, 1, 6)
            exif = mark + struct.pack(order + "IH", 8, 1) + entry + bytes(4)
            file = io.BytesIO()
            picture().save(file, "JPEG", exif=b"Exif\0\0" + exif)
            same(file.getvalue())
            turned = decode_image(file.getvalue(), orientation="exif").shape == (17, 11, 3)
            assert turned == (kind != 1), "a single byte is no orientation to Pillow"


def png_with(*chunks: tuple[bytes, bytes], behind: bool = False) -> bytes:
    file = io.BytesIO()
    picture().save(file, "PNG")
    content = file.getvalue()
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    at = len(content) - 12 if behind else 33
    return content[:at] + made + content[at:]


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'


def test_where_png_hides_its_orientation() -> None:
    exif = tagged(6, "PNG")
    at = exif.index(b"eXIf")
    block = exif[at + 4 : at + 4 + struct.unpack(">I", exif[at - 4 : at])[0]]
    hexadecimal = b"\nexif\n%8d\n%s\n" % (len(block) + 6, (b"Exif\0\0" + block).hex().encode())
    for content in (
        png_with((b"eXIf", block)),
        png_with((b"eXIf", block), behind=True),
        png_with((b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexadecimal))),
        png_with((b"tEXt", b"Raw profile type exif\0" + hexadecimal)),
        png_with((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        png_with((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
    ):
        same(content)
        assert decode_image(content, orientation="exif").shape == (17, 11, 3)


def test_xmp_of_a_jpeg() -> None:
    file = io.BytesIO()
    picture().save(file, "JPEG", xmp=XMP)
    same(file.getvalue())
    assert decode_image(file.getvalue(), orientation="exif").shape == (17, 11, 3)


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_there_is_not(value: int) -> None:
    same(tagged(value, "JPEG"))


def test_broken_exif_says_nothing() -> None:
    whole = tagged(6, "JPEG")
    at = whole.index(b"Exif\0\0") + 6
    length = struct.unpack(">H", whole[at - 8 : at - 6])[0] - 8
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of the damaged metadata of its own picture
        for junk in (b"", b"MM", b"II*\0\xff\xff\xff\xff", b"\0" * 40, *(rng.bytes(60) for _ in range(200))):
            content = whole[:at] + junk.ljust(length, b"\0")[:length] + whole[at + length :]
            decoded = decode_image(content, orientation="exif")
            assert decoded.shape in ((11, 17, 3), (17, 11, 3))
            assert decode_image(Image.open(io.BytesIO(content)), orientation="exif").size


def test_arrays_are_never_turned() -> None:
    pixels = np.asarray(picture())
    np.testing.assert_array_equal(decode_image(pixels, orientation="exif"), pixels)


def test_tiles_of_a_turned_picture() -> None:
    content = tagged(6, "PNG")
    tiled = tile_image(content, tile_size=28, orientation="exif")
    assert tiled.image_size == (11, 17)
    np.testing.assert_array_equal(
        tiled.tiles, tile_image(by_pillow(content, turned=True), tile_size=28).tiles
    )
    assert tile_image(content, tile_size=28).image_size == (17, 11)
    with pytest.raises(ImageError, match="orientation must be one of exif, stored, not 'upright'"):
        tile_image(content, orientation="upright")  # type: ignore[arg-type]
