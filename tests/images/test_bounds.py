"""Files that take much more time or memory than their size tells."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from internvl_rt.errors import ImageError
from internvl_rt.images import decode_image

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def saved(file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, file_format, **options)  # type: ignore[arg-type]
    return file.getvalue()


def png(width: int, height: int, *, colour: int, depth: int = 8, rows: bytes = b"") -> bytes:
    """A PNG of zeros, in as few bytes as it takes."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = bytes(1 + (width * channels * depth + 7) // 8)
    packer = zlib.compressobj(9)
    data = rows or b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(96))) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PEAK = """
import sys
from internvl_rt import ImageError
from internvl_rt.images import decode_image
content = sys.stdin.buffer.read()
decode_image(open(sys.argv[1], "rb").read(), orientation="exif")
def peak():  # what getrusage gives begins with the peak of the process that started this one
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before = peak()
try: print(decode_image(content, orientation="exif", max_pixels=10**9).shape, end=" ")
except ImageError as error: print(type(error).__name__, end=" ")
print((peak() - before) // 1000)
"""


@pytest.mark.parametrize(
    ("colour", "depth", "stored"), [(2, 8, 4), (6, 8, 4), (3, 8, 1), (0, 16, 2), (4, 8, 4)]
)
def test_a_picture_is_held_once_in_each_form(tmp_path: Path, colour: int, depth: int, stored: int) -> None:
    """Pillow's picture and the RGB that comes out, and no third copy on the way."""
    width, height = 6000, 4000
    shape, megabytes = peak_of(tmp_path, png(width, height, colour=colour, depth=depth))
    assert shape == [height, width, 3]
    assert megabytes < 24 * (stored + 3) + 30


def peak_of(tmp_path: Path, content: bytes) -> tuple[list[int], int]:
    """The shape that a file decodes to, and the megabytes that it took to."""
    small = tmp_path / "small.png"
    small.write_bytes(saved("PNG"))
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(small)], input=content, capture_output=True, check=True
    )
    *shape, megabytes = done.stdout.decode().translate({ord(mark): None for mark in "(),"}).split()
    return list(map(int, shape)), int(megabytes)


@pytest.mark.parametrize(
    ("file_format", "bytes_per_pixel", "options"),
    [
        ("JPEG", 7, {}),
        ("JPEG", 7, {"turned": True}),
        ("JPEG", 10, {"progressive": True, "subsampling": 0}),
        ("WEBP", 16, {"method": 0}),
        ("JPEG2000", 20, {}),
        ("TIFF", 7, {}),
    ],
)
def test_memory_is_what_is_counted(
    tmp_path: Path, file_format: str, bytes_per_pixel: int, options: dict[str, object]
) -> None:
    pixels = np.asarray(Image.fromarray(PIXELS).resize((4000, 3000)))
    exif = Image.Exif()
    if options.pop("turned", False):
        exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format, exif=exif, **options)  # type: ignore[arg-type]
    shape, megabytes = peak_of(tmp_path, file.getvalue())
    assert sorted(shape) == [3, 3000, 4000]
    assert megabytes < 12 * bytes_per_pixel + 30


