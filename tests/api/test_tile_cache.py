"""Tiles that an earlier picture had too: they are not encoded again, and nobody can tell by the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import internvl_rt as ivl
from internvl_rt import _core
from internvl_rt.bundle.manifest import Flash
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.model.cache_size import tile_cache_size
from plain_engine import Noise, model_of
from watched_engine import Calls, WatchedEngine, load_watched

SIDE = 56
MEGA = 1 << 20
ASKED: dict[str, Any] = {"max_tiles": 8, "max_new_tokens": 3, "ignore_stop_tokens": True}

Frame = npt.NDArray[np.uint8]


def frame(seed: int = 0) -> Frame:
    """A camera's frame: 4x2 tiles, as large as it is, and a thumbnail."""
    return np.random.default_rng(seed).integers(0, 256, (2 * SIDE, 4 * SIDE, 3), np.uint8)


def changed(before: Frame, column: int, row: int) -> Frame:
    """The frame with something new in one of its tiles."""
    after = before.copy()
    after[row * SIDE + 20 : row * SIDE + 36, column * SIDE + 20 : column * SIDE + 36] ^= 0x55
    return after


@pytest.fixture(scope="module", params=["native", "onnxruntime"])
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def watched(engine_name: str, tiny_bundle: Path) -> Iterator[tuple[ivl.Model, WatchedEngine]]:
    model, engine = load_watched(tiny_bundle, engine=engine_name, cache_tokens=1024)
    with model:
        yield model, engine


@pytest.fixture(scope="module")
def without(engine_name: str, tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(
        tiny_bundle, engine=engine_name, cache_tokens=1024, tile_cache_bytes=0, prefix_cache_tokens=0
    ) as model:
        yield model


def test_an_unchanged_frame_costs_no_tile(
    watched: tuple[ivl.Model, WatchedEngine], without: ivl.Model
) -> None:
    model, engine = watched
    calls = Calls()
    with engine.around(**calls.counting):
        answers = [model.chat(question, [frame()], **ASKED) for question in ("What?", "What?", "Who?")]
    assert calls.encoded == [9]
    assert [answer.usage.tiles for answer in answers] == [9, 9, 9]
    assert [answer.usage.cached_tiles for answer in answers] == [0, 9, 9]
    assert [answer.timings.vit > 0 for answer in answers] == [True, False, False]
    for question, answer in zip(("What?", "What?", "Who?"), answers, strict=True):
        alone = without.chat(question, [frame()], **ASKED)
        assert (answer.token_ids, answer.text) == (alone.token_ids, alone.text)
        assert alone.usage == dataclasses.replace(answer.usage, cached_tiles=0)


@pytest.mark.parametrize("place", [(0, 0), (2, 1), (3, 0)])
def test_a_frame_with_one_new_tile_costs_that_and_the_thumbnail(
    watched: tuple[ivl.Model, WatchedEngine], without: ivl.Model, place: tuple[int, int]
) -> None:
    model, engine = watched
    model.chat("What?", [frame()], **ASKED)
    after = changed(frame(), *place)
    calls = Calls()
    with engine.around(**calls.counting):
        answer = model.chat("What?", [after], **ASKED)
    assert calls.encoded == [2]
    assert (answer.usage.tiles, answer.usage.cached_tiles) == (9, 7)
    assert answer.token_ids == without.chat("What?", [after], **ASKED).token_ids
    np.testing.assert_array_equal(
        model.encode(after, max_tiles=8).features, without.encode(after, max_tiles=8).features
    )


def test_every_kind_of_call_shares_the_cache(watched: tuple[ivl.Model, WatchedEngine]) -> None:
    model, engine = watched
    picture = frame(1)
    calls = Calls()
    with engine.around(**calls.counting):
        features = model.encode(picture, max_tiles=8)
        with model.stream("What?", [picture], **ASKED) as stream:
            for _ in stream:
                pass
        votes = model.vote("What?", [picture], n=3, reasoning=None, seed=1, **ASKED)
        located = model.locate("red ball", picture, **ASKED)
        again = model.encode(picture, max_tiles=8)
    assert calls.encoded == [9]
    assert stream.result is not None
    answers = [stream.result, *votes.samples, located.answer]
    assert [answer.usage.cached_tiles for answer in answers] == [9] * 5
    np.testing.assert_array_equal(again.features, features.features)
    given = model.chat("What?", [features], **ASKED)
    assert given.usage.cached_tiles == 0, "nothing was to be encoded"
    assert given.token_ids == stream.result.token_ids


def test_one_byte_less_than_equal_is_another_tile(watched: tuple[ivl.Model, WatchedEngine]) -> None:
    model, engine = watched
    picture = frame(2)[:SIDE, :SIDE]
    other = picture.copy()
    other[-1, -1, -1] ^= 1
    calls = Calls()
    with engine.around(**calls.counting):
        usages = [model.chat("What?", [one], **ASKED).usage for one in (picture, other, picture)]
    assert calls.encoded == [1, 1]
    assert [usage.cached_tiles for usage in usages] == [0, 0, 1]


def test_a_picture_that_was_cut_in_another_way_has_other_tiles(tiny_bundle: Path) -> None:
    """The thumbnail of a grid is the one tile of the same picture."""
    with ivl.load(tiny_bundle, cache_tokens=1024) as model:
        model.chat("What?", [frame()], **ASKED)
        usage = model.chat("What?", [frame()], **{**ASKED, "max_tiles": 1}).usage
        assert (usage.tiles, usage.cached_tiles) == (1, 1)
        usage = model.chat("What?", [frame()], **{**ASKED, "max_tiles": 2}).usage
        assert (usage.tiles, usage.cached_tiles) == (3, 1)


def test_what_was_not_used_for_the_longest_time_makes_room() -> None:
    engine = Noise()
    tile = engine.manifest.tokens_per_tile * engine.hidden_size * 4
    with model_of(engine, tile_cache_bytes=3 * (tile + 600)) as model:
        pictures = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in range(10, 50, 10)]

        def cached(number: int) -> int:
            return model.chat("What?", [pictures[number]], system="", max_new_tokens=1).usage.cached_tiles

        assert [cached(number) for number in (0, 1, 2, 0, 3, 0, 1, 2)] == [0, 0, 0, 1, 0, 1, 0, 0]
    assert engine.tiles == 6


