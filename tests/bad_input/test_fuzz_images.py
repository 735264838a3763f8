"""Pictures damaged at random: decoded, or refused with a typed error; never anything else."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import internvl_rt as ivl
from internvl_rt import ImageError
from internvl_rt.images import decode_image

# The whole of this file stays under half a minute on a slow machine.
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(3).integers(0, 256, (24, 33, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


WHOLE = {form: encoded(form) for form in FORMATS}


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A picture's file with bytes changed, removed, repeated or put in."""
    content = bytearray(WHOLE[draw(st.sampled_from(FORMATS))])
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(("change", "cut", "drop", "repeat", "insert"))):
            case "change":
                content[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
            case "cut":
                del content[place:]
            case "drop":
                del content[place : place + draw(st.integers(1, 40))]
            case "repeat":
                content[place:place] = content[place : place + draw(st.integers(1, 400))]
            case "insert":
                content[place:place] = draw(st.binary(max_size=40))
    return bytes(content)


def check(source: Any) -> None:
    try:
        rgb = decode_image(source)
    except ImageError:
        return
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert rgb.size > 0


@quick
@given(damaged_files())
@pytest.mark.filterwarnings("ignore")
def test_damaged_files(content: bytes) -> None:
    check(content)


@quick
@given(st.binary(max_size=400))
@pytest.mark.filterwarnings("ignore")
def test_random_bytes(content: bytes) -> None:
    check(content)


@quick
@given(
    st.lists(st.integers(0, 6), max_size=5),
    st.sampled_from(["u1", "i1", "u2", "i8", "f2", "f4", "f8", "c8", "?", "S3", "U2", "O", "M8[s]"]),
    st.lists(st.sampled_from([1, 2, -1]), min_size=5, max_size=5),
)
def test_arrays_of_any_shape_type_and_strides(shape: list[int], dtype: str, steps: list[int]) -> None:
    array = np.zeros(shape, np.dtype(dtype))
    check(array[tuple(slice(None, None, step) for step in steps[: array.ndim])])


@quick
@given(st.integers(1, 300), st.integers(1, 300), st.one_of(st.integers(-2, 40), st.integers(10**3, 10**12)))
def test_tiles_of_any_size(width: int, height: int, max_tiles: int) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    try:
        tiled = ivl.tile_image(image, max_tiles=max_tiles, tile_size=28)
    except ImageError:
        assert not 1 <= max_tiles <= 40
        return
    columns, rows = tiled.grid
    assert columns * rows <= max_tiles
    assert len(tiled.tiles) == columns * rows + (columns * rows > 1)