def test_memory_counts_beside_pixels() -> None:
    plain, progressive = saved("JPEG"), saved("JPEG", progressive=True)
    assert decode_image(plain, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(ImageError, match=r"takes 0 MB .* save it as a JPEG that is not progressive"):
        decode_image(progressive, max_pixels=2400)
    for file_format in ("JPEG2000", "WEBP"):
        with pytest.raises(ImageError, match="while it is decoded"):
            decode_image(saved(file_format), max_pixels=2400)
        assert decode_image(saved(file_format), max_pixels=10_000).shape == (40, 60, 3)


def with_scans(content: bytes, scans: int) -> bytes:
    """A JPEG whose last scan is there so many times more."""
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * scans + b"\xff\xd9"


def test_scans_of_a_jpeg_are_bounded() -> None:
    content = saved("JPEG", progressive=True)
    np.testing.assert_array_equal(
        decode_image(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    )
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode_image(with_scans(content, 100))
    with pytest.raises(ImageError, match=r"60x40 in 5\d scans"):
        decode_image(with_scans(content, 40), max_pixels=2400 * 3)


def test_a_scan_in_metadata_is_none() -> None:
    content = saved("JPEG", comment=b"\xff\xda" * 1000)
    assert decode_image(content).shape == (40, 60, 3)


def jpeg_with_segments(marker: int, data: bytes, count: int) -> bytes:
    content = saved("JPEG")
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
    return content[:2] + segment * count + content[2:]


def overlapping_tags(entries: int, data: bytes) -> bytes:
    """EXIF whose entries all point at the same bytes."""
    place = 8 + 2 + entries * 12 + 4
    directory = b"".join(struct.pack("<HHII", 40000 + i, 7, len(data), place) for i in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + directory + bytes(4) + data


def test_metadata_is_not_decoded() -> None:
    plain = decode_image(saved("JPEG"))
    junk = bytes(range(256)) * 255
    for content in (
        jpeg_with_segments(0xE1, b"Exif\0\0" + junk[:65000], 800),  # 50 MB
        jpeg_with_segments(0xE2, junk[:65000], 100),
        jpeg_with_segments(0xFE, junk[:65000], 100),
        jpeg_with_segments(0xE1, b"Exif\0\0" + overlapping_tags(2500, bytes(30_000)), 1),
    ):
        for orientation in ("exif", "stored"):
            np.testing.assert_array_equal(decode_image(content, orientation=orientation), plain)  # type: ignore[arg-type]


def test_parts_without_number() -> None:
    with pytest.raises(ImageError, match="more than 250000 segments"):
        decode_image(jpeg_with_segments(0xE5, b"", 300_000))
    content = saved("PNG")
    with pytest.raises(ImageError, match="more than 250000 chunks"):
        decode_image(content[:33] + (bytes(4) + b"IDAT" + b"5\xaf\x06\x1e") * 300_000 + content[33:])
    gif = saved("GIF")
    at = 13 + (3 << ((gif[10] & 7) + 1))
    with pytest.raises(ImageError, match="more than 250000 blocks"):
        decode_image(gif[:at] + b"!\xfe\0" * 300_000 + gif[at:])


def test_comments_of_a_gif_are_passed_over() -> None:
    gif = saved("GIF")
    at = 13 + (3 << ((gif[10] & 7) + 1))
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 100_000 + b"\0"
    np.testing.assert_array_equal(decode_image(gif[:at] + comment + gif[at:]), decode_image(gif))


def test_text_that_unpacks_to_much_is_passed_over() -> None:
    content = saved("PNG")
    data = b"bomb\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    np.testing.assert_array_equal(decode_image(content[:33] + chunk * 5 + content[33:]), PIXELS)


def test_tags_that_share_their_data() -> None:
    tiff = saved("TIFF")
    order = "<" if tiff[:2] == b"II" else ">"
    start = struct.unpack(order + "I", tiff[4:8])[0]
    count = struct.unpack(order + "H", tiff[start : start + 2])[0]
    old = tiff[start + 2 : start + 2 + 12 * count]
    extra = b"".join(struct.pack(order + "HHII", 50000 + i, 7, len(tiff), 0) for i in range(2000))
    directory = struct.pack(order + "H", count + 2000) + old + extra + bytes(4)
    bomb = tiff[:4] + struct.pack(order + "I", len(tiff)) + tiff[8:] + directory
    with pytest.raises(ImageError, match="tags hold more data than the file does"):
        decode_image(bomb)
    numbers = struct.pack(order + "HHII", 258, 3, 5_000_000, 8)
    directory = struct.pack(order + "H", count) + old[12:] + numbers + bytes(4)
    many = bytearray(tiff[:4] + struct.pack(order + "I", 10_100_000) + tiff[8:])
    many += bytes(10_100_000 - len(many)) + directory
    with pytest.raises(ImageError, match="tag 258 holds 5000000 numbers"):
        decode_image(bytes(many))


def test_tiles_much_larger_than_the_picture() -> None:
    def entry(tag: int, kind: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, kind, 1, value)

    tags = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, 40_000), (323, 4, 40_000), (324, 4, 8), (325, 4, 1000)]
    directory = struct.pack("<H", len(tags)) + b"".join(entry(*tag) for tag in tags) + bytes(4)
    content = b"II*\0" + struct.pack("<I", 8) + directory
    with pytest.raises(ImageError, match="8x8 and takes 6400 MB"):
        decode_image(content)


def test_a_photoshop_file_with_large_tags_is_read() -> None:
    file = io.BytesIO()
    picture = Image.fromarray(PIXELS)
    picture.save(file, "TIFF", tiffinfo={37724: bytes(3_000_000)}, icc_profile=bytes(500_000))
    np.testing.assert_array_equal(decode_image(file.getvalue()), PIXELS)


def variants() -> Iterator[tuple[str, bytes]]:
    """Files in which much stands beside the pixels, or the pixels are stored in an unusual way."""
    rgb = Image.fromarray(PIXELS)
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    beside: dict[str, Any] = {
        "exif": exif,
        "icc_profile": bytes(range(256)) * 300,
        "comment": b"\xff\xda\xff\xd9",
    }
    for mode in ("RGB", "L", "CMYK", "YCbCr"):
        for options in (
            {},
            beside,
            {"progressive": True, **beside},
            {"restart_marker_blocks": 1},
            {"keep_rgb": mode == "RGB"},
            {"subsampling": 0},
            {"xmp": b"<tiff:Orientation>6</tiff:Orientation>"},
        ):
            yield "JPEG", encoded(rgb.convert(mode), "JPEG", **options)
    yield "JPEG and what follows", encoded(rgb, "JPEG") + b"\0\0\0\x18ftypmp42" + bytes(1000)
    yield "MPO", encoded(rgb, "MPO", save_all=True, append_images=[rgb.rotate(90)])
    info = PngInfo()
    info.add_text("a", "b" * 5000, zip=True)
    info.add(b"gAMA", struct.pack(">I", 45455))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = rgb.convert("L").convert("I").convert(mode) if mode == "I;16" else rgb.convert(mode)
        for options in ({}, {"pnginfo": info, **beside}, {"transparency": (1, 2, 3) if mode == "RGB" else 3}):
            if "transparency" in options and mode in ("LA", "RGBA"):
                continue
            yield f"PNG {mode}", encoded(image, "PNG", **options)
    frames = [rgb.rotate(90 * i).resize((60, 40)) for i in range(3)]
    for options in ({}, {"default_image": True}, {"disposal": 1, "blend": 1}):
        yield "APNG", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], **options)
    for options in (
        {},
        {"interlace": 0},
        {"transparency": 5},
        {"comment": b"hello"},
        {"disposal": 2, "loop": 0},
    ):
        yield "GIF", encoded(frames[0].convert("P"), "GIF", **options)
        yield "GIF", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], **options)
    yield "WEBP", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield "TIFF", encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    yield "TIFF", encoded(rgb.convert("CMYK"), "TIFF", compression="tiff_lzw", exif=exif)
    yield "TIFF", encoded(rgb, "TIFF", compression="jpeg", big_tiff=True)


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def test_what_is_left_out_changes_no_pixel() -> None:
    for name, content in variants():
        with Image.open(io.BytesIO(content)) as image:
            right = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(decode_image(content), right, err_msg=name)
