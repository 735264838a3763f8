"""Arrays that callers give in place of texts and pictures: token ids, pixels and features, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from internvl_rt.answers.results import ImageFeatures
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.engine import Float32Array
from internvl_rt.errors import ImageError, PromptError


def check_bundle(features: ImageFeatures, manifest: Manifest) -> None:
    """Raises ImageError unless the features were computed by the bundle of that manifest."""
    if features.fingerprint != manifest.fingerprint:
        raise ImageError(
            "these ImageFeatures were computed by another bundle, and mean nothing to this one "
            f"({manifest.name}). Encode the picture again with this model's encode()."
        )


def checked_pixels(pixel_values: npt.ArrayLike, manifest: Manifest) -> Float32Array:
    """Normalised tiles, float32 [tiles, 3, tile_size, tile_size].

    Raises:
        ImageError: if they have another shape or type, or a value is not finite.
    """
    size = manifest.tiling.tile_size
    expected = f"float32 [tiles, 3, {size}, {size}] with at least one tile"
    pixels = _as_array(pixel_values)
    if pixels.dtype != np.float32 or pixels.shape[1:] != (3, size, size) or len(pixels) == 0:
        raise ImageError(
            f"pixel_values are {pixels.dtype} {list(pixels.shape)}; expected {expected}. "
            "TiledImage.pixel_values() makes them from a picture."
        )
    if not np.isfinite(pixels).all():
        raise ImageError(
            "pixel_values hold NaN or infinite values. Normalised pixels lie between -3 and 3: check how "
            "they were computed."
        )
    return np.ascontiguousarray(pixels)


def checked_ids(input_ids: npt.ArrayLike, manifest: Manifest) -> npt.NDArray[np.int64]:
    """Token ids [n] of the model's vocabulary.

    Raises:
        PromptError: if they are none.
    """
    ids = _as_array(input_ids)
    if ids.ndim != 1 or len(ids) == 0 or ids.dtype.kind not in "iu":
        raise PromptError(
            f"input_ids are {ids.dtype} {list(ids.shape)}; expected integers [n] with at least one token."
        )
    vocab = manifest.llm.vocab_size
    if int(ids.min()) < 0 or int(ids.max()) >= vocab:
        raise PromptError(
            f"input_ids lie between {ids.min()} and {ids.max()}; this model's ids are 0 to {vocab - 1}."
        )
    return ids.astype(np.int64)


def checked_features(given: Any, manifest: Manifest) -> Float32Array | None:
    """Features in any of their forms as float32 [image tokens, hidden].

    Raises:
        PromptError: if they have another shape or type, or a value is not finite.
        ImageError: if they are of another bundle.
    """
    if given is None:
        return None
    hidden = manifest.llm.hidden_size
    rows = []
    for item in given if isinstance(given, (list, tuple)) else [given]:
        if isinstance(item, ImageFeatures):
            check_bundle(item, manifest)
            item = item.rows
        array = _as_array(item)
        if array.dtype != np.float32 or array.ndim < 2 or array.shape[-1] != hidden:
            raise PromptError(
                f"image_features are {array.dtype} {list(array.shape)}; expected float32 "
                f"[..., {hidden}], as encode() and encode_pixels() make them."
            )
        if not np.isfinite(array).all():
            raise PromptError("image_features hold NaN or infinite values. Encode the picture again.")
        rows.append(array.reshape(-1, hidden))
    return np.ascontiguousarray(np.concatenate(rows)) if rows else None


def _as_array(given: Any) -> npt.NDArray[Any]:
    """An array of any type, which the caller checks; what makes no array becomes one of objects."""
    try:
        return np.asarray(given)
    except ValueError:  # rows of different lengths
        return np.asarray(None)
