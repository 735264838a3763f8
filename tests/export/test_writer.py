"""Writing bundles: layout, atomicity, and memory that does not grow with the model."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bundle.tiny import tiny_manifest, write_tiny
from export.checkpoints import (
    TINY_QWEN2,
    Model,
    authors_config,
    family_sized,
    write_checkpoint,
    write_tokenizer,
)
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import Precision
from internvl_rt.bundle.tensors import TensorSpec, read_places, tensor_specs
from internvl_rt.errors import BundleError, CheckpointError
from internvl_rt.export import writer
from internvl_rt.export.architectures import AUTHORS
from internvl_rt.export.checkpoint import Checkpoint
from internvl_rt.export.config import read_config
from internvl_rt.export.progress import progress_bar
from internvl_rt.export.quantise import dequantise_int4, dequantise_int8
from internvl_rt.export.recipes import make_recipe
from internvl_rt.export.synthetic import RandomSource


@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8", "int4"])
def test_layout(tmp_path: Path, weights: str) -> None:
    manifest = tiny_manifest(weights, "int8" if weights.startswith("int") else None)
    layout = writer.plan_layout(manifest)
    writer.write_weights(tmp_path / "weights.safetensors", manifest, RandomSource(0))
    places = read_places(tmp_path, manifest)
    assert [p.tensor.name for p in layout] == sorted(places, key=lambda n: places[n].begin)
    assert min(p.begin for p in places.values()) % 4096 == 0
    element = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "int4": 1}
    for place in places.values():
        size = place.tensor.bytes
        assert place.begin % (64 if size % 64 == 0 else element[place.tensor.dtype]) == 0


def test_scales_whose_weights_come_later_are_right(tmp_path: Path) -> None:
    """Odd sizes put int8 weights behind their scales; both must be of the same tensor."""
    manifest = tiny_manifest("int8")
    odd = dataclasses.replace(
        manifest, llm=dataclasses.replace(manifest.llm, hidden_size=40, intermediate_size=97)
    )
    writer.write_weights(tmp_path / "weights.safetensors", odd, RandomSource(0))
    places = read_places(tmp_path, odd)
    name = "llm.layers.0.gate_up.weight"
    assert places[f"{name}.scales"].begin < places[name].begin
    spec = next(s for s in tensor_specs(odd) if s.name == name)
    (rows,) = RandomSource(0).encode(spec, "int8")
    data = (tmp_path / "weights.safetensors").read_bytes()
    assert rows.scales is not None
    for stored, array in ((name, rows.data), (f"{name}.scales", rows.scales)):
        assert data[places[stored].begin : places[stored].end] == array.tobytes()


def names(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, CheckpointError("bad tensor"), OSError(28, "No space left")]
)
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, error: BaseException | type) -> None:
    class Interrupted:
        def encode(self, spec: TensorSpec, precision: Precision) -> Iterator[writer.EncodedRows]:
            if spec.name == "llm.layers.1.down.weight":
                raise error
            yield from RandomSource(0).encode(spec, precision)

    error_type = error if isinstance(error, type) else type(error)
    out = write_tiny(tmp_path / "out", seed=5)
    before = open_bundle(out).manifest
    for target in (tmp_path / "new", out):
        with pytest.raises(BundleError if isinstance(error, OSError) else error_type):
            writer.write_bundle(
                target, tiny_manifest(), Interrupted(), lambda *_: None, overwrite=target == out
            )
    assert names(tmp_path) == ["out"]
    assert open_bundle(out, verify=True).manifest == before


def test_the_progress_bar_names_tensors_and_reaches_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(1000, True) as advance:
        advance("llm.layers.7.down.weight", 400)
        advance("llm.norm.weight", 600)
    shown = capfd.readouterr().err
    assert "llm.norm.weight" in shown
    with progress_bar(1000, None) as advance:  # not a terminal
        advance("llm.norm.weight", 1000)
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_found_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(
        BundleError,
        match=r"/out: the bundle needs \d+\.\d\d KiB; the disk has 1000 B left.*smaller precision",
    ):
        write_tiny(tmp_path / "out")
    assert names(tmp_path) == []


def test_synthetic_weights_do_not_depend_on_the_order_and_repeat(tmp_path: Path) -> None:
    source, specs = RandomSource(3), [s for s in tensor_specs(tiny_manifest("int4")) if s.kind == "matrix"]
    forwards = {s.name: [r.data.tobytes() for r in source.encode(s, "int4")] for s in specs}
    backwards = {s.name: [r.data.tobytes() for r in source.encode(s, "int4")] for s in reversed(specs)}
    assert forwards == backwards
    assert len({b"".join(rows) for rows in forwards.values()}) == len(specs)
    other = {s.name: [r.data.tobytes() for r in RandomSource(4).encode(s, "int4")] for s in specs}
    assert all(forwards[name] != other[name] for name in forwards)
    one, two = write_tiny(tmp_path / "one", "int8"), write_tiny(tmp_path / "two", "int8")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_synthetic_weights_keep_the_scale_of_activations(precision: Precision) -> None:
    spec = TensorSpec("llm.layers.0.o_proj.weight", (512, 1024), "matrix", "llm")
    (rows,) = RandomSource(0).encode(spec, precision)
    if precision == "int4":
        assert rows.scales is not None
        values = dequantise_int4(rows.data, rows.scales)
    elif precision == "int8":
        assert rows.scales is not None
        values = dequantise_int8(rows.data, rows.scales)
    else:
        values = rows.data.astype(np.float32)
    assert abs(values.mean()) < 1e-3
    assert abs(values.std() * 32 - 1) < 0.05


MEASURE = """
import re, sys
from internvl_rt.export.exporter import export

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) * 1024

