"""The choice of the grid: worked examples of the reference page, ties, and an exhaustive second opinion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.pillow_reference import grid as reference_grid
from internvl_rt import _core
from internvl_rt.errors import ImageError


def choose(width: int, height: int, max_tiles: int, min_tiles: int = 1) -> tuple[int, int]:
    return _core.choose_grid(width, height, min_tiles=min_tiles, max_tiles=max_tiles, tile_size=448)


# Section 5.6.
@pytest.mark.parametrize(
    ("width", "height", "max_tiles", "grid"),
    [
        (800, 1300, 12, (2, 3)),
        (800, 1300, 6, (2, 3)),
        (448, 448, 12, (1, 1)),
        (600, 600, 12, (1, 1)),
        (634, 634, 12, (2, 2)),
        (1024, 1024, 12, (3, 3)),
        (640, 480, 12, (4, 3)),
        (1024, 768, 12, (4, 3)),
        (897, 1152, 12, (3, 4)),
        (1920, 1080, 12, (4, 2)),
        (1280, 720, 12, (4, 2)),
        (3840, 2160, 6, (2, 1)),
        (3840, 2160, 12, (4, 2)),
        (3840, 2160, 24, (5, 3)),
        (3840, 2160, 40, (7, 4)),
        (3584, 2240, 40, (8, 5)),
        (3508, 2480, 40, (7, 5)),
        (2480, 3508, 12, (2, 3)),
        (2480, 3508, 18, (2, 3)),
        (2480, 3508, 24, (4, 6)),
        (4000, 400, 12, (10, 1)),
        (400, 4000, 12, (1, 10)),
        (10000, 100, 12, (12, 1)),
        (700, 400, 12, (2, 1)),
        (1400, 800, 12, (4, 2)),
        (1920, 1080, 1, (1, 1)),
        (100, 10000, 1, (1, 1)),
    ],
)
def test_worked_examples(width: int, height: int, max_tiles: int, grid: tuple[int, int]) -> None:
    assert choose(width, height, max_tiles) == grid


# Section 5.3.
@pytest.mark.parametrize(
    ("side", "max_tiles", "grid"),
    [
        (1, 12, (1, 1)),
        (633, 12, (1, 1)),
        (634, 12, (2, 2)),
        (950, 12, (2, 2)),
        (951, 12, (3, 3)),
        (1267, 16, (3, 3)),
        (1268, 16, (4, 4)),
        (1268, 15, (3, 3)),
    ],
)
def test_squares_climb_with_their_area(side: int, max_tiles: int, grid: tuple[int, int]) -> None:
    assert choose(side, side, max_tiles) == grid


def test_two_to_one_climbs_beyond_four_tiles_area() -> None:
    assert choose(1266, 633, 12) == (2, 1)  # 801,378 pixels
    assert choose(1268, 634, 12) == (4, 2)  # 803,912 pixels


@given(
    width=st.integers(1, 20000),
    height=st.integers(1, 20000),
    min_tiles=st.integers(1, 6),
    max_tiles=st.integers(6, 40),
)
def test_equals_the_plain_search(width: int, height: int, min_tiles: int, max_tiles: int) -> None:
    assert choose(width, height, max_tiles, min_tiles) == reference_grid(width, height, max_tiles, min_tiles)


@pytest.mark.parametrize("max_tiles", range(1, 41))
def test_equals_the_plain_search_where_ties_are_likely(max_tiles: int) -> None:
    for width, height in [
        (7, 4),
        (700, 400),
        (1400, 800),
        (5, 3),
        (1000, 1000),
        (300, 200),
        (2000, 100),
        (1, 9),
    ]:
        for scale in (1, 3, 7):
            size = (width * scale, height * scale)
            assert choose(*size, max_tiles) == reference_grid(*size, max_tiles)


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 0},
        {"height": 0},
        {"width": -5},
        {"width": 1 << 40},
        {"max_tiles": 0},
        {"max_tiles": 100_000},
        {"min_tiles": 0},
        {"min_tiles": 13},
        {"tile_size": 0},
    ],
)
def test_numbers_out_of_range_are_image_errors(arguments: dict[str, int]) -> None:
    valid = {"width": 640, "height": 480, "min_tiles": 1, "max_tiles": 12, "tile_size": 448}
    name = next(iter(arguments))
    with pytest.raises(ImageError, match=name.removeprefix("_")):
        _core.choose_grid(**(valid | arguments))
