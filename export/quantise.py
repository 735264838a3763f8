"""Rounding weights to the precisions of a bundle: fp16, bf16, int8 and int4.

All functions take a few rows at a time, so that the caller decides how much memory they need: about eight
times the rows' float32 size for int4, three times for the others.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.manifest import Precision
from internvl_rt.bundle.tensors import INT4_BLOCK
from internvl_rt.errors import CheckpointError

Float32Array = npt.NDArray[np.float32]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

INT4_DIVISORS = (7.0, 7.5, 8.0, 8.5, 9.0)
"""Scales that are tried for a block: its largest magnitude over each of these.

7 clips nothing. 8 uses -8 for a largest element that is negative and clips a positive one by an eighth.
Larger ones clip the largest element to represent the other 31 more finely.
"""


def encode_rows(
    rows: npt.NDArray[Any], precision: Precision, name: str
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Rounds rows of any float type to a precision.

    Args:
        rows: [n, ...]; integers need [n, k].
        precision: what to round to.
        name: the tensor's, for errors.

    Returns:
        The rows as they are stored, and their scales for int8 and int4.

    Raises:
        CheckpointError: if a value is not finite, or is too large for the precision.
    """
    if precision == "bf16":
        # Already bfloat16 in most checkpoints: no way through float32.
        return to_bfloat16(rows, name), None
    wide = rows.astype(np.float32)
    if precision == "fp16":
        return to_float16(wide, name), None
    if precision == "int8":
        return quantise_int8(wide, name)
    if precision == "int4":
        return quantise_int4(wide, name)
    return to_float32(wide, name), None


def to_float16(rows: Float32Array, name: str) -> npt.NDArray[np.float16]:
    """Rounds to the nearest float16, ties to even.

    Raises:
        CheckpointError: if a value is larger than float16 can hold, or is not finite.
    """
    with np.errstate(over="ignore"):
        result = rows.astype(np.float16)
    if not np.isfinite(result).all():
        largest = np.abs(rows).max()
        raise CheckpointError(
            f"tensor {name!r}: its largest magnitude is {largest:.6g}, float16 ends at 65504. "
            "Export with bf16 instead of fp16."
        )
    return result


