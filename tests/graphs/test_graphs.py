"""The graphs as files: standard operators only, weights left where they are, accepted by the checker."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest

from bundle.tiny import tiny_manifest
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import GRAPH_FILES, LLM_GRAPH, WEIGHTS_FILE, Manifest
from internvl_rt.bundle.tensors import EMBED_TOKENS
from internvl_rt.export.synthetic import write_synthetic

PRECISIONS = ["fp32", "fp16", "bf16", "int8", "int4"]


def variant(name: str, weights: str = "fp32") -> Manifest:
    """A tiny model with the facts of one of the architectures."""
    manifest = tiny_manifest(weights, None if weights == "int4" else weights)
    vision, llm = manifest.vision, manifest.llm
    if name == "6b":
        vision = dataclasses.replace(vision, norm="rms_norm", qkv_bias=False, qk_norm=True)
        llm = dataclasses.replace(llm, qkv_bias=False)
    if name == "qwen3":
        llm = dataclasses.replace(llm, qkv_bias=False, qk_norm=True, head_dim=32)
    if name == "tied":
        llm = dataclasses.replace(llm, tied_embeddings=True)
    return dataclasses.replace(manifest, vision=vision, llm=llm)


def write(folder: Path, manifest: Manifest) -> Path:
    return write_synthetic(manifest, folder / "bundle", tokenizer=None, progress=False)


@pytest.mark.parametrize("weights", PRECISIONS)
@pytest.mark.parametrize("name", ["300m", "6b", "qwen3", "tied"])
def test_graphs_are_valid(tmp_path: Path, name: str, weights: str) -> None:
    folder = write(tmp_path, variant(name, weights))
    places = open_bundle(folder).places
    used = set()
    for file in GRAPH_FILES:
        onnx.checker.check_model(str(folder / file), full_check=True)
        model = onnx.load(folder / file, load_external_data=False)
        # The native engine needs the first two alone, and ONNX Runtime ends at opset 23 on Python 3.10.
        opset = 24 if file == LLM_GRAPH else 23
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
        assert model.ir_version == 10
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                assert tensor.ByteSize() < 200, f"{tensor.name} is a weight that was copied into the graph"
                continue
            where = {entry.key: entry.value for entry in tensor.external_data}
            place = places[tensor.name]
            assert where == {
                "location": WEIGHTS_FILE,
                "offset": str(place.begin),
                "length": str(place.end - place.begin),
            }
            assert tuple(tensor.dims) == place.tensor.shape
            used.add(tensor.name)
    # The embedding table is looked up by the host, and is in a graph only as the output matrix.
    tied = name == "tied" and weights not in ("int8", "int4")
    assert set(places) - used == (set() if tied else {EMBED_TOKENS})


def test_graphs_do_not_depend_on_the_run(tmp_path: Path) -> None:
    first = write(tmp_path / "a", variant("300m"))
    second = write(tmp_path / "b", variant("300m"))
    for file in GRAPH_FILES:
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_the_number_of_heads_is_known_before_the_graph_runs(tmp_path: Path) -> None:
    """TensorRT and OpenVINO refuse grouped-query attention over a number of heads that they cannot see."""
    manifest = variant("300m")
    model = onnx.load(write(tmp_path, manifest) / LLM_GRAPH, load_external_data=False)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    heads = {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in [*inferred.value_info, *inferred.output]
        if len(value.type.tensor_type.shape.dim) == 4
    }
    attentions = [node for node in inferred.node if node.op_type == "Attention"]
    assert len(attentions) == manifest.llm.layers
    for node in attentions:
        kv_heads = manifest.llm.kv_heads
        assert [heads[name] for name in node.input[:3]] == [manifest.llm.heads, kv_heads, kv_heads]
