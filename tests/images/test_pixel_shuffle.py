"""Pixel shuffle against the authors' sequence of reshapes and transposes."""

import numpy as np
import numpy.typing as npt
import pytest

from internvl_rt import _core
from internvl_rt.errors import ImageError

TEAM = _core.ThreadTeam(2)


def authors(features: npt.NDArray[np.float32], block: int, version: str) -> npt.NDArray[np.float32]:
    tiles, tokens, channels = features.shape
    side = round((tokens - 1) ** 0.5)
    x = features[:, 1:].reshape(tiles, side, side, channels)
    x = x.reshape(tiles, side, side // block, channels * block).transpose(0, 2, 1, 3)
    x = x.reshape(tiles, side // block, side // block, channels * block * block)
    if version == "v2":
        x = x.transpose(0, 2, 1, 3)
    return x.reshape(tiles, -1, channels * block * block)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("tiles", "side", "channels", "block"),
    [(1, 32, 1024, 2), (3, 32, 20, 2), (2, 32, 5, 4), (2, 9, 1, 3), (1, 6, 3, 1), (5, 2, 7, 2), (0, 4, 3, 2)],
)
def test_equals_the_authors(tiles: int, side: int, channels: int, block: int, version: str) -> None:
    rng = np.random.default_rng(1)
    features = rng.standard_normal((tiles, 1 + side * side, channels)).astype(np.float32)
    shuffled = _core.pixel_shuffle(features, block=block, version=version, team=TEAM)
    expected = authors(features, block, version) if tiles else shuffled
    assert shuffled.shape == (tiles, (side // block) ** 2, channels * block * block)
    np.testing.assert_array_equal(shuffled, expected)


def test_a_block_is_read_row_by_row() -> None:
    """Top left, top right, bottom left, bottom right; v1 goes through the blocks column by column."""
    features = np.arange(17, dtype=np.float32).reshape(1, 17, 1)  # patch p has the value p + 1
    v2 = _core.pixel_shuffle(features, block=2, version="v2", team=TEAM)
    assert v2[0].tolist() == [[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]]
    v1 = _core.pixel_shuffle(features, block=2, version="v1", team=TEAM)
    assert v1[0].tolist() == [v2[0].tolist()[token] for token in (0, 2, 1, 3)]


@pytest.mark.parametrize(
    ("shape", "block", "version"),
    [
        ((1, 17, 4), 3, "v2"),
        ((1, 17, 4), 0, "v2"),
        ((1, 17, 4), -2, "v2"),
        ((1, 17, 4), 2, "v3"),
        ((1, 16, 4), 2, "v2"),
        ((1, 1, 4), 2, "v2"),
        ((1, 0, 4), 2, "v2"),
        ((17, 4), 2, "v2"),
    ],
)
def test_other_shapes_are_image_errors(shape: tuple[int, ...], block: int, version: str) -> None:
    with pytest.raises(ImageError, match="pixel shuffle"):
        _core.pixel_shuffle(np.zeros(shape, np.float32), block=block, version=version, team=TEAM)  # type: ignore[arg-type]
