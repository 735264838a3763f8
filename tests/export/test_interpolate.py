"""Position embeddings for another grid, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from internvl_rt.export.interpolate import interpolate_positions


@pytest.mark.parametrize("stored", [1, 4, 16, 32])
@pytest.mark.parametrize("grid", [1, 2, 3, 16, 24, 33, 48])
def test_equals_torch(stored: int, grid: int) -> None:
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((1 + stored * stored, 8), np.float32)
    found = interpolate_positions(embedding, grid)
    patches = torch.from_numpy(embedding[1:]).reshape(1, stored, stored, 8).permute(0, 3, 1, 2)
    # In float64: torch rounds the coordinates to float32 too, which costs it 1e-5 on a grid of 48.
    options = {"size": (grid, grid), "mode": "bicubic", "align_corners": False}
    wanted = torch.nn.functional.interpolate(patches.double(), **options)
    single = torch.nn.functional.interpolate(patches, **options)
    assert found.dtype == np.float32
    assert found.shape == (1 + grid * grid, 8)
    np.testing.assert_array_equal(found[0], embedding[0])
    np.testing.assert_allclose(found[1:], wanted.permute(0, 2, 3, 1).reshape(-1, 8).numpy(), atol=1e-6)
    np.testing.assert_allclose(found[1:], single.permute(0, 2, 3, 1).reshape(-1, 8).numpy(), atol=2e-5)


def test_the_same_grid_is_not_touched() -> None:
    embedding = np.ones((17, 3), np.float32)
    assert interpolate_positions(embedding, 4) is embedding
