"""Damaged files and odd arrays, for a bounded time: only ImageError may come out."""

from __future__ import annotations

import io
import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from PIL import Image

from internvl_rt.errors import ImageError
from internvl_rt.images import decode_image, tile_image

SECONDS = 6.0
MAX_PIXELS = 1_000_000  # a damaged header may claim any size; large ones only take time


def seeds() -> list[bytes]:
    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as photograph:
        small = photograph.convert("RGB").resize((61, 43))
    files = []
    for image, file_format, options in [
        (small, "JPEG", {}),
        (small, "JPEG", {"progressive": True}),
        (small.convert("CMYK"), "JPEG", {}),
        (small, "PNG", {}),
        (small.convert("P"), "PNG", {}),
        (small.convert("LA"), "PNG", {}),
        (small, "GIF", {"save_all": True, "append_images": [small.rotate(90)]}),
        (small, "WEBP", {}),
        (small, "BMP", {}),
        (small, "TIFF", {}),
        (small, "TIFF", {"compression": "tiff_lzw"}),
        (small, "PPM", {}),
        (small, "JPEG2000", {}),
    ]:
        buffer = io.BytesIO()
        image.save(buffer, file_format, **options)
        files.append(buffer.getvalue())
    return files


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        # Mostly in the header, where a byte decides the most.
        place = rng.randrange(min(len(changed), 64) if rng.random() < 0.7 else len(changed))
        kind = rng.random()
        if kind < 0.5:
            changed[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif kind < 0.65:
            del changed[place : place + rng.randrange(1, 20)]
        elif kind < 0.8:
            changed[place:place] = rng.randbytes(rng.randrange(1, 20))
        else:
            del changed[place + 1 :]
        if not changed:
            break
    return bytes(changed)


def odd_array(rng: random.Random) -> Any:
    shape = tuple(
        rng.choice([0, 1, 2, 3, 4, 5, 31, 33, 100]) for _ in range(rng.choice([0, 1, 2, 3, 3, 3, 3, 4]))
    )
    if len(shape) == 3 and rng.random() < 0.7:
        shape = (*shape[:2], 3)
    dtype = rng.choice(
        ["uint8"] * 5 + ["int8", "uint16", "float32", "float64", "bool", "O", "S3", "complex64"]
    )
    array = np.zeros(shape, dtype)
    if array.ndim and rng.random() < 0.5:
        array = array[tuple(slice(None, None, rng.choice([1, 1, 2, -1, -3])) for _ in shape)]
    if array.ndim == 3 and rng.random() < 0.3:
        array = array.transpose(rng.sample(range(3), 3))
    if rng.random() < 0.2:
        array = np.lib.stride_tricks.as_strided(array, strides=[0] * array.ndim, writeable=False)
    return array


def test_only_image_errors_come_out() -> None:
    rng = random.Random(20240601)
    files = seeds()
    decoded = refused = 0
    until = time.monotonic() + SECONDS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about damaged metadata
        while time.monotonic() < until:
            for _ in range(20):
                kind = rng.random()
                source: Any
                if kind < 0.7:
                    source = mutated(rng.choice(files), rng)
                elif kind < 0.75:
                    source = rng.randbytes(rng.randrange(200))
                else:
                    source = odd_array(rng)
                try:
                    rgb = decode_image(source, max_pixels=MAX_PIXELS)
                    assert rgb.dtype == np.uint8
                    assert rgb.shape[2] == 3
                    tiled = tile_image(rgb, rng.randrange(-1, 7), tile_size=rng.choice([0, 2, 7, 14, 28]))
                    assert tiled.tiles.ndim == 4
                    decoded += 1
                except ImageError:
                    refused += 1
    assert decoded > 50
    assert refused > 50