for folder, weights in (argument.split("@") for argument in sys.argv[1:]):
    export(folder, f"{folder}-{weights}", weights=weights, vision="bf16", progress=False)
    print(peak())
"""


def peaks(*exports: str) -> list[int]:
    """The peak of resident memory, mapped files included, after each of several exports in one process."""
    result = subprocess.run([sys.executable, "-c", MEASURE, *exports], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [int(line) for line in result.stdout.split()]


LARGER = Model(
    "internlm2",
    hidden=2048,
    heads=16,
    kv_heads=4,
    head_dim=128,
    intermediate=8192,
    layers=1,
    vocabulary=20000,
)


def test_memory_does_not_follow_the_size_of_the_model(tmp_path: Path) -> None:
    """290 MB of weights may take 120 MB more than a tiny model."""
    write_checkpoint(tmp_path / "tiny", TINY_QWEN2)
    sparse_checkpoint(tmp_path / "large", LARGER, shards=3)
    assert sum(f.stat().st_size for f in (tmp_path / "large").glob("*.safetensors")) > 280e6
    base, *found = peaks(*(f"{tmp_path}/{w}" for w in ("tiny@int4", "large@bf16", "large@int4")))
    assert max(found) - base < 120e6


@pytest.mark.true_widths
def test_memory_of_a_26b(tmp_path: Path) -> None:
    """True widths, 12 layers each, on 20 GB of disk. The largest tensor, the embedding table, has 1.1 GB."""
    model = family_sized("InternVL2-26B", layers=12)
    sparse_checkpoint(tmp_path / "26b", model, shards=6)
    size = sum(f.stat().st_size for f in (tmp_path / "26b").glob("*.safetensors"))
    (found,) = peaks(f"{tmp_path}/26b@int4")
    print(f"{size / 1e9:.1f} GB exported with a peak of {found / 1e6:.0f} MB")
    assert size > 12e9
    assert found < 1e9


def sparse_checkpoint(folder: Path, model: Model, shards: int) -> None:
    """A checkpoint of zeros that takes no room on the disk: its files are holes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(authors_config(model)))
    write_tokenizer(folder, model)
    tensors: dict[str, tuple[int, ...]] = {}
    config = read_config(Checkpoint(folder, authors_config(model), {}))
    manifest = dataclasses.replace(
        tiny_manifest(), vision=config.vision, llm=config.llm, tiling=config.tiling
    )
    for spec in tensor_specs(manifest):
        for piece in make_recipe(spec, config, AUTHORS, manifest):
            tensors[piece.name] = piece.shape
    weight_map = {}
    for i in range(shards):
        name, header, end = f"model-{i}.safetensors", {}, 0
        for tensor in list(tensors)[i::shards]:
            size = 2 * math.prod(tensors[tensor])
            header[tensor] = {
                "dtype": "BF16",
                "shape": list(tensors[tensor]),
                "data_offsets": [end, end + size],
            }
            end += size
            weight_map[tensor] = name
        text = json.dumps(header).encode()
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
