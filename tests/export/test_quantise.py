"""Rounding to int8, int4, float16 and bfloat16, against definitions and known errors."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from internvl_rt.errors import CheckpointError
from internvl_rt.export import quantise


def weights(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k), np.float32) * np.float32(0.02)


def test_int8_is_the_nearest_of_255_levels() -> None:
    rows = weights(64, 96)
    quantised, scales = quantise.quantise_int8(rows, "w")
    np.testing.assert_array_equal(scales, np.abs(rows).max(axis=1) / np.float32(127))
    assert np.abs(quantised).max() == 127
    error = np.abs(quantise.dequantise_int8(quantised, scales) - rows)
    assert (error <= scales[:, None] * np.float32(0.5001)).all()


def test_int4_is_better_than_scaling_to_the_largest() -> None:
    rows = weights(128, 256)
    packed, scales = quantise.quantise_int4(rows, "w")
    assert (packed.shape, scales.shape, scales.dtype) == ((128, 128), (128, 8), np.float16)
    error = np.square(quantise.dequantise_int4(packed, scales) - rows).sum()
    blocks = rows.reshape(128, 8, 32)
    plain_scales = (np.abs(blocks).max(axis=2, keepdims=True) / 7).astype(np.float16).astype(np.float32)
    plain = np.clip(np.rint(blocks / plain_scales), -8, 7) * plain_scales
    assert error < 0.9 * np.square(plain - blocks).sum()
    found = quantise.unpack_int4(packed)
    assert (found.min(), found.max()) == (-8, 7)


def test_int4_packs_the_low_nibble_first() -> None:
    values = np.array([[0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1]], np.int8)
    packed = quantise.pack_int4(values)
    assert packed.tobytes() == bytes([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE])
    np.testing.assert_array_equal(quantise.unpack_int4(packed), values)
    reference = values.reshape(-1).astype(ml_dtypes.int4)
    np.testing.assert_array_equal(quantise.unpack_int4(packed).reshape(-1), reference.astype(np.int8))


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.sampled_from([32, 64])),
        elements=st.floats(-60000, 60000, width=32),
    )
)
def test_int4_error_is_bounded_by_the_plain_scale(rows: np.ndarray) -> None:
    packed, scales = quantise.quantise_int4(rows, "w")
    assert (scales > 0).all()
    error = (quantise.dequantise_int4(packed, scales) - rows).reshape(len(rows), -1, 32)
    blocks = rows.reshape(len(rows), -1, 32)
    plain = (np.abs(blocks).max(axis=2, keepdims=True) / np.float32(7)).astype(np.float16).astype(np.float32)
    plain[plain == 0] = 1
    rounded = np.clip(np.rint(blocks / plain), -8, 7) * plain
    bound = np.square(rounded - blocks, dtype=np.float64).sum(axis=2)
    assert (np.square(error, dtype=np.float64).sum(axis=2) <= bound * 1.001 + 1e-12).all()


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, (2, 8), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_int8_keeps_every_value_within_half_a_step(rows: np.ndarray) -> None:
    quantised, scales = quantise.quantise_int8(rows, "w")
    found = quantised.astype(np.float64) * scales[:, None]
    assert (np.abs(found - rows) <= scales[:, None].astype(np.float64) * 0.5001 + 1e-45).all()


def test_zeros_stay_zeros() -> None:
    zeros = np.zeros((2, 64), np.float32)
    packed, scales = quantise.quantise_int4(zeros, "w")
    assert not packed.any()
    assert (scales == 1).all()
    quantised, scales8 = quantise.quantise_int8(zeros, "w")
    assert not quantised.any()
    assert (scales8 == 1).all()


def test_rows_too_small_for_a_scale_become_zeros() -> None:
    """1.44e-42 / 127 is eight times the least float32: half a step of 127 of those is not half a step."""
    quantised, scales = quantise.quantise_int8(np.array([[1.44e-42] * 8, [1e-30] * 8], np.float32), "w")
    assert (scales[0], scales[1] < 1e-31) == (1, True)
    assert not quantised[0].any()
    assert (quantised[1] == 127).all()


def test_tiny_and_huge_blocks() -> None:
    rows = np.full((1, 64), 1e-12, np.float32)
    rows[0, 32:] = 4e5
    packed, scales = quantise.quantise_int4(rows, "w")
    found = quantise.dequantise_int4(packed, scales)
    assert (np.abs(found[0, :32]) < 1e-7).all()
    np.testing.assert_allclose(found[0, 32:], 4e5, rtol=0.01)
    with pytest.raises(CheckpointError, match=r"'w'.*1e\+06.*int8"):
        quantise.quantise_int4(np.full((1, 32), 1e6, np.float32), "w")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_values_that_are_no_numbers(precision: str, bad: float) -> None:
    rows = weights(2, 32)
    rows[1, 7] = bad
    with pytest.raises(CheckpointError, match="'w'"):
        quantise.encode_rows(rows, precision, "w")  # type: ignore[arg-type]


def test_float16_overflow_suggests_bf16() -> None:
    rows = weights(2, 32)
    rows[0, 3] = 70000
    with pytest.raises(CheckpointError, match=r"'w'.*70000.*bf16"):
        quantise.to_float16(rows, "w")
    rows[0, 3] = 65519  # rounds down to the largest float16
    assert quantise.to_float16(rows, "w")[0, 3] == 65504


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, 16, elements=st.floats(-60000, 60000, width=32)))
def test_halves_are_rounded_as_torch_rounds(values: np.ndarray) -> None:
    tensor = torch.from_numpy(values)
    np.testing.assert_array_equal(quantise.to_float16(values, "w"), tensor.half().numpy())
    np.testing.assert_array_equal(
        quantise.to_bfloat16(values, "w").view(np.int16), tensor.bfloat16().view(torch.int16).numpy()
    )
