"""Frames as cameras have them, to RGB: against OpenCV, and the definitions of YUV in fp64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import internvl_rt as ivl
from internvl_rt import Frame
from internvl_rt.images import decode_image

Bytes = npt.NDArray[np.uint8]

GOLDEN = np.load(Path(__file__).with_name("opencv_frames.npz"))
FORMATS = ("bgr", "rgba", "bgra", "gray", "nv12", "i420", "yuyv")
YUV = ("nv12", "i420", "yuyv")


def noise(*shape: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def exact(y: Bytes, u: Bytes, v: Bytes, matrix: str, full_range: bool) -> npt.NDArray[np.float64]:
    """Y = Kr R + Kg G + Kb B and the differences of B and R from it, solved for R, G and B.

    Y below black is black, as in OpenCV.
    """
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[matrix]
    luma = y / 255 if full_range else np.maximum(y - 16.0, 0) / 219
    span = 255 if full_range else 224
    red = luma + 2 * (1 - kr) * (v - 128.0) / span
    blue = luma + 2 * (1 - kb) * (u - 128.0) / span
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], axis=-1) * 255, 0, 255)


def planes(name: str, width: int, height: int) -> tuple[Bytes, Bytes, Bytes, Any]:
    """Y, and U and V for every pixel; and the frame's data, or its planes."""
    y = noise(height, width)
    u, v = (noise((height + 1) // 2, (width + 1) // 2, seed=seed) for seed in (1, 2))
    data: Any
    if name == "yuyv":
        u, v = (noise(height, (width + 1) // 2, seed=seed) for seed in (1, 2))
        data = np.zeros((height, (width + 1) // 2, 4), np.uint8)
        data[:, :, 0], data[:, :, 1], data[:, :, 3] = y[:, ::2], u, v
        data[:, : width // 2, 2] = y[:, 1::2]
        data = data.reshape(height, -1)
        return y, u.repeat(2, 1)[:, :width], v.repeat(2, 1)[:, :width], data
    data = [y, np.stack([u, v], axis=-1).reshape(len(u), -1)] if name == "nv12" else [y, u, v]
    whole_u, whole_v = (one.repeat(2, 0).repeat(2, 1)[:height, :width] for one in (u, v))
    return y, whole_u, whole_v, data


@pytest.mark.parametrize("name", FORMATS)
def test_opencv(name: str) -> None:
    frame, expected = GOLDEN[f"{name}_frame"], GOLDEN[f"{name}_rgb"].astype(int)
    found = Frame(frame, name).rgb()  # type: ignore[arg-type]
    assert found.shape == expected.shape
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= (1 if name in YUV else 0)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("name", YUV)
@pytest.mark.parametrize(("width", "height"), [(64, 48), (7, 5), (8, 5), (7, 4), (1, 1), (2, 1), (1, 2)])
def test_every_matrix_range_and_size(
    name: Any, matrix: Any, full_range: bool, width: int, height: int
) -> None:
    y, u, v, data = planes(name, width, height)
    frame = Frame(data, name, width=width, height=height, matrix=matrix, full_range=full_range)
    assert frame.size() == (width, height)
    assert np.abs(frame.rgb() - exact(y, u, v, matrix, full_range)).max() <= 0.51


@pytest.mark.parametrize("name", [*FORMATS, "rgb"])
def test_flat_data_and_strides(name: Any) -> None:
    """Bytes, arrays of one dimension, rows that are filled up at their ends: the same picture."""
    width, height = 26, 18
    array = noise(height, width, 3) if name == "rgb" else GOLDEN[f"{name}_frame"]
    expected = Frame(array, name).rgb()
    rows = array.reshape(len(array), -1)
    size = {"width": width, "height": height}
    for data in (array.tobytes(), bytearray(array.tobytes()), memoryview(array.tobytes()), array.reshape(-1)):
        np.testing.assert_array_equal(Frame(data, name, **size).rgb(), expected)
    if name != "i420":  # whose planes have half of the stride
        padded = np.pad(rows, ((0, 0), (0, 6)))
        np.testing.assert_array_equal(
            Frame(padded.tobytes(), name, **size, stride=padded.shape[1]).rgb(), expected
        )
        np.testing.assert_array_equal(Frame(padded[:, :-6], name, **size).rgb(), expected)
    if array.ndim == 3:
        wide = np.pad(array, ((0, 0), (2, 3), (0, 0)))
        np.testing.assert_array_equal(Frame(wide[:, 2:-3], name).rgb(), expected)
        np.testing.assert_array_equal(Frame(np.asfortranarray(array), name).rgb(), expected)
        np.testing.assert_array_equal(Frame(array[::-1], name).rgb(), expected[::-1])


def test_i420_with_strides() -> None:
    y, u, v, data = planes("i420", 10, 6)
    padded = [np.pad(plane, ((0, 0), (0, most))) for plane, most in zip(data, (6, 3, 3), strict=True)]
    wanted = exact(y, u, v, "bt601", False)
    flat = b"".join(plane.tobytes() for plane in padded)
    for frame in (
        Frame(flat, "i420", width=10, height=6, stride=16),
        Frame(padded, "i420", width=10),
        Frame([plane[:, : 10 // (1 + (i > 0))] for i, plane in enumerate(padded)], "i420"),
    ):
        assert np.abs(frame.rgb() - wanted).max() <= 0.51


def test_rgb_is_not_copied() -> None:
    array = noise(20, 30, 3)
    assert np.shares_memory(Frame(array, "rgb").rgb(), array)
    assert np.shares_memory(decode_image(Frame(array, "rgb")), array)
    assert np.shares_memory(decode_image(array[:, ::-1]), array)
    inside = Frame(np.pad(array, ((0, 4), (0, 0), (0, 0))), "rgb", height=20)
    np.testing.assert_array_equal(inside.rgb(), array)


class OtherLibrary:
    """An array that NumPy reads through DLPack."""

    def __init__(self, array: Bytes) -> None:
        self._array = array

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


def test_dlpack() -> None:
    frame = GOLDEN["nv12_frame"].copy()
    np.testing.assert_array_equal(Frame(OtherLibrary(frame), "nv12").rgb(), Frame(frame, "nv12").rgb())


@pytest.mark.parametrize(
    ("data", "name", "arguments", "words"),
    [
        (noise(6, 8), "nv21", {}, "format must be one of"),
        (noise(6, 8), "nv12", {"matrix": "bt2020"}, "matrix must be one of"),
        (noise(6, 8).astype(np.int16), "nv12", {}, "int16; expected uint8"),
        ("frame.raw", "nv12", {"width": 8, "height": 4}, "a str; expected a uint8 array"),
        (noise(6, 8, 3), "nv12", {}, r"\[height \* 3 / 2, width\]"),
        (noise(7, 8), "nv12", {}, "7 rows"),
        (noise(6, 8, 4), "rgb", {}, r"\[height, width, 3\]"),
        (noise(6, 8, 3), "rgba", {}, r"\[height, width, 4\]"),
        (noise(6, 8, 3, 1), "rgb", {}, "shape"),
        (noise(48), "nv12", {}, "Give width and height"),
        (noise(47), "nv12", {"width": 8, "height": 4}, "47 bytes; expected 48"),
        (noise(47), "i420", {"width": 8, "height": 4}, "47 bytes; expected 48"),
        (noise(48), "nv12", {"width": 8, "height": 4, "stride": 7}, "stride is 7 bytes, and a row has 8"),
        (noise(48), "nv12", {"width": 8, "height": 4, "stride": -8}, "stride is a number of bytes"),
        (noise(6, 8), "nv12", {"stride": 8}, "an array has its own"),
        (noise(6, 8), "nv12", {"width": 9}, "a width of 9, and its data of 8"),
        (noise(6, 8), "nv12", {"height": 3}, "a height of 3, and its data of 4"),
        (noise(6, 8), "gray", {"height": 7}, "a height of 7, and its data of 6"),
        (noise(6, 8), "gray", {"width": 0}, "at least 1; found 0"),
        (noise(0, 8, 3), "bgr", {}, "at least one pixel"),
        (noise(6, 7), "nv12", {}, "expected"),
        (b"", "gray", {"width": 1, "height": 1}, "0 bytes; expected 1"),
        ([noise(4, 8)], "nv12", {}, "1 planes; nv12 has 2"),
        ([noise(4, 8), noise(1, 8)], "nv12", {}, "Plane 1 of the frame has 8 bytes; expected 16"),
        ([noise(4, 8), noise(2, 4), noise(2, 3)], "i420", {}, "Plane 2 of the frame has 6 bytes"),
        ([noise(4, 8, 3), noise(4, 8, 3)], "rgb", {}, "2 planes; rgb has 1"),
    ],
)
def test_what_is_no_frame_is_an_image_error(data: Any, name: Any, arguments: Any, words: str) -> None:
    with pytest.raises(ivl.ImageError, match=words):
        decode_image(Frame(data, name, **arguments))


def test_a_frame_of_too_many_pixels_is_refused_before_it_is_converted() -> None:
    with pytest.raises(ivl.ImageError, match="million pixels"):
        decode_image(Frame(noise(30, 20), "nv12"), max_pixels=300)


def test_models_take_frames(model: ivl.Model) -> None:
    frame = Frame(noise(90, 80), "nv12", matrix="bt709")
    rgb = frame.rgb()
    assert ivl.tile_image(frame, tile_size=56).image_size == (80, 60)
    np.testing.assert_array_equal(model.encode(frame).features, model.encode(rgb).features)
    arguments: dict[str, Any] = {"max_new_tokens": 3, "ignore_stop_tokens": True}
    wanted = model.chat("What?", [rgb], **arguments).token_ids
    assert model.chat("What?", [frame], **arguments).token_ids == wanted
    assert model.chat("What?", frame, **arguments).token_ids == wanted
    content = [{"type": "image", "image": frame}, {"type": "text", "text": "What?"}]
    assert model.chat([{"role": "user", "content": content}], **arguments).token_ids
    assert model.chat("What?", video=[frame, frame], **arguments).token_ids
