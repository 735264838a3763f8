"""Tiles of one request: equal ones are encoded once, and encoding can be watched and cancelled."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.tile_encoding import EncodingCancelledError, TileEncoding


class Counting:
    """An engine whose feature of a tile is the tile's first value; it keeps what it was given."""

    def __init__(self) -> None:
        self.calls: list[Float32Array] = []

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        self.calls.append(pixel_values)
        for done in range(len(pixel_values)):
            for _ in range(3):  # engines ask more often than a batch is done
                if progress is not None:
                    progress(done)
        return EncodedTiles(pixel_values[:, :1, 0, :1].copy(), 2.0 * len(pixel_values), 1.0)

    @property
    def tiles(self) -> int:
        return sum(len(call) for call in self.calls)


def encoding_of(engine: Counting, **arguments: Any) -> TileEncoding:
    return TileEncoding(engine, **arguments)  # type: ignore[arg-type]


def tiles(*values: float) -> Float32Array:
    return np.stack([np.full((3, 4, 4), value, np.float32) for value in values])


def test_different_tiles_are_passed_on_as_they_are() -> None:
    engine, pixels = Counting(), tiles(1, 2, 3)
    encoded = encoding_of(engine).encode(pixels)
    assert len(engine.calls) == 1
    assert engine.calls[0] is pixels
    assert encoded.features[:, 0, 0].tolist() == [1, 2, 3]
    assert (encoded.vit_ms, encoded.projector_ms) == (6.0, 1.0)


def test_equal_tiles_are_encoded_once() -> None:
    engine = Counting()
    encoded = encoding_of(engine).encode(tiles(5, 7, 5, 5, 8, 7))
    assert engine.tiles == 3
    assert encoded.features[:, 0, 0].tolist() == [5, 7, 5, 5, 8, 7]
    assert encoded.vit_ms == 6.0


def test_equal_tiles_of_several_pictures_are_encoded_once() -> None:
    engine = Counting()
    encoding = encoding_of(engine)
    rows = [encoding.encode(tiles(*values)) for values in ((1, 2), (2, 3), (3, 1, 2), (4,))]
    assert [encoded.features[:, 0, 0].tolist() for encoded in rows] == [[1, 2], [2, 3], [3, 1, 2], [4]]
    assert engine.tiles == 4
    # The third picture cost nothing.
    assert [encoded.vit_ms for encoded in rows] == [4.0, 2.0, 0.0, 2.0]


def test_what_a_router_says_of_a_tile_goes_with_it() -> None:
    class Router(Counting):
        def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
            encoded = super().encode_tiles(pixel_values, progress)
            return dataclasses.replace(
                encoded, compressed=-encoded.features, scores=pixel_values[:, 0, 0, 0] / 10
            )

    encoding = encoding_of(Router())
    encoding.encode(tiles(1, 2))
    encoded = encoding.encode(tiles(3, 2, 3, 1))
    assert encoded.compressed is not None
    assert encoded.scores is not None
    assert encoded.compressed[:, 0, 0].tolist() == [-3, -2, -3, -1]
    np.testing.assert_allclose(encoded.scores, [0.3, 0.2, 0.3, 0.1], rtol=1e-6)


def test_equal_is_every_byte() -> None:
    """One value in 48 differs by the last bit, or by the sign of zero."""
    pixels = tiles(1, 1, 0, 0)
    pixels[1, 2, 3, 3] = np.nextafter(np.float32(1), np.float32(2))
    pixels[3, 2, 3, 3] = -0.0
    engine = Counting()
    encoding_of(engine).encode(pixels)
    assert engine.tiles == 4


def test_another_request_encodes_anew() -> None:
    engine = Counting()
    for _ in range(2):
        encoding_of(engine).encode(tiles(1))
    assert engine.tiles == 2


def test_progress_counts_the_tiles_that_are_encoded() -> None:
    seen: list[int] = []
    encoding = encoding_of(Counting(), progress=seen.append)
    encoding.encode(tiles(1, 2, 2, 3))
    encoding.encode(tiles(3, 4, 5))
    assert seen == [1, 2, 4]


def test_cancelling_ends_it_between_batches() -> None:
    cancelled = threading.Event()
    engine = Counting()
    seen: list[int] = []

    def cancel_at_two(done: int) -> None:
        seen.append(done)
        if done == 2:
            cancelled.set()

    with pytest.raises(EncodingCancelledError):
        encoding_of(engine, cancelled=cancelled, progress=cancel_at_two).encode(tiles(1, 2, 3, 4, 5))
    assert seen == [1, 2]
    with pytest.raises(EncodingCancelledError):
        encoding_of(engine, cancelled=cancelled).encode(tiles(1))
    assert len(engine.calls) == 1


def test_cancelling_ends_it_in_the_middle_of_a_tile() -> None:
    cancelled = threading.Event()

    class Cancelling(Counting):
        def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
            assert progress is not None
            progress(0)
            cancelled.set()
            progress(0)
            raise AssertionError

    with pytest.raises(EncodingCancelledError):
        encoding_of(Cancelling(), cancelled=cancelled).encode(tiles(1, 2))


@pytest.fixture
def blank_below(photo: Image.Image) -> Image.Image:
    """A square picture, 2x2 tiles and a thumbnail, whose lower half is blank."""
    picture = Image.new("RGB", (168, 168))
    picture.paste(photo.crop((0, 0, 168, 60)))
    return picture


@pytest.fixture
def encoded_tiles(model: ivl.Model, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many tiles the model's engine encoded."""
    engine = model._engine._engine
    encode, counts = engine.encode_tiles, []

    def counting(pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        counts.append(len(pixel_values))
        return encode(pixel_values, progress)

    monkeypatch.setattr(engine, "encode_tiles", counting)
    return lambda: sum(counts)


def test_blank_tiles_of_a_picture(
    model: ivl.Model, blank_below: Image.Image, encoded_tiles: Callable[[], int]
) -> None:
    tiled = ivl.tile_image(blank_below, max_tiles=4, tile_size=56)
    assert len(tiled.tiles) == 5
    features = model.encode(blank_below, max_tiles=4).features
    assert encoded_tiles() == 4, "the two lower tiles are one"
    pixels = tiled.pixel_values()
    alone = [model.encode_pixels(pixels[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(features, np.stack(alone))


def test_a_picture_twice_in_a_question(
    model: ivl.Model, photo: Image.Image, encoded_tiles: Callable[[], int]
) -> None:
    settings: dict[str, Any] = {"max_tiles": 4, "max_new_tokens": 5, "ignore_stop_tokens": True}
    twice = model.chat("<image><image> Equal?", [photo, photo], **settings)
    assert twice.usage.tiles == 6
    assert encoded_tiles() == 3
    features = model.encode(photo, max_tiles=4)
    again = model.chat("<image><image> Equal?", [features, features], **settings)
    assert again.token_ids == twice.token_ids


def test_progress_of_a_picture_may_end_it(model: ivl.Model, photo: Image.Image) -> None:
    def stop(done: int, tiles: int) -> None:
        assert tiles == len(many)
        if done > 0:
            raise KeyError(done)

    pixels = ivl.tile_image(photo, tile_size=56).pixel_values()
    many = np.concatenate([pixels + i for i in range(30)])  # more than one batch, all different
    with pytest.raises(KeyError):
        model.encode_pixels(many, progress=stop)
    assert len(model.encode_pixels(pixels)) == len(pixels)
