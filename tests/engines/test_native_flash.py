"""The resolution router of InternVL3.5-Flash in C++, against its ONNX graphs and the float64 reference."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from bundle.tiny import tiny_manifest
from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.manifest import Flash, Precision
from internvl_rt.engines.engine import EncodedTiles, Float32Array
from internvl_rt.engines.native import NativeEngine, map_weights
from internvl_rt.engines.onnxruntime import OnnxVision
from internvl_rt.export import export
from internvl_rt.export.synthetic import write_synthetic
from internvl_rt.model.inspection import inspect_bundle
from parity.checkpoints import QWEN3, TOWER_6B, TOWER_300M, authors_checkpoint
from parity.compare import cosine, relative_error
from reference.internvl import Reference

SIDE = 168
"""144 patches a tile: more than two blocks of keys, and a rest."""

TOWERS: dict[str, dict[str, Any]] = {
    # The router's 16 heads have 6 channels, which no kernel takes as they are, or 8.
    "300m": TOWER_300M | {"image_size": SIDE},
    "6b": TOWER_6B | {"image_size": SIDE, "hidden_size": 128, "num_attention_heads": 2},
}
THRESHOLDS = {"flash_relative_threshold": 0.4, "flash_absolute_threshold": 0.05}


def tiles(count: int) -> Float32Array:
    return np.random.default_rng(3).standard_normal((count, 3, SIDE, SIDE), np.float32)


LEAST_COSINE = {"bf16": 0.9999, "int8": 0.999}
"""Of what is rounded to the type of its weights."""


@dataclasses.dataclass
class Exported:
    bundle: Bundle
    reference: Reference


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Exported]:
    """The bundle of a tower, its vision side in a precision."""

    @functools.cache
    def make(tower: str, vision: str) -> Exported:
        folder = tmp_path_factory.mktemp("flash")
        shape = {"force_image_size": SIDE, "max_dynamic_patch": 4}
        reference = authors_checkpoint(
            folder / "in", TOWERS[tower], QWEN3, flash_mode=True, **shape, **THRESHOLDS
        )
        export(folder / "in", folder / "out", weights="fp32", vision=vision, progress=False)
        return Exported(open_bundle(folder / "out"), reference)

    return make


def outputs(encoded: EncodedTiles) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Features, compressed features and scores, all there and finite."""
    assert encoded.compressed is not None
    assert encoded.scores is not None
    arrays = (encoded.features, encoded.compressed, encoded.scores)
    assert all(np.isfinite(array).all() for array in arrays)
    return arrays


def assert_same_bits(found: EncodedTiles, expected: EncodedTiles, first: int = 0) -> None:
    for one, other in zip(outputs(found), outputs(expected), strict=True):
        np.testing.assert_array_equal(one, other[first : first + len(one)])


