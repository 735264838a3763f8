"""Rounding weights to the precisions of a bundle: fp16, bf16, int8 and int4.

All functions take some rows at a time, so that the caller decides how much memory they need: about three
times the rows' float32 size.
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
Larger ones clip the largest element to represent the other 31 more finely. With the fit that follows, the
squared error of normally distributed weights is 21 % below that of 7 alone; more candidates gain under 0.5 %.
"""

_BLOCKS_AT_ONCE = 2048
"""64 Ki elements: the working memory stays in a core's second-level cache."""


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
    wide = to_float32(rows, name) if rows.dtype == np.float64 else rows.astype(np.float32)
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
        raise _not_finite(rows, name, "float16 ends at 65504. Export with bf16 instead of fp16.")
    return result


def to_bfloat16(rows: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Rounds to the nearest bfloat16, ties to even.

    Raises:
        CheckpointError: if a value is not finite, or rounds to infinity.
    """
    result: npt.NDArray[Any] = rows.astype(BFLOAT16)
    # The exponent of infinities and NaNs is all ones.
    if ((result.view(np.uint16) & 0x7F80) == 0x7F80).any():
        raise _not_finite(rows, name, "bfloat16 ends at 3.38953e+38. Export with fp32.")
    return result


def to_float32(rows: npt.NDArray[Any], name: str) -> Float32Array:
    """Rounds to the nearest float32, which all types but float64 have already.

    Raises:
        CheckpointError: if a value is larger than float32 can hold, or is not finite.
    """
    with np.errstate(over="ignore"):
        result: Float32Array = rows.astype(np.float32, copy=False)
    if not np.isfinite(result).all():
        raise _not_finite(rows, name, "float32 ends at 3.40282e+38. No precision of a bundle holds it.")
    return result


def quantise_int8(rows: Float32Array, name: str) -> tuple[npt.NDArray[np.int8], Float32Array]:
    """Symmetric int8, one scale per row: the row's largest magnitude becomes 127.

    Args:
        rows: [n, k].
        name: the tensor's, for the error.

    Returns:
        int8 [n, k] and float32 scales [n]. A row of zeros has the scale 1, and so has one whose scale would
        be a subnormal number, too coarse to scale with: it becomes zeros.

    Raises:
        CheckpointError: if a value is not finite.
    """
    largest = np.abs(rows).max(axis=1)
    if not np.isfinite(largest).all():
        raise _not_finite(rows, name)
    scales = largest / np.float32(127)
    scales[scales < np.finfo(np.float32).tiny] = 1
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
    blocks = rows.reshape(-1, INT4_BLOCK)
    quantised = np.empty((n * k // INT4_BLOCK, INT4_BLOCK), np.int8)
    scales = np.empty(len(quantised), np.float16)
    for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = slice(first, first + _BLOCKS_AT_ONCE)
        _quantise_blocks(blocks[part], name, quantised[part], scales[part])
    return pack_int4(quantised.reshape(n, k)), scales.reshape(n, k // INT4_BLOCK)


def requantise_int4(
    blocks: Float32Array, tried: Float32Array, name: str
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """As :func:`quantise_int4`, of blocks [b, 32], trying a scale of their own for each of them too, [b].

    Returns:
        int8 [b, 32] of -8 to 7 and float16 scales [b].
    """
    quantised = np.empty(blocks.shape, np.int8)
    scales = np.empty(len(blocks), np.float16)
    for first in range(0, len(blocks), _BLOCKS_AT_ONCE):
        part = slice(first, first + _BLOCKS_AT_ONCE)
        _quantise_blocks(blocks[part], name, quantised[part], scales[part], tried[part])
    return quantised, scales


def _quantise_blocks(
    blocks: Float32Array,
    name: str,
    quantised: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float16],
    tried: Float32Array | None = None,
) -> None:
    """Fills the integers [b, 32] and scales [b] of blocks [b, 32]."""
    largest = np.abs(blocks).max(axis=1)
    if not np.isfinite(largest).all():
        raise _not_finite(blocks, name)
    if largest.max() > 65504 * INT4_DIVISORS[0]:
        raise CheckpointError(
            f"tensor {name!r}: its largest magnitude is {largest.max():.6g}, too large for int4 with float16 "
            "scales. Export with int8 or bf16."
        )
    rounding = _Int4Rounding(blocks)
    best = rounding.representable(largest / np.float32(INT4_DIVISORS[0]))
    best_error = rounding.squared_error(best)
    for divisor in INT4_DIVISORS[1:]:
        rounding.keep_better(best, best_error, largest / np.float32(divisor))
    if tried is not None:
        rounding.keep_better(best, best_error, tried)
    rounding.keep_better(best, best_error, rounding.least_squares(best))
    quantised[:] = rounding.integers(best)
    scales[:] = best


class _Int4Rounding:
    """Rounds the same blocks [b, 32] with one set of scales after another, in the same memory."""

    def __init__(self, blocks: Float32Array) -> None:
        self.blocks = blocks
        self._work = np.empty_like(blocks)

    def representable(self, scales: Float32Array) -> Float32Array:
        """Scales as they are stored. Zeros, and what float16 rounds to zero, become 1: the block is zeros."""
        stored = scales.astype(np.float16).astype(np.float32)
        stored[~(stored > 0)] = 1
        return stored

    def integers(self, scales: Float32Array) -> Float32Array:
        """The integers, as float32; valid until the next call."""
        work = self._work
        np.multiply(self.blocks, (np.float32(1) / scales)[:, None], out=work)
        np.rint(work, out=work)
        np.maximum(work, -8, out=work)
        np.minimum(work, 7, out=work)
        return work

    def squared_error(self, scales: Float32Array) -> Float32Array:
        """Of each block, [b]."""
        difference = self.integers(scales)
        difference *= scales[:, None]
        difference -= self.blocks
        error: Float32Array = np.einsum("bk,bk->b", difference, difference)
        return error

    def least_squares(self, scales: Float32Array) -> Float32Array:
        """The scales that fit best to the integers that ``scales`` gives."""
        integers = self.integers(scales)
        squares = np.einsum("bk,bk->b", integers, integers)
        products = np.einsum("bk,bk->b", self.blocks, integers)
        fitted: Float32Array = scales.copy()
        np.divide(products, squares, out=fitted, where=squares > 0)
        return fitted

    def keep_better(self, best: Float32Array, best_error: Float32Array, wanted: Float32Array) -> None:
        """Takes over the scales whose error is smaller than the best so far."""
        scales = self.representable(wanted)
        error = self.squared_error(scales)
        better = error < best_error
        best[better] = scales[better]
        best_error[better] = error[better]


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


def _not_finite(rows: npt.NDArray[Any], name: str, limit: str = "") -> CheckpointError:
    """The error for rows, in the type that they came in, of which a value has no finite form.

    Args:
        rows: as they stand in the checkpoint.
        name: the tensor's.
        limit: where the type wanted ends, and what to do about values beyond it.
    """
    wide = rows.astype(np.float64)
    for what, found in (("not numbers (NaN)", np.isnan(wide)), ("infinite", np.isinf(wide))):
        if found.any():
            return CheckpointError(
                f"tensor {name!r}: {found.sum()} of the {found.size} values looked at are {what}. The "
                "checkpoint is damaged or its training diverged: download it again, or export an earlier one."
            )
    return CheckpointError(f"tensor {name!r}: its largest magnitude is {np.abs(wide).max():.6g}; {limit}")