def test_a_cache_that_is_smaller_than_a_picture_still_answers() -> None:
    engine = Noise()
    tile = engine.manifest.tokens_per_tile * engine.hidden_size * 4
    with (
        model_of(engine, tile_cache_bytes=3 * (tile + 600)) as small,
        model_of(Noise()) as without,
    ):
        for seed in (3, 3, 4):
            features = small.encode(frame(seed), max_tiles=8).features
            np.testing.assert_array_equal(features, without.encode(frame(seed), max_tiles=8).features)


class Router(Noise):
    """Says of a tile what follows from its first value; compressed, its features are the others' negative."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = dataclasses.replace(self.manifest, flash=Flash(4, 4, 0.4, 0.25))

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        encoded = super().encode_tiles(pixel_values, progress)
        few = -encoded.features[:, : self.manifest.tokens_per_compressed_tile]
        scores = (pixel_values[:, 0, 0, 0] + 2.2) / 5
        return dataclasses.replace(encoded, compressed=few, scores=scores.astype(np.float32))


def test_a_router_judges_the_whole_picture_anew() -> None:
    """The same tile is compressed in one picture and not in the other, wherever its features come from."""
    engine = Router()
    tile = np.full((SIDE, SIDE, 3), 128, np.uint8)
    dark, bright = np.full_like(tile, 60), np.full_like(tile, 250)
    pictures = [np.hstack([tile, dark, dark]), np.hstack([tile, bright, bright])]
    with model_of(engine, tile_cache_bytes=MEGA) as model, model_of(Router()) as without:
        found = [model.encode(picture, max_tiles=3) for picture in (*pictures, *pictures)]
        alone = [without.encode(picture, max_tiles=3) for picture in pictures]
        assert alone[0].tile_tokens[0] != alone[1].tile_tokens[0]
        for one, wanted in zip(found, alone * 2, strict=True):
            assert one.tile_tokens == wanted.tile_tokens
            np.testing.assert_array_equal(one.rows, wanted.rows)
    assert engine.tiles == 5, "three tiles and two thumbnails"


def test_an_encoding_that_failed_leaves_nothing_behind() -> None:
    engine = Noise()
    with model_of(engine, tile_cache_bytes=MEGA) as model:

        def fail() -> None:
            raise RuntimeError("no power")

        engine.before("encode", 0, fail)
        with pytest.raises(RuntimeError, match="no power"):
            model.encode(frame(), max_tiles=8)
        assert model.chat("What?", [frame()], **ASKED).usage.cached_tiles == 0
        assert model.chat("What?", [frame()], **ASKED).usage.cached_tiles == 9


@pytest.mark.parametrize("tile_cache_bytes", [0, 40_000, None])
def test_many_threads(tiny_bundle: Path, without: ivl.Model, tile_cache_bytes: int | None) -> None:
    """Of the same few frames, so that one asks for tiles that are encoded for another just then."""
    frames = [frame(seed) for seed in range(3)]
    frames += [changed(one, 1, 1) for one in frames]
    wanted = [without.chat("What?", [one], **ASKED).token_ids for one in frames]
    with (
        ivl.load(
            tiny_bundle,
            engine=without.engine,
            cache_tokens=1024,
            tile_cache_bytes=tile_cache_bytes,
            prefix_cache_tokens=0,
        ) as model,
        ThreadPoolExecutor(6) as pool,
    ):
        asked = [number % 6 for number in range(36)]
        answers = list(pool.map(lambda n: model.chat("What?", [frames[n]], **ASKED), asked))
    assert [answer.token_ids for answer in answers] == [wanted[number] for number in asked]
    cached = sum(answer.usage.cached_tiles for answer in answers)
    if tile_cache_bytes is None:
        assert cached == 36 * 9 - (3 * 9 + 3 * 2), "each is encoded once"
    else:
        assert (cached == 0) == (tile_cache_bytes == 0)


def test_the_size(tiny_bundle: Path) -> None:
    with ivl.load(tiny_bundle) as model:
        usable = _core.usable_memory()
        assert model.tile_cache_bytes == 64 * MEGA or (usable is not None and usable < 1100 * MEGA)
        manifest = model.manifest
    with ivl.load(tiny_bundle, tile_cache_bytes=12345) as model:
        assert model.tile_cache_bytes == 12345
    assert tile_cache_size(manifest, 0) == 0


@pytest.mark.parametrize("wrong", [-1, 1.5, "64 MB", True, 1 << 70])
def test_a_size_out_of_range(tiny_bundle: Path, wrong: Any) -> None:
    with pytest.raises(ivl.PromptError, match="tile_cache_bytes"):
        ivl.load(tiny_bundle, tile_cache_bytes=wrong)


def test_a_size_beyond_the_memory(tiny_bundle: Path) -> None:
    if _core.usable_memory() is None:
        pytest.skip("the system does not say how much memory there is")
    with pytest.raises(ivl.DeviceError, match="tile_cache_bytes"):
        ivl.load(tiny_bundle, tile_cache_bytes=1 << 47)


def noisy(picture: Frame, most: int, seed: int) -> Frame:
    """The picture with another pixel value everywhere, by so much at most, and somewhere by that much."""
    noise = np.random.default_rng(seed).integers(-most, most + 1, picture.shape)
    noise.flat[::7] = most
    return np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)


def calm(seed: int) -> Frame:
    """A frame whose values are far enough from their ends."""
    return np.clip(frame(seed), 40, 215)


def test_frame_tolerance_takes_noise_for_equal() -> None:
    engine = Noise()
    with model_of(engine, tile_cache_bytes=8 * MEGA, frame_tolerance=4) as model:
        first = model.encode(calm(1), max_tiles=8)
        usages = [model.chat("What?", [noisy(calm(1), 4, seed)], **ASKED).usage for seed in range(3)]
        assert [usage.cached_tiles for usage in usages] == [9, 9, 9]
        assert engine.tiles == 9
        again = model.encode(noisy(calm(1), 4, 9), max_tiles=8)
        np.testing.assert_array_equal(again.features, first.features)
        assert model.chat("What?", [changed(calm(1), 0, 1)], **ASKED).usage.cached_tiles >= 7
        assert engine.tiles <= 11


def test_frame_tolerance_is_the_largest_difference() -> None:
    engine = Noise()
    with model_of(engine, tile_cache_bytes=8 * MEGA, frame_tolerance=4) as model:
        model.encode(calm(1), max_tiles=8)
        other = calm(1)
        other[5, 5, 1] += 5  # one value of one pixel, which the thumbnail does not show
        usage = model.chat("What?", [other], **ASKED).usage
        assert usage.cached_tiles == 8


def test_differences_do_not_add_up() -> None:
    """A picture that grows brighter step by step: it is compared with what was encoded."""
    engine = Noise()
    with model_of(engine, tile_cache_bytes=8 * MEGA, frame_tolerance=4) as model:
        cached = []
        for value in range(100, 120, 2):
            picture = np.full((SIDE, SIDE, 3), value, np.uint8)
            cached.append(model.chat("What?", [picture], system="", max_new_tokens=1).usage.cached_tiles)
    # 100 serves 102 and 104, 106 serves 108 and 110, and so on.
    assert cached == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0]


def test_two_cameras_in_turn() -> None:
    engine = Noise()
    with model_of(engine, tile_cache_bytes=8 * MEGA, frame_tolerance=4) as model:
        for turn in range(3):
            pictures = [calm(camera) for camera in range(2)]
            if turn:
                pictures = [noisy(picture, 2, 10 * turn + i) for i, picture in enumerate(pictures)]
            usage = model.chat("<image><image> Equal?", pictures, system="", max_new_tokens=1).usage
            assert usage.cached_tiles == (usage.tiles if turn else 0)


@pytest.mark.parametrize("wrong", [-1, 256, 0.5, "4", True])
def test_a_tolerance_out_of_range(tiny_bundle: Path, wrong: Any) -> None:
    with pytest.raises(ivl.PromptError, match="frame_tolerance"):
        ivl.load(tiny_bundle, frame_tolerance=wrong)


def test_a_tolerance_without_a_cache(tiny_bundle: Path) -> None:
    with pytest.raises(ivl.PromptError, match="tile_cache_bytes=0 keeps none"):
        ivl.load(tiny_bundle, frame_tolerance=4, tile_cache_bytes=0)


def test_a_tolerance_of_a_loaded_model(tiny_bundle: Path, without: ivl.Model) -> None:
    with ivl.load(tiny_bundle, engine=without.engine, cache_tokens=1024, frame_tolerance=4) as model:
        answers = [model.chat("What?", [one], **ASKED) for one in (calm(2), noisy(calm(2), 3, 0))]
    wanted = without.chat("What?", [calm(2)], **ASKED)
    assert [answer.token_ids for answer in answers] == [wanted.token_ids] * 2
    assert [answer.usage.cached_tiles for answer in answers] == [0, 9]