@pytest.mark.parametrize("vision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("tower", list(TOWERS))
def test_equals_the_graphs(exported: Callable[[str, str], Exported], tower: str, vision: str) -> None:
    """ONNX Runtime computes the same stored weights in fp32."""
    bundle = exported(tower, vision).bundle
    pixels = tiles(7)
    wanted = outputs(OnnxVision(bundle, 1).encode_tiles(pixels))
    found = outputs(NativeEngine(bundle, cache_tokens=64, threads=2).encode_tiles(pixels))
    for one, other in zip(found, wanted, strict=True):
        if vision in LEAST_COSINE:
            assert cosine(one, other) >= LEAST_COSINE[vision]
        else:
            assert relative_error(one, other) < 1e-4
    # What all scores have in common must not be all that is right about them.
    assert np.abs(found[2] - wanted[2]).max() < np.ptp(wanted[2]) / 10


@pytest.mark.parametrize("tower", list(TOWERS))
def test_equals_the_reference(exported: Callable[[str, str], Exported], tower: str) -> None:
    made, pixels = exported(tower, "fp32"), tiles(3)
    _, compressed, scores = outputs(
        NativeEngine(made.bundle, cache_tokens=64, threads=2).encode_tiles(pixels)
    )
    wanted_scores, wanted = made.reference.flash(pixels)
    assert relative_error(compressed, wanted) < 1e-4
    assert relative_error(scores, wanted_scores) < 1e-4


@pytest.mark.parametrize("vision", ["fp32", "bf16", "int8"])
def test_a_tile_has_the_same_bits_in_every_batch(
    exported: Callable[[str, str], Exported], vision: str
) -> None:
    bundle, pixels = exported("300m", vision).bundle, tiles(7)
    together = NativeEngine(bundle, cache_tokens=64, threads=2).encode_tiles(pixels)
    for threads in (1, 3):
        for activation_bytes in (1, 5 << 20):
            engine = NativeEngine(bundle, cache_tokens=64, threads=threads, activation_bytes=activation_bytes)
            assert_same_bits(engine.encode_tiles(pixels), together)
            assert_same_bits(engine.encode_tiles(pixels[2:5]), together, 2)


def test_encoding_can_be_watched_and_ended(exported: Callable[[str, str], Exported]) -> None:
    bundle, pixels = exported("300m", "bf16").bundle, tiles(4)
    engine = NativeEngine(bundle, cache_tokens=64, threads=2, activation_bytes=1)
    done: list[int] = []
    whole = engine.encode_tiles(pixels, done.append)
    assert {1, 2, 3} <= set(done)

    def stop(tiles: int) -> None:
        raise KeyError(tiles)

    with pytest.raises(KeyError):
        engine.encode_tiles(pixels, stop)
    assert_same_bits(engine.encode_tiles(pixels), whole)


@pytest.mark.parametrize("vision", ["fp32", "bf16", "int8"])
def test_answers_are_those_of_the_graphs(exported: Callable[[str, str], Exported], vision: str) -> None:
    """The same tiles are compressed, and the answer about them is the same."""
    bundle = exported("300m", vision).bundle
    rng = np.random.default_rng(4)
    pictures = [
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in ((400, 370, 3), (90, 90, 3))
    ]
    answers = []
    for engine in ("native", "onnxruntime"):
        with ivl.load(bundle.folder, engine=engine, cache_tokens=1024) as model:
            answers.append(model.chat("What is this?", pictures, max_tiles=4, max_new_tokens=6))
    ours, theirs = answers
    assert ours.usage.image_tokens == theirs.usage.image_tokens < ours.usage.tiles * 36
    assert ours.token_ids == theirs.token_ids


def test_needs_no_graphs(tmp_path: Path) -> None:
    manifest = dataclasses.replace(tiny_manifest("fp32"), flash=Flash(4, 16, 0.4, 0.0))
    for graphs in (True, False):
        write_synthetic(manifest, tmp_path / str(graphs), tokenizer=None, graphs=graphs, progress=False)
    bundle = open_bundle(tmp_path / "False")
    assert not list(bundle.folder.glob("*.onnx"))
    pixels = np.random.default_rng(1).standard_normal((3, 3, 56, 56), np.float32)
    found = outputs(NativeEngine(bundle, cache_tokens=64, threads=1).encode_tiles(pixels))
    wanted = outputs(OnnxVision(open_bundle(tmp_path / "True"), 1).encode_tiles(pixels))
    for one, other in zip(found, wanted, strict=True):
        assert relative_error(one, other) < 1e-4


def test_matrices_in_other_precisions_than_their_part(tmp_path: Path) -> None:
    manifest = dataclasses.replace(tiny_manifest("fp32", "int8"), flash=Flash(4, 16, 0.4, 0.0))
    exceptions: dict[str, Precision] = {
        "flash.attention1.qkv.weight": "bf16",
        "flash.blocks.2.fc2.weight": "fp32",
        "flash.gate.weight": "fp16",
        "flash.projector.fc2.weight": "bf16",
    }
    manifest = dataclasses.replace(
        manifest, precision=dataclasses.replace(manifest.precision, exceptions=exceptions)
    )
    bundle = open_bundle(
        write_synthetic(manifest, tmp_path / "out", tokenizer=None, graphs=True, progress=False)
    )
    pixels = np.random.default_rng(1).standard_normal((3, 3, 56, 56), np.float32)
    found = outputs(NativeEngine(bundle, cache_tokens=64, threads=1).encode_tiles(pixels))
    wanted = outputs(OnnxVision(bundle, 1).encode_tiles(pixels))
    for one, other in zip(found, wanted, strict=True):
        assert cosine(one, other) >= 0.999


@pytest.mark.parametrize("flash", [None, Flash(4, 16, 0.4, 0.0)])
@pytest.mark.parametrize("vision", ["fp32", "fp16", "bf16", "int8"])
def test_inspection_knows_what_a_batch_takes(tmp_path: Path, vision: str, flash: Flash | None) -> None:
    manifest = dataclasses.replace(tiny_manifest("fp32", vision), flash=flash)
    bundle = open_bundle(
        write_synthetic(manifest, tmp_path / "out", tokenizer=None, graphs=False, progress=False)
    )
    encoder = _core.VisionEncoder(manifest.checked(), map_weights(bundle), _core.ThreadTeam(1))
    found = inspect_bundle(bundle)
    assert (found.batch_tiles, found.activation_bytes) == (encoder.batch_tiles, encoder.batch_bytes)


def test_the_decision_is_numpys() -> None:
    rng = np.random.default_rng(0)
    chosen = 0
    for case in range(4000):
        count = int(rng.integers(1, 41))
        scores = rng.random(count, np.float32)
        if case % 3 == 0:  # many of them equal
            scores = np.round(scores, 1)
        # Quantiles that are a score, and such that are between two; thresholds that are a score.
        relative = float(rng.choice([0.0, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, rng.random()]))
        absolute = float(rng.choice([0.0, 0.3, 0.5, float(scores[0]), rng.random()]))
        least = np.quantile(scores, relative).astype(np.float32)
        wanted = ((scores > least) & (scores >= absolute)).tolist()
        found = _core.compressible(scores, relative_threshold=relative, absolute_threshold=absolute)
        assert found == wanted, (scores, relative, absolute)
        chosen += sum(found)
    assert chosen > 4000


def test_the_decision_at_its_edges() -> None:
    def chosen(scores: list[float], relative: float, absolute: float) -> list[bool]:
        return _core.compressible(
            np.array(scores, np.float32), relative_threshold=relative, absolute_threshold=absolute
        )

    assert chosen([0.1, 0.9, 0.5, 0.7], 0.5, 0.0) == [False, True, False, True]
    assert chosen([0.1, 0.9, 0.5, 0.7], 0.5, 0.8) == [False, True, False, False]
    assert chosen([0.1, 0.9, 0.5, 0.7], 1.0, 0.0) == [False] * 4
    assert chosen([0.9], 0.0, 0.0) == [False]
    assert chosen([0.2, float("nan"), 0.9], 0.5, 0.0) == [False] * 3
    assert chosen([], 0.5, 0.0) == []
