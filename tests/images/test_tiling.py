"""Tiles and pixel values against Pillow and NumPy, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import skimage
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from images.pillow_reference import MEAN, STD, grid, pixel_values, resize, tiles
from internvl_rt import _core
from internvl_rt.bundle.manifest import Tiling
from internvl_rt.errors import ImageError
from internvl_rt.images import tile_image, tile_pixel_values

PHOTOGRAPHS = sorted(
    path for path in (Path(skimage.__file__).parent / "data").iterdir() if path.suffix in (".png", ".jpg")
)
THREADS = (1, 2, 3)


@cache
def noise(seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, 20_000_000, dtype=np.uint8)


def noisy_picture(width: int, height: int) -> npt.NDArray[np.uint8]:
    """Noise with flat black and white areas, whose edges make the filter overshoot both ends of the range."""
    picture = noise()[: width * height * 3].reshape(height, width, 3).copy()
    picture[height // 3 : height // 2, :, :] = 255
    picture[:, width // 3 : width // 2, 1:] = 0
    return picture


def check(picture: npt.NDArray[np.uint8], max_tiles: int, size: int = 448, threads: int = 1) -> None:
    expected = tiles(Image.fromarray(picture), max_tiles, size=size)
    tiled = tile_image(picture, max_tiles, tile_size=size, threads=threads)
    assert tiled.grid == grid(picture.shape[1], picture.shape[0], max_tiles, size=size)
    assert tiled.image_size == (picture.shape[1], picture.shape[0])
    np.testing.assert_array_equal(tiled.tiles, expected)
    rules = Tiling(tile_size=size, min_tiles=1, max_tiles=max_tiles, thumbnail=True, dynamic=True)
    values, _ = tile_pixel_values(picture, rules, threads=threads)
    expected_values = pixel_values(expected)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(tiled.pixel_values(), expected_values)


def test_photographs_are_bundled() -> None:
    names = {path.name for path in PHOTOGRAPHS}
    assert {"astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg"} <= names


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_photographs(path: Path) -> None:
    with Image.open(path) as image:
        expected = tiles(image, 12)
    tiled = tile_image(path, 12)
    np.testing.assert_array_equal(tiled.tiles, expected)
    np.testing.assert_array_equal(tiled.pixel_values(), pixel_values(expected))


# Small tiles keep the pictures small and the sizes many; the arithmetic is the same.
@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 700),
    max_tiles=st.integers(1, 40),
    size=st.sampled_from([2, 14, 30, 48, 112]),
    threads=st.sampled_from(THREADS),
)
@example(width=1, height=1, max_tiles=12, size=448, threads=1)
@example(width=1, height=1, max_tiles=1, size=448, threads=3)
@example(width=1, height=700, max_tiles=40, size=112, threads=2)
@example(width=700, height=1, max_tiles=40, size=112, threads=2)
@example(width=7000, height=70, max_tiles=40, size=112, threads=1)
@example(width=70, height=7000, max_tiles=40, size=112, threads=3)
@example(width=10000, height=100, max_tiles=12, size=448, threads=2)
@example(width=2, height=200, max_tiles=1, size=14, threads=1)
@example(width=2, height=201, max_tiles=1, size=14, threads=1)  # shrunk vertically first
@example(width=14, height=1500, max_tiles=12, size=14, threads=3)
@example(width=30, height=3001, max_tiles=40, size=48, threads=2)
@example(width=2, height=5000, max_tiles=1, size=2, threads=2)
def test_any_size(width: int, height: int, max_tiles: int, size: int, threads: int) -> None:
    check(noisy_picture(width, height), max_tiles, size, threads)


@pytest.mark.parametrize("max_tiles", range(1, 41))
def test_every_number_of_tiles(max_tiles: int) -> None:
    check(noisy_picture(331, 187), max_tiles, size=56, threads=2)


@pytest.mark.parametrize(
    ("width", "height", "max_tiles"),
    [
        (448, 448, 12),  # both passes skipped
        (896, 448, 12),  # both skipped in the grid, none in the thumbnail
        (448, 900, 12),  # horizontal skipped in the grid
        (900, 448, 12),  # vertical skipped in the grid
        (800, 1300, 12),  # where Pillow 13 differs
        (1920, 1080, 12),
    ],
)
@pytest.mark.parametrize("threads", THREADS)
def test_full_size_tiles(width: int, height: int, max_tiles: int, threads: int) -> None:
    check(noisy_picture(width, height), max_tiles, threads=threads)


def test_8k() -> None:
    picture = np.tile(noisy_picture(1920, 1080), (4, 4, 1))
    expected = tiles(Image.fromarray(picture), 12)
    np.testing.assert_array_equal(tile_image(picture, 12, threads=2).tiles, expected)


@pytest.mark.parametrize("isa", _core.available_instruction_sets())
def test_every_instruction_set(isa: str) -> None:
    """The set is chosen once per process: each other one gets a process that runs tests of this file."""
    if isa == _core.instruction_set():
        pytest.skip("is the one in use here")
    chosen = "test_any_size or test_every_number_of_tiles or test_full_size_tiles or test_normalisation"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen]
    result = subprocess.run(
        command, env={**os.environ, "INTERNVL_RT_ISA": isa}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert " passed" in result.stdout


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (MEAN, STD),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ((0.0, -1.0, 3.0), (1.0, -0.3, 1e-30)),
        ((0.1, 0.2, 0.3), (1e30, 7.0, 1 / 3)),
    ],
)
def test_normalisation_equals_numpy(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    """All 256 values in all channels, in vectors and in the rest of a row."""
    picture = np.zeros((50, 50, 3), np.uint8)
    picture.reshape(-1, 3)[:256] = np.arange(256, dtype=np.uint8)[:, None]
    rules = Tiling(tile_size=50, min_tiles=1, max_tiles=1, thumbnail=True, dynamic=True, mean=mean, std=std)
    values, _ = tile_pixel_values(picture, rules)
    scaled = picture.astype(np.float32) / np.float32(255)
    expected = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    np.testing.assert_array_equal(values[0], expected.transpose(2, 0, 1))


def test_any_strides() -> None:
    picture = noisy_picture(300, 200)
    padded = np.zeros((200, 320, 4), np.uint8)
    padded[:, :300, :3] = picture
    views = {
        "upside down": (picture[::-1], np.ascontiguousarray(picture[::-1])),
        "mirrored": (picture[:, ::-1], np.ascontiguousarray(picture[:, ::-1])),
        "BGR": (picture[:, :, ::-1], np.ascontiguousarray(picture[:, :, ::-1])),
        "inside a wider picture": (np.pad(picture, ((0, 0), (3, 9), (0, 0)))[:, 3:303], picture),
        "every other row": (picture[::2], np.ascontiguousarray(picture[::2])),
        "RGBA": (padded[:, :300, :3], picture),
        "column-major": (np.asfortranarray(picture), picture),
        "planar": (np.ascontiguousarray(picture.transpose(2, 0, 1)).transpose(1, 2, 0), picture),
        "one column": (picture[:, 5:6], picture[:, 5:6].copy()),
        "one row repeated": (np.broadcast_to(picture[:1], (64, 300, 3)), np.repeat(picture[:1], 64, 0)),
    }
    for name, (view, plain) in views.items():
        got, expected = tile_image(view, 6, tile_size=56), tile_image(plain, 6, tile_size=56)
        np.testing.assert_array_equal(got.tiles, expected.tiles, err_msg=name)


def test_options() -> None:
    picture = noisy_picture(1920, 1080)
    assert tile_image(picture, 12, thumbnail=False).tiles.shape == (8, 448, 448, 3)
    one = tile_image(picture, 12, dynamic=False)
    assert one.grid == (1, 1)
    np.testing.assert_array_equal(one.tiles[0], np.asarray(resize(Image.fromarray(picture), (448, 448))))
    np.testing.assert_array_equal(
        tile_image(noisy_picture(50, 50), 12, min_tiles=5, tile_size=28).tiles,
        tiles(Image.fromarray(noisy_picture(50, 50)), 12, min_tiles=5, size=28),
    )


def test_max_tiles_of_a_call_replaces_the_models() -> None:
    rules = Tiling(tile_size=28, min_tiles=2, max_tiles=12, thumbnail=True, dynamic=True)
    picture = noisy_picture(80, 60)
    assert tile_pixel_values(picture, rules)[1] == (4, 3)
    values, one = tile_pixel_values(picture, rules, max_tiles=1)
    assert one == (1, 1)
    assert len(values) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_tiles": 0},
        {"max_tiles": -1},
        {"min_tiles": 6, "max_tiles": 5},
        {"min_tiles": 0},
        {"tile_size": 447},
        {"tile_size": 0},
        {"tile_size": 1 << 20},
        {"max_tiles": 1 << 40},
        {"max_tiles": 1.5},
        {"max_tiles": "12"},
    ],
)
def test_arguments_out_of_range_are_image_errors(arguments: dict[str, int]) -> None:
    with pytest.raises(ImageError, match=next(iter(arguments))):
        tile_image(np.zeros((8, 8, 3), np.uint8), **arguments)


def test_a_deviation_of_zero_is_an_image_error() -> None:
    rules = Tiling(28, 1, 1, thumbnail=True, dynamic=True, std=(0.2, 0.0, 0.2))
    with pytest.raises(ImageError, match="deviation"):
        tile_pixel_values(np.zeros((8, 8, 3), np.uint8), rules)