def to_bfloat16(rows: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Rounds to the nearest bfloat16, ties to even.

    Raises:
        CheckpointError: if a value is not finite, or rounds to infinity.
    """
    result: npt.NDArray[Any] = rows.astype(BFLOAT16)
    # The exponent of infinities and NaNs is all ones.
    if ((result.view(np.uint16) & 0x7F80) == 0x7F80).any():
        raise _not_finite(name)
    return result


def to_float32(rows: Float32Array, name: str) -> Float32Array:
    """Checks that every value is finite.

    Raises:
        CheckpointError: if one is not.
    """
    if not np.isfinite(rows).all():
        raise _not_finite(name)
    return rows


def quantise_int8(rows: Float32Array, name: str) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """Symmetric int8, one scale per row: the row's largest magnitude becomes 127.

    Args:
        rows: [n, k].
        name: the tensor's, for the error.

    Returns:
        int8 [n, k] and float32 scales [n]. A row of zeros has the scale 1.

    Raises:
        CheckpointError: if a value is not finite.
    """
    largest = np.abs(rows).max(axis=1)
    if not np.isfinite(largest).all():
        raise _not_finite(name)
    scales = largest / np.float32(127)
    scales[scales == 0] = 1
    quantised = np.rint(rows / scales[:, None])
    return np.clip(quantised, -127, 127).astype(np.int8), scales


def quantise_int4(rows: Float32Array, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """Symmetric int4 in blocks of 32 along K, each with the scale of the least squared error that was tried.

    The candidates are the block's largest magnitude over ``INT4_DIVISORS``; the best one's integers then
    give the scale that is optimal for them (least squares: sum(x q) / sum(q q)), which is kept if rounding
    with it is better still. Errors are those with the scale as it is stored, in float16. Scales are
    positive: TensorRT takes no others.

    Args:
        rows: [n, k], k a multiple of 32.
        name: the tensor's, for the error.

    Returns:
        packed uint8 [n, k/2], low nibble first, and float16 scales [n, k/32]. A block of zeros has scale 1.

    Raises:
        CheckpointError: if a value is not finite, or a block's scale is larger than float16 can hold.
    """
    n, k = rows.shape
    blocks = rows.reshape(n, k // INT4_BLOCK, INT4_BLOCK)
    largest = np.abs(blocks).max(axis=2)
    if not np.isfinite(largest).all():
        raise _not_finite(name)
    if largest.size and largest.max() > 65504 * INT4_DIVISORS[0]:
        raise CheckpointError(
            f"tensor {name!r}: its largest magnitude is {largest.max():.6g}, too large for int4 with float16 "
            "scales. Export with int8 or bf16."
        )
    best, best_error, best_quantised = _round_int4(blocks, largest / np.float32(INT4_DIVISORS[0]))
    for divisor in INT4_DIVISORS[1:]:
        _keep_better(best, best_error, best_quantised, *_round_int4(blocks, largest / np.float32(divisor)))
    squares = np.einsum("nbk,nbk->nb", best_quantised, best_quantised)
    products = np.einsum("nbk,nbk->nb", blocks, best_quantised)
    fitted = np.divide(products, squares, out=best.copy(), where=squares > 0)
    _keep_better(best, best_error, best_quantised, *_round_int4(blocks, fitted))
    return pack_int4(best_quantised.reshape(n, k).astype(np.int8)), best.astype(np.float16)


def pack_int4(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Packs int8 [n, k] of -8 to 7 into bytes [n, k/2], the low nibble first."""
    nibbles = values.view(np.uint8) & 0x0F
    packed: npt.NDArray[np.uint8] = nibbles[:, 0::2] | (nibbles[:, 1::2] << np.uint8(4))
    return packed


def unpack_int4(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Unpacks bytes [n, k/2] into int8 [n, k] of -8 to 7."""
    result = np.empty((packed.shape[0], packed.shape[1] * 2), np.int8)
    signed = packed.view(np.int8)
    result[:, 0::2] = (signed << 4) >> 4
    result[:, 1::2] = signed >> 4
    return result


def dequantise_int8(quantised: npt.NDArray[np.int8], scales: Float32Array) -> Float32Array:
    """The float32 [n, k] that an engine computes with."""
    return quantised.astype(np.float32) * scales[:, None]


def dequantise_int4(packed: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> Float32Array:
    """The float32 [n, k] that an engine computes with."""
    values = unpack_int4(packed).astype(np.float32)
    return values * np.repeat(scales.astype(np.float32), INT4_BLOCK, axis=1)


def _round_int4(
    blocks: Float32Array, wanted: Float32Array
) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Rounds blocks [n, b, 32] with scales [n, b]: the scales as stored, the squared errors, the integers."""
    scales = wanted.astype(np.float16).astype(np.float32)
    scales[~(scales > 0)] = 1  # zeros, and magnitudes below float16: both round to 0
    quantised: Float32Array = blocks * (np.float32(1) / scales)[:, :, None]
    np.rint(quantised, out=quantised)
    np.clip(quantised, -8, 7, out=quantised)
    difference = quantised * scales[:, :, None]
    difference -= blocks
    return scales, np.einsum("nbk,nbk->nb", difference, difference), quantised


def _keep_better(
    best: Float32Array,
    best_error: Float32Array,
    best_quantised: Float32Array,
    scales: Float32Array,
    error: Float32Array,
    quantised: Float32Array,
) -> None:
    """Copies the blocks whose error is smaller over the best ones so far."""
    better = error < best_error
    np.copyto(best, scales, where=better)
    np.copyto(best_error, error, where=better)
    np.copyto(best_quantised, quantised, where=better[:, :, None])


def _not_finite(name: str) -> CheckpointError:
    return CheckpointError(
        f"tensor {name!r} has values that are infinite, not numbers, or too large for the precision chosen. "
        "The checkpoint is damaged: download it again."
    )
