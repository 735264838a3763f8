"""Tiles of one request: equal ones are encoded once, and encoding can be watched and cancelled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.bundle.manifest import Flash
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from plain_engine import Noise, model_of, until
from watched_engine import Calls, WatchedEngine, load_watched

SIDE = 56
ASKED: dict[str, Any] = {"system": "", "max_new_tokens": 1}


def strip(*values: int) -> Image.Image:
    """A picture whose tiles are of one grey each. Behind several comes the thumbnail, which is like none."""
    row = np.repeat(np.array(values, np.uint8), SIDE)
    return Image.fromarray(np.broadcast_to(row[None, :, None], (SIDE, len(row), 3)).copy())


def square(value: int) -> Image.Image:
    return strip(value)


def grey(feature: float) -> int:
    """The red that a normalised first value was made of."""
    return round((feature * 0.229 + 0.485) * 255)


def greys(features: Float32Array) -> list[int]:
    """[tiles, tokens, hidden]: all values of a tile are one."""
    assert (features == features[:, :1, :1]).all()
    return [grey(float(value)) for value in features[:, 0, 0]]


class Router(Noise):
    """Says of a tile what follows from its first value: compressed, its features are the others' negative."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = dataclasses.replace(self.manifest, flash=Flash(4, 4, 0.4, 0.25))

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        encoded = super().encode_tiles(pixel_values, progress)
        few = -encoded.features[:, : self.manifest.tokens_per_compressed_tile]
        scores = np.array([grey(value) / 255 for value in pixel_values[:, 0, 0, 0]], np.float32)
        return dataclasses.replace(encoded, compressed=few, scores=scores)


@pytest.fixture
def engine() -> Noise:
    return Noise()


@pytest.fixture
def plain(engine: Noise) -> Iterator[ivl.Model]:
    with model_of(engine) as model:
        yield model


def rows_of(engine: Noise, tiles: int) -> list[int]:
    """The greys of the tiles of the last prompt, in their places."""
    features = engine.features[-1]
    assert features is not None
    return greys(features.reshape(tiles, -1, engine.hidden_size))


def test_different_tiles_are_encoded_in_one_call(plain: ivl.Model, engine: Noise) -> None:
    picture = strip(10, 20, 30)
    features = plain.encode(picture, max_tiles=3)
    (pixels,) = engine.encoded
    np.testing.assert_array_equal(pixels, ivl.tile_image(picture, max_tiles=3, tile_size=SIDE).pixel_values())
    assert greys(features.features)[:3] == [10, 20, 30]
    assert (features.tiles, features.timings.vit, features.timings.projector) == (4, 8.0, 1.0)


def test_equal_tiles_are_encoded_once(plain: ivl.Model, engine: Noise) -> None:
    features = plain.encode(strip(50, 70, 50, 50, 80, 70), max_tiles=6)
    assert engine.tiles == 4, "three and the thumbnail"
    assert greys(features.features)[:6] == [50, 70, 50, 50, 80, 70]
    assert (features.tiles, features.timings.vit) == (7, 8.0)


def test_equal_tiles_of_several_pictures_are_encoded_once(plain: ivl.Model, engine: Noise) -> None:
    values = (10, 20, 20, 30, 10, 40)
    answer = plain.chat("Equal?", [square(value) for value in values], **ASKED)
    assert [len(call) for call in engine.encoded] == [1, 1, 1, 1]
    assert rows_of(engine, 6) == list(values)
    assert (answer.usage.tiles, answer.timings.vit, answer.timings.projector) == (6, 8.0, 4.0)


def test_tiles_are_shared_with_what_was_encoded_before_them_in_the_picture(
    plain: ivl.Model, engine: Noise
) -> None:
    plain.chat("Equal?", [square(10), strip(20, 10, 20), square(20)], max_tiles=3, **ASKED)
    assert [len(call) for call in engine.encoded] == [1, 2]
    rows = rows_of(engine, 6)
    assert [*rows[:4], rows[5]] == [10, 20, 10, 20, 20]


def test_what_a_router_says_of_a_tile_goes_with_it() -> None:
    engine = Router()
    with model_of(engine) as model:
        pictures = [strip(200, 20, 100), strip(100, 200, 220, 20)]
        alone = [model.encode(picture, max_tiles=4) for picture in pictures]
        assert {tokens for one in alone for tokens in one.tile_tokens} == {
            model.manifest.tokens_per_tile,
            model.manifest.tokens_per_compressed_tile,
        }
        before = engine.tiles
        model.chat("<image><image> Equal?", pictures, max_tiles=4, **ASKED)
        assert engine.tiles - before == 6, "four, and two thumbnails"
        features = engine.features[-1]
        assert features is not None
        np.testing.assert_array_equal(features, np.concatenate([one.rows for one in alone]))


def test_equal_is_every_byte(plain: ivl.Model, engine: Noise) -> None:
    other = np.asarray(square(10)).copy()
    other[-1, -1, -1] += 1
    plain.chat("Equal?", [square(10), Image.fromarray(other), square(10)], **ASKED)
    assert engine.tiles == 2


def test_another_request_encodes_anew(plain: ivl.Model, engine: Noise) -> None:
    for _ in range(2):
        plain.chat("What?", [square(10)], **ASKED)
    assert engine.tiles == 2


def test_features_that_are_given_are_not_encoded(plain: ivl.Model, engine: Noise) -> None:
    features = plain.encode(square(10))
    plain.chat("Equal?", [square(20), features, square(10)], **ASKED)
    assert engine.tiles == 3
    assert rows_of(engine, 3) == [20, 10, 10]


