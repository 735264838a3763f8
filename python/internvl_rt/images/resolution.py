"""The resolution router's decision (InternVL3.5-Flash): which tiles of a picture become fewer tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.manifest import Flash


def compressible(scores: npt.NDArray[np.float32], flash: Flash) -> npt.NDArray[np.bool_]:
    """Which tiles are compressed, as the authors decide for a batch of tiles.

    A tile is, if its score is above the batch's quantile ``relative_threshold`` and at least
    ``absolute_threshold``. One tile alone never is above its own quantile. The batch here is one picture, so
    that what it becomes does not depend on the pictures beside it, and it can be encoded once and used often.

    Args:
        scores: float32 [tiles]; see ``EncodedTiles.scores``.
        flash: the thresholds.

    Returns:
        bool [tiles].
    """
    least = np.quantile(scores, flash.relative_threshold).astype(np.float32)
    chosen: npt.NDArray[np.bool_] = (scores > least) & (scores >= flash.absolute_threshold)
    return chosen
