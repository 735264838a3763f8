"""The native vision side against the float64 reference and against ONNX Runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from bundle.tiny import tiny_manifest
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.native import NativeEngine
from internvl_rt.engines.onnxruntime import OnnxEngine
from internvl_rt.export.synthetic import write_synthetic
from parity.compare import cosine, relative_error, rounding
from reference.stored import reference_of_bundle

Shuffle = Literal["v1", "v2"]

# Sizes that are multiples of nothing but what the tower asks for.
TOWERS: dict[str, dict[str, Any]] = {
    "300m": {"hidden_size": 120, "heads": 5, "intermediate_size": 210, "layers": 3},
    "300m-head-64": {"hidden_size": 128, "heads": 2, "intermediate_size": 256, "layers": 2},
    "6b": {
        "hidden_size": 96,
        "heads": 3,
        "intermediate_size": 130,
        "layers": 3,
        "norm": "rms_norm",
        "qkv_bias": False,
        "qk_norm": True,
    },
    "6b-head-128": {
        "hidden_size": 256,
        "heads": 2,
        "intermediate_size": 320,
        "layers": 2,
        "norm": "rms_norm",
        "qkv_bias": False,
        "qk_norm": True,
    },
}


def manifest_of(tower: str, shuffle: Shuffle, vision: str = "fp32", image_size: int = 140) -> Manifest:
    """A tower of 101 tokens a tile: more than one block of keys, and a rest."""
    manifest = tiny_manifest("fp32", vision)
    return dataclasses.replace(
        manifest,
        vision=dataclasses.replace(manifest.vision, image_size=image_size, **TOWERS[tower]),
        projector=dataclasses.replace(manifest.projector, pixel_shuffle=shuffle),
        tiling=dataclasses.replace(manifest.tiling, tile_size=image_size),
    )


def write(folder: Path, manifest: Manifest, *, graphs: bool = False) -> Bundle:
    return open_bundle(write_synthetic(manifest, folder, tokenizer=None, graphs=graphs, progress=False))


def pixels_of(manifest: Manifest, count: int) -> np.ndarray:
    size = manifest.vision.image_size
    return np.random.default_rng(3).standard_normal((count, 3, size, size), np.float32)


@pytest.mark.parametrize("shuffle", ["v1", "v2"])
@pytest.mark.parametrize("tower", list(TOWERS))
def test_equals_the_reference_and_onnxruntime(tmp_path: Path, tower: str, shuffle: Shuffle) -> None:
    manifest = manifest_of(tower, shuffle)
    bundle = write(tmp_path / "bundle", manifest, graphs=True)
    pixels = pixels_of(manifest, 4)
    exact = reference_of_bundle(bundle.folder).features(pixels)
    other = OnnxEngine(bundle, cache_tokens=64, threads=1)
    engine = NativeEngine(bundle, cache_tokens=64, threads=2)
    for count in (1, 2, 4):
        features = engine.encode_tiles(pixels[:count]).features
        assert relative_error(features, exact[:count]) < 1e-4
        assert relative_error(features, other.encode_tiles(pixels[:count]).features) < 1e-4


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("tower", ["300m", "6b"])
def test_computes_what_is_stored(tmp_path: Path, tower: str, precision: str) -> None:
    manifest = manifest_of(tower, "v2", precision)
    bundle = write(tmp_path / "stored", manifest)
    pixels = pixels_of(manifest, 2)
    features = NativeEngine(bundle, cache_tokens=64, threads=2).encode_tiles(pixels).features
    exact = reference_of_bundle(bundle.folder).features(pixels)
    if bounds := rounding("native", precision):
        assert cosine(features, exact) >= bounds.cosine
    else:
        assert relative_error(features, exact) < 1e-4


@pytest.mark.parametrize("tower", list(TOWERS))
def test_int8_stays_close_to_what_is_stored(tmp_path: Path, tower: str) -> None:
    """Activations are rounded to int8 for int8 weights, a scale for each token."""
    manifest = manifest_of(tower, "v2", "int8")
    bundle = write(tmp_path / "stored", manifest)
    pixels = pixels_of(manifest, 2)
    features = NativeEngine(bundle, cache_tokens=64, threads=2).encode_tiles(pixels).features
    assert cosine(features, reference_of_bundle(bundle.folder).features(pixels)) >= 0.999


@pytest.mark.parametrize("tower", list(TOWERS))
@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9999), ("fp16", 0.99999)])
def test_stored_precisions_stay_close_to_fp32(
    tmp_path: Path, tower: str, precision: str, least: float
) -> None:
    """The same random weights in fp32 and rounded; int8 ones are drawn as integers and are others."""
    features = []
    for stored in ("fp32", precision):
        manifest = manifest_of(tower, "v2", stored)
        bundle = write(tmp_path / stored, manifest)
        engine = NativeEngine(bundle, cache_tokens=64, threads=2)
        features.append(engine.encode_tiles(pixels_of(manifest, 2)).features)
    assert cosine(features[1], features[0]) >= least


def test_a_tile_of_one_patch_more_than_whole_blocks(tmp_path: Path) -> None:
    """64 patches and the class token: the last block of keys has one key, as with 1025 tokens."""
    manifest = manifest_of("300m", "v2", image_size=112)
    bundle = write(tmp_path / "bundle", manifest)
    pixels = pixels_of(manifest, 1)
    features = NativeEngine(bundle, cache_tokens=64, threads=3).encode_tiles(pixels).features
    assert relative_error(features, reference_of_bundle(bundle.folder).features(pixels)) < 1e-4