def told(values: Sequence[tuple[int, int]], tiles: int) -> list[int]:
    assert {total for _, total in values} == {tiles}
    done = [number for number, _ in values]
    assert all(a < b for a, b in pairwise(done)), "every number once, and in order"
    return done


def test_progress_counts_the_tiles_that_are_encoded(plain: ivl.Model) -> None:
    seen: list[tuple[int, int]] = []
    pictures = [square(value) for value in (10, 20, 20, 30)]
    plain.chat("?", pictures, progress=lambda *done: seen.append(done), **ASKED)
    # The third is the second again. The last number is all of them.
    assert told(seen, 4) == [0, 1, 2, 4]
    del seen[:]
    plain.encode(strip(10, 20, 10, 30), max_tiles=4, progress=lambda *done: seen.append(done))
    assert told(seen, 5) == [0, 1, 2, 3, 5]


def test_cancelling_ends_it_in_the_middle_of_a_picture(plain: ivl.Model, engine: Noise) -> None:
    stream = plain.stream("?", [square(value) for value in (10, 20, 30, 40, 50)], **ASKED)

    def cancel() -> None:
        until(lambda: stream._running is not None)  # it has been handed over
        stream.cancel()

    engine.before("encode", 2, cancel)
    (last,) = stream
    assert last.result is not None
    assert (last.result.finish_reason, last.result.token_ids) == ("cancelled", ())
    assert last.result.usage.tiles == 5
    assert [len(call) for call in engine.encoded] == [1, 1, 1]
    assert engine.prefills == []


def test_cancelling_ends_it_in_the_middle_of_a_call(plain: ivl.Model, engine: Noise) -> None:
    stream = plain.stream("?", [strip(10, 20, 30, 40, 50)], max_tiles=5, **ASKED)
    asked: list[int] = []
    encode = engine.encode_tiles

    def watched(pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        def step(done: int) -> None:
            asked.append(done)
            if done == 2:
                until(lambda: stream._running is not None)
                stream.cancel()
            assert progress is not None
            progress(done)

        return encode(pixel_values, step)

    engine.encode_tiles = watched  # type: ignore[method-assign]
    (last,) = stream
    assert last.result is not None
    assert (last.result.finish_reason, last.result.token_ids) == ("cancelled", ())
    assert asked[-1] == 2
    assert engine.prefills == []


def test_progress_may_end_it_and_the_model_goes_on(plain: ivl.Model, engine: Noise) -> None:
    def stop(done: int, tiles: int) -> None:
        assert tiles == 50
        if done >= 2:
            raise KeyError(done)

    pictures = [square(value) for value in range(50)]
    with pytest.raises(KeyError):
        plain.chat("?", pictures, progress=stop, **ASKED)
    assert engine.sequences == {}
    assert plain.chat("?", pictures, **ASKED).usage.tiles == 50


def test_features_of_another_size_than_the_models_are_an_error(plain: ivl.Model, engine: Noise) -> None:
    encode = engine.encode_tiles

    def spoiled(pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        encoded = encode(pixel_values, progress)
        return dataclasses.replace(encoded, features=encoded.features[:, 1:])

    engine.encode_tiles = spoiled  # type: ignore[method-assign]
    with pytest.raises(ivl.InternVLError, match="other features than 1 tile"):
        plain.chat("?", [square(10)], **ASKED)


@pytest.fixture
def blank_below(photo: Image.Image) -> Image.Image:
    """A square picture, 2x2 tiles and a thumbnail, whose lower half is blank."""
    picture = Image.new("RGB", (168, 168))
    picture.paste(photo.crop((0, 0, 168, 60)))
    return picture


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def watched(request: pytest.FixtureRequest, tiny_bundle: Path) -> Iterator[tuple[ivl.Model, WatchedEngine]]:
    """A model, and what it computes with."""
    model, engine = load_watched(tiny_bundle, engine=request.param, cache_tokens=512)
    with model:
        yield model, engine


def test_blank_tiles_of_a_picture(watched: tuple[ivl.Model, WatchedEngine], blank_below: Image.Image) -> None:
    model, engine = watched
    calls = Calls()
    tiled = ivl.tile_image(blank_below, max_tiles=4, tile_size=56)
    assert len(tiled.tiles) == 5
    with engine.around(**calls.counting):
        features = model.encode(blank_below, max_tiles=4).features
    assert calls.encoded == [4], "the two lower tiles are one"
    pixels = tiled.pixel_values()
    alone = [model.encode_pixels(pixels[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(features, np.stack(alone))


def test_a_picture_twice_in_a_question(watched: tuple[ivl.Model, WatchedEngine], photo: Image.Image) -> None:
    model, engine = watched
    calls = Calls()
    settings: dict[str, Any] = {"max_tiles": 4, "max_new_tokens": 5, "ignore_stop_tokens": True}
    with engine.around(**calls.counting):
        twice = model.chat("<image><image> Equal?", [photo, photo], **settings)
    assert calls.encoded == [3]
    assert twice.usage.tiles == 6
    features = model.encode(photo, max_tiles=4)
    again = model.chat("<image><image> Equal?", [features, features], **settings)
    assert again.token_ids == twice.token_ids


def test_progress_of_pixels_may_end_it(model: ivl.Model, photo: Image.Image) -> None:
    def stop(done: int, tiles: int) -> None:
        assert tiles == len(many)
        if done > 0:
            raise KeyError(done)

    pixels = ivl.tile_image(photo, tile_size=56).pixel_values()
    many = np.concatenate([pixels + i for i in range(30)])  # more than one batch, all different
    with pytest.raises(KeyError):
        model.encode_pixels(many, progress=stop)
    assert len(model.encode_pixels(pixels)) == len(pixels)
