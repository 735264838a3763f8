"""Calibration of an int8 vision tower: on weights with planted outliers, against the exact reference."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.tiny import tiny_manifest
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import Manifest, Precision
from internvl_rt.bundle.tensors import TensorSpec, tensor_specs, vit_layer
from internvl_rt.errors import BundleError, CheckpointError
from internvl_rt.export import export
from internvl_rt.export.calibration import (
    Calibration,
    SmoothedSource,
    calibrate,
    calibrated,
    calibration_tiles,
)
from internvl_rt.export.calibration import pictures as calibration_pictures
from internvl_rt.export.calibration.calibrate import CLIPS, _Tower
from internvl_rt.export.quantise import encode_rows
from internvl_rt.export.synthetic import RandomSource
from internvl_rt.export.writer import EncodedRows, WeightSource, write_bundle
from parity.checkpoints import transformers_checkpoint
from parity.compare import cosine, opened
from reference.stored import reference_of_bundle

OUTLIERS = (3, 17, 40)
"""Channels fifty times the rest."""


@dataclasses.dataclass(frozen=True)
class PlantedSource:
    """Random weights whose activations have outlier channels, as InternViT's do.

    The norms before ``qkv`` and ``fc1`` make some channels fifty times the rest, and the columns that read
    them are as much smaller, so that what they say is no more than what the others say.
    """

    source: WeightSource
    layers: tuple[int, ...]

    def encode(self, spec: TensorSpec, precision: Precision) -> Iterator[EncodedRows]:
        # Integers are rounded here: random ones are drawn, and are other numbers.
        for part in self.source.encode(spec, "fp32"):
            data = part.data
            for layer in self.layers:
                for norm, matrix in (("norm1", "qkv"), ("norm2", "fc1")):
                    if spec.name in (vit_layer(layer, f"{norm}.weight"), vit_layer(layer, f"{norm}.bias")):
                        data = data.copy()
                        data[list(OUTLIERS)] *= 50
                    if spec.name == vit_layer(layer, f"{matrix}.weight"):
                        data = data.copy()
                        data[:, list(OUTLIERS)] /= 50
            yield EncodedRows(*encode_rows(data, precision, spec.name))


def manifest_of(norm: str = "layer_norm", vision: str = "fp32") -> Manifest:
    manifest = tiny_manifest("fp32", vision)
    tower: dict[str, Any] = {"layers": 3}
    if norm == "rms_norm":
        tower |= {"norm": "rms_norm", "qkv_bias": False, "qk_norm": True}
    return dataclasses.replace(manifest, vision=dataclasses.replace(manifest.vision, **tower))


def tiles_of(manifest: Manifest, count: int = 3, seed: int = 5) -> np.ndarray:
    size = manifest.vision.image_size
    return np.random.default_rng(seed).standard_normal((count, 3, size, size), np.float32)


def write(folder: Path, manifest: Manifest, source: WeightSource) -> Path:
    return write_bundle(folder, manifest, source, lambda *_: None)


def test_plain_weights_need_nothing() -> None:
    manifest = manifest_of()
    found = calibrate(RandomSource(0), manifest, tiles_of(manifest))
    assert [m.name for m in found.matrices] == [
        vit_layer(layer, name) for layer in range(3) for name in ("qkv", "proj", "fc1", "fc2")
    ]
    assert all(0.999 < m.plain <= m.smoothed <= 1.0001 for m in found.matrices)
    assert found.exceptions == {}


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_planted_outliers_are_smoothed(norm: str) -> None:
    """Only the layers that have outliers change, and smoothing gives back what they took."""
    manifest = manifest_of(norm)
    found = calibrate(PlantedSource(RandomSource(0), (1,)), manifest, tiles_of(manifest))
    assert found.exceptions == {}
    for matrix in found.matrices:
        planted = matrix.name in (vit_layer(1, "qkv"), vit_layer(1, "fc1"))
        if planted:
            assert matrix.plain < 0.99 < 0.999 < matrix.smoothed
            factors = found.smoothing.columns[f"{matrix.name}.weight"]
            rest = np.delete(factors, OUTLIERS)
            assert factors[list(OUTLIERS)].min() > 5 * rest.max()
        else:
            assert matrix.plain > 0.999


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_smoothing_does_not_change_what_is_computed(tmp_path: Path, norm: str) -> None:
    """Every kind of fold at once, with factors between 1/8 and 8, in fp32: the features are the same."""
    manifest = manifest_of(norm)
    source = RandomSource(0)
    smoothing = Calibration().smoothing
    random = np.random.default_rng(8)
    for layer in range(3):
        for matrix in ("qkv", "proj", "fc1"):
            factors = np.exp2(random.uniform(-3, 3, manifest.vision.hidden_size)).astype(np.float32)
            smoothing.add(
                layer,
                matrix,
                factors,
                norm_bias=norm == "layer_norm",
                qkv_bias=manifest.vision.qkv_bias,
            )
    plain = write(tmp_path / "plain", manifest, source)
    smooth = write(tmp_path / "smooth", manifest, SmoothedSource(source, smoothing))
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (plain, smooth)]
    assert weights[0] != weights[1]
    pixels = tiles_of(manifest, 2)
    features = [reference_of_bundle(folder).features(pixels) for folder in (plain, smooth)]
    assert np.abs(features[0] - features[1]).max() < 1e-5 * np.abs(features[0]).max()


def test_what_stays_below_the_threshold_stays_in_bf16(tmp_path: Path) -> None:
    manifest = manifest_of(vision="int8")
    tiles = tiles_of(manifest)
    source = PlantedSource(RandomSource(0), (0, 2))
    # So strict that some matrices fail and some do not.
    cosines = sorted(m.smoothed for m in calibrate(source, manifest, tiles, least_cosine=1.0).matrices)
    least = (cosines[4] + cosines[5]) / 2
    smoothed, changed, found = calibrated(source, manifest, tiles, least_cosine=least)
    kept = {m.name for m in found.matrices if m.precision == "bf16"}
    assert len(kept) == 5
    assert changed.precision.exceptions == {f"{name}.weight": "bf16" for name in kept}

    bundle = open_bundle(write(tmp_path / "bundle", changed, smoothed))
    matrices = {vit_layer(layer, name) for layer in range(3) for name in ("qkv", "proj", "fc1", "fc2")}
    for name in matrices:
        stored = bundle.places[f"{name}.weight"].tensor.dtype
        assert stored == ("bfloat16" if name in kept else "int8")
        assert (f"{name}.weight.scales" in bundle.places) == (name not in kept)
    pixels = tiles_of(manifest, 2)
    exact = reference_of_bundle(write(tmp_path / "exact", manifest_of(), source)).features(pixels)
    assert cosine(reference_of_bundle(bundle.folder).features(pixels), exact) > 0.999
    # The native engine takes matrices of both kinds in one layer, and int8 activations for the int8 ones.
    with opened("native", bundle.folder) as engine:
        assert cosine(engine.encode_tiles(pixels).features, exact) > 0.999


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_outliers_in_every_layer_of_the_native_engine(tmp_path: Path, norm: str) -> None:
    """Activations are int8 there: what small channels say is lost beside large ones, until they are smoothed.

    On other tiles than those of the calibration, against fp64 with the weights as they were.
    """
    manifest = manifest_of(norm, vision="int8")
    source = PlantedSource(RandomSource(0), (0, 1, 2))
    smoothed, changed, found = calibrated(source, manifest, tiles_of(manifest))
    assert found.exceptions == {}
    pixels = tiles_of(manifest, 2, seed=6)
    exact = reference_of_bundle(write(tmp_path / "exact", manifest_of(norm), source)).features(pixels)

    def reached(folder: Path) -> float:
        with opened("native", folder) as engine:
            return cosine(engine.encode_tiles(pixels).features, exact)

    plain = reached(write(tmp_path / "plain", manifest, source))
    calibrated_to = reached(write(tmp_path / "smoothed", changed, smoothed))
    assert calibrated_to >= 0.9999
    # Eighty times less is lost. (The residual stream hides most of either.)
    assert 1 - calibrated_to < (1 - plain) / 20


def test_one_scale_for_all_tokens_is_given_where_it_serves() -> None:
    manifest = manifest_of(vision="int8")
    tiles, source = tiles_of(manifest), PlantedSource(RandomSource(0), (0, 2))
    statics = sorted(m.static for m in calibrate(source, manifest, tiles).matrices)
    assert statics[0] > 0.99, "smoothing serves one scale too"
    least = (statics[5] + statics[6]) / 2
    smoothed, changed, found = calibrated(source, manifest, tiles, least_cosine=least)
    served = {m.name for m in found.matrices if m.precision == "int8" and m.static >= least}
    assert 0 < len(served) < 12
    assert set(changed.precision.input_scales) == {f"{name}.weight" for name in served}
    # fc2 reads what GELU makes of fc1's outputs, and nothing is smoothed there: its scale can be seen.
    tower = _Tower(smoothed, manifest)
    greatest = np.zeros(3)
    for tile in tiles:
        x = tower.embed(tile)
        for layer in range(3):

            def keep(name: str, inputs: np.ndarray, layer: int = layer) -> None:
                if name == "fc2":
                    greatest[layer] = max(greatest[layer], np.abs(inputs).max())

            x = tower.forward(x, tower.layer(layer), keep)
    for layer in range(3):
        scale = changed.precision.input_scales.get(vit_layer(layer, "fc2.weight"))
        if scale is not None:
            shares = [abs(scale * 127 / greatest[layer] / clip - 1) for clip in CLIPS]
            assert min(shares) < 0.02


def test_progress_is_told_layer_by_layer() -> None:
    manifest = manifest_of()
    done: list[int] = []
    calibrate(RandomSource(0), manifest, tiles_of(manifest, 1), progress=done.append)
    assert done == [1, 2, 3]


TOWER: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 160,
    "image_size": [56, 56],
    "patch_size": [14, 14],
    "attention_bias": True,
    "norm_type": "layer_norm",
    "use_qk_norm": False,
}
TEXT: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
}


def test_a_checkpoint_is_exported_with_a_folder_of_pictures(tmp_path: Path) -> None:
    transformers_checkpoint(tmp_path / "in", TOWER, TEXT)
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(2)
    for i, size in enumerate([(80, 60), (56, 56), (200, 100)]):
        Image.fromarray(random.integers(0, 256, (*size[::-1], 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("not a picture")
    reports: list[Calibration] = []
    out = export(
        tmp_path / "in",
        tmp_path / "out",
        weights="fp32",
        vision="int8",
        calibrate=folder,
        least_cosine=1.0,
        on_calibration=reports.append,
        progress=False,
    )
    assert len(reports) == 1
    document = json.loads((out / "manifest.json").read_text())
    kept = {name for name, stored in document["precision"]["exceptions"].items() if stored == "bf16"}
    assert kept == {f"{m.name}.weight" for m in reports[0].matrices if m.precision == "bf16"}
    assert len(kept) == 8, "nothing in int8 has a cosine of 1"
    assert open_bundle(out).places["vit.layers.0.fc1.weight"].tensor.dtype == "bfloat16"


def test_calibration_that_has_nothing_to_do_or_nothing_to_see(tmp_path: Path) -> None:
    transformers_checkpoint(tmp_path / "in", TOWER, TEXT)
    empty = tmp_path / "empty"
    empty.mkdir()

    def attempt(vision: str, folder: Path) -> None:
        export(tmp_path / "in", tmp_path / "out", vision=vision, calibrate=folder, progress=False)

    with pytest.raises(CheckpointError, match="vision='int8'"):
        attempt("bf16", empty)
    with pytest.raises(CheckpointError, match="no such folder"):
        attempt("int8", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no pictures"):
        attempt("int8", empty)
    (empty / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(CheckpointError, match=r"broken\.png"):
        attempt("int8", empty)
    assert not (tmp_path / "out").exists()


def test_pictures_are_shown_whole_and_in_their_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiling = tiny_manifest().tiling
    large = np.zeros((100, 156, 3), np.uint8)
    large[22:78, 50:106] = 255
    Image.fromarray(large).save(tmp_path / "a.png")
    Image.new("L", (20, 70), 255).save(tmp_path / "b.png")
    tiles = calibration_tiles(tmp_path, tiling)
    assert tiles.shape == (3, 3, 56, 56)
    assert tiles.dtype == np.float32
    white = (1 - np.array(tiling.mean)) / np.array(tiling.std)
    for tile in (tiles[1], tiles[2]):
        np.testing.assert_allclose(tile, np.broadcast_to(white[:, None, None], tile.shape), rtol=1e-5)
    assert tiles[0].min() < 0 < tiles[0].max()
    monkeypatch.setattr(calibration_pictures, "MOST_TILES", 2)
    assert len(calibration_tiles(tmp_path, tiling)) == 2


def test_input_scales_are_of_int8_matrices_of_the_model(tmp_path: Path) -> None:
    manifest = manifest_of(vision="int8")
    folder = write(tmp_path / "bundle", manifest, RandomSource(0))
    document = json.loads((folder / "manifest.json").read_text())
    fc1 = vit_layer(0, "fc1.weight")
    for scales, match in (
        ({"vit.layers.9.fc1.weight": 0.1}, "not one of this model's int8 matrices"),
        ({"llm.layers.0.qkv.weight": 0.1}, "not one of this model's int8 matrices"),
        ({fc1: 0.0}, "from 6.1"),
        ({fc1: 1e6}, "from 6.1"),
        ({fc1: "0.1"}, "input_scales"),
    ):
        document["precision"]["input_scales"] = scales
        (folder / "manifest.json").write_text(json.dumps(document))
        with pytest.raises(BundleError, match=match):
            open_bundle(folder)
    document["precision"]["input_scales"] = {fc1: 0.1}
    (folder / "manifest.json").write_text(json.dumps(document))
    assert open_bundle(folder).manifest.precision.input_scales == {fc1: 0.1}


def test_exceptions_are_matrices_of_the_model(tmp_path: Path) -> None:
    manifest = manifest_of(vision="int8")
    folder = write(tmp_path / "bundle", manifest, RandomSource(0))
    document = json.loads((folder / "manifest.json").read_text())
    fc1 = vit_layer(0, "fc1.weight")
    assert fc1 in {spec.name for spec in tensor_specs(manifest)}
    for exceptions, match in (
        ({"vit.layers.9.fc1.weight": "bf16"}, "not one of this model's matrices"),
        ({vit_layer(0, "norm1.weight"): "bf16"}, "not one of this model's matrices"),
        ({fc1: "int4"}, "int4"),
        ({fc1: "int3"}, "int3"),
        ({fc1: "bf16"}, "BF16"),  # the file holds int8
    ):
        document["precision"]["exceptions"] = exceptions
        (folder / "manifest.json").write_text(json.dumps(document))
        with pytest.raises(BundleError, match=match):
            open_bundle(folder)
