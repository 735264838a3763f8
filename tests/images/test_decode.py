"""Pictures in every form that is taken, and the errors of those that are not."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from internvl_rt.errors import ImageError
from internvl_rt.images import MAX_PIXELS, decode_image

PHOTOGRAPH = Path(skimage.__file__).parent / "data" / "chelsea.png"


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photograph() -> Image.Image:
    return Image.open(PHOTOGRAPH).convert("RGB")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and brings hardly any data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    image = photograph()
    expected = np.asarray(image)
    data = PHOTOGRAPH.read_bytes()
    sources: list[Any] = [
        PHOTOGRAPH,
        str(PHOTOGRAPH),
        data,
        bytearray(data),
        memoryview(data),
        image,
        expected,
        torch.from_numpy(expected.copy()),
    ]
    for source in sources:
        decoded = decode_image(source)
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG", "JPEG2000"])
def test_file_formats(file_format: str) -> None:
    data = encoded(photograph(), file_format)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "HSV"])
def test_modes_convert_as_pillow_converts_them(mode: str) -> None:
    grey = photograph().convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 7)
    elif mode in ("P", "CMYK", "YCbCr", "RGBA", "HSV"):
        image = photograph().convert(mode)
    else:
        image = grey.convert(mode)
    assert image.mode == mode
    np.testing.assert_array_equal(decode_image(image), np.asarray(image.convert("RGB")))


def test_alpha_is_dropped_without_compositing() -> None:
    picture = np.zeros((2, 2, 4), np.uint8)
    picture[:, :, 0] = 200  # transparent red
    assert (decode_image(Image.fromarray(picture)) == [200, 0, 0]).all()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for file_format in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        assert (decode_image(data) == [255, 0, 0]).all(), file_format


def test_an_array_is_not_copied() -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    assert np.shares_memory(decode_image(picture), picture)
    assert np.shares_memory(decode_image(picture[::-1, ::2]), picture)
    tensor = torch.zeros((4, 5, 3), dtype=torch.uint8)
    assert decode_image(tensor).ctypes.data == tensor.data_ptr()


class OnGpu:
    """An array as a GPU's library offers it."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        raise AssertionError("it would be copied")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def errors(tmp_path: Path) -> dict[str, tuple[Any, str]]:
    """Name: the source, and what its message must say."""
    text = tmp_path / "text.jpg"
    text.write_text("This is not a picture.\n")
    truncated = tmp_path / "truncated.jpg"
    jpeg = encoded(photograph(), "JPEG")
    truncated.write_bytes(jpeg[: len(jpeg) // 2])
    fifo, sparse = tmp_path / "pipe.jpg", tmp_path / "sparse.png"
    os.mkfifo(fifo)
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    png = PHOTOGRAPH.read_bytes()
    device = torch.zeros((4, 4, 3), dtype=torch.uint8, device="meta")
    return {
        "missing": (tmp_path / "missing.jpg", "does not exist"),
        "folder": (tmp_path, "is a folder"),
        "null in path": ("a\0b.jpg", "cannot be opened"),
        "long path": ("x" * 5000, "cannot be opened"),
        "text": (text, "not an image"),
        "truncated JPEG": (truncated, "truncated"),
        "truncated PNG": (png[: len(png) // 2], "truncated"),
        "truncated header": (png[:20], "cannot be|not an image"),
        "empty file": (empty, "not an image"),
        "empty bytes": (b"", "empty"),
        "random bytes": (bytes(range(256)), "not an image"),
        "strided memory": (memoryview(png)[::2], "not an image"),
        "bomb": (png_header(50_000, 50_000), "2500 million pixels"),
        "huge header": (png_header(2**31 - 1, 2**31 - 1), "million pixels"),
        "long": (png_header(1, 100_000_000), "pixels a side"),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "not an image"),
        "zero height": (np.zeros((0, 4, 3), np.uint8), "0"),
        "zero width": (np.zeros((4, 0, 3), np.uint8), "0"),
        "float": (np.zeros((4, 4, 3), np.float32), r"float32.*uint8.*between 0 and 0: `\(array \* 255\)"),
        "floats to 255": (np.full((4, 4, 3), 200.5), r"float64.*200\.5: `array\.round\(\)"),
        "normalised": (np.full((4, 4, 3), -1.5), "-1.5: if they were normalised, undo that"),
        "not a number": (np.full((4, 4, 3), np.nan), "NaN or infinite"),
        "16 bits": (np.full((4, 4, 3), 65000, np.uint16), r"uint16.*array >> 8"),
        "bool": (np.zeros((4, 4, 3), bool), r"bool.*uint8.*\* 255"),
        "int8": (np.zeros((4, 4, 3), np.int8), "int8.*uint8"),
        "object": (np.full((4, 4, 3), None), "object.*uint8"),
        "grey": (np.zeros((4, 4), np.uint8), "np.stack"),
        "NV12": (np.zeros((1080 * 3 // 2, 1920), np.uint8), "NV12 or I420 frame of 1920x1080.*cvtColor"),
        "YUYV": (np.zeros((4, 4, 2), np.uint8), "YUYV"),
        "grey with an axis": (np.zeros((4, 4, 1), np.uint8), "height, width, 3.*np.repeat"),
        "RGBA": (np.zeros((4, 4, 4), np.uint8), r"height, width, 3.*RGBA: take `array\[\.\.\., :3\]`"),
        "channels first": (np.zeros((3, 8, 9), np.uint8), r"channels first \(CHW\).*transpose\(1, 2, 0\)"),
        "float, channels first": (torch.zeros((3, 4, 5)), r"channels first"),
        "RGBA, channels first": (np.zeros((4, 5, 6), np.uint8), "RGBA with channels first"),
        "grey, channels first": (np.zeros((1, 5, 6), np.uint8), "grey with channels first"),
        "batch": (np.zeros((1, 4, 4, 3), np.uint8), r"height, width, 3.*array\[0\]"),
        "a vector": (np.zeros(3, np.uint8), r"shape \(3,\)"),
        "generator": ((i for i in [1]), "generator.*Make a list"),
        "URL": ("https://example.com/a.jpg", "'https://example.com/a.jpg' is on the network.*Download it"),
        "path of a URL": (Path("https://example.com/a.jpg"), "'https://example.com/a.jpg' is on the network"),
        "bucket": ("s3://bucket/a.jpg", "on the network"),
        "pipe": (fifo, "is a named pipe"),
        "device": ("/dev/zero", "is a device"),
        "sparse": (sparse, "1,099,511.6 MB; expected an image file of at most"),
        "scalar": (np.uint8(3), "expected a path"),
        "too many pixels": (np.broadcast_to(np.zeros(3, np.uint8), (20_000, 20_000, 3)), "400 million"),
        "none": (None, "is None.*expected a path"),
        "list": ([[[0, 0, 0]]], "list.*expected a path"),
        "number": (7, "int.*expected a path"),
        "empty PIL image": (Image.new("RGB", (0, 5)), "0x5"),
        "float tensor": (torch.zeros((4, 4, 3)), "float32.*uint8"),
        "tensor elsewhere": (device, "CPU|DLPack"),
        "tensor on a GPU": (OnGpu(), r"OnGpu is not in CPU memory.*tensor\.cpu\(\)"),
        "tensor with gradient": (torch.zeros((4, 4, 3), requires_grad=True), "DLPack"),
    }


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    for name, (source, says) in errors(tmp_path).items():
        with pytest.raises(ImageError) as raised:
            decode_image(source)
        assert re.search(says, str(raised.value)), f"{name}: {raised.value}"


def test_a_bomb_is_refused_from_its_header() -> None:
    """Two and a half thousand million pixels would be seven GB; nothing may be allocated for them."""
    program = (
        "import sys\n"
        "from internvl_rt.errors import ImageError\n"
        "from internvl_rt.images import decode_image\n"
        "def peak():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])\n"
        "before = peak()\n"
        "try: decode_image(sys.stdin.buffer.read())\n"
        "except ImageError: print(peak() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], input=png_header(50_000, 50_000), capture_output=True, check=True
    )
    assert int(result.stdout) < 20_000  # KB


def test_pillows_limit_is_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(PHOTOGRAPH).shape == (300, 451, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_can_be_changed() -> None:
    assert decode_image(PHOTOGRAPH, max_pixels=300 * 451).shape == (300, 451, 3)
    for source in (PHOTOGRAPH, photograph(), np.asarray(photograph())):
        with pytest.raises(ImageError, match="max_pixels"):
            decode_image(source, max_pixels=300 * 451 - 1)
    assert MAX_PIXELS == 200_000_000


def test_many_threads_decode_at_once() -> None:
    expected = np.asarray(photograph())
    with ThreadPoolExecutor(4) as pool:
        for decoded in pool.map(decode_image, [PHOTOGRAPH] * 20):
            np.testing.assert_array_equal(decoded, expected)
