"""The dialects as files: which operators and types each of them uses, over the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from bundle.tiny import tiny_manifest
from graphs.tensorrt_operators import AXES_INPUT, TENSORRT_10_3_OPERATORS
from graphs.test_graphs import PRECISIONS, variant
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.graph_sets import ALL_GRAPH_FILES, GRAPH_NAMES, GRAPH_SETS, GraphSet
from internvl_rt.bundle.manifest import GRAPH_FILES, MANIFEST_FILE, WEIGHTS_FILE, Manifest
from internvl_rt.errors import BundleError, CheckpointError
from internvl_rt.export.graphs.graph import COMPUTE_TYPE
from internvl_rt.export.synthetic import write_synthetic


def write(folder: Path, manifest: Manifest, *names: str) -> Path:
    return write_synthetic(manifest, folder / "bundle", tokenizer=None, progress=False, dialect=names)


def graphs_of(folder: Path, graphs: GraphSet) -> list[onnx.ModelProto]:
    return [onnx.load(folder / file, load_external_data=False) for file in graphs.files]


@pytest.mark.parametrize("weights", PRECISIONS)
@pytest.mark.parametrize("name", ["300m", "6b", "qwen3", "tied"])
def test_every_dialect_is_valid_and_points_into_the_weights(tmp_path: Path, name: str, weights: str) -> None:
    folder = write(tmp_path, variant(name, weights), *GRAPH_SETS)
    places = open_bundle(folder).places
    ranges = {(place.begin, place.end) for place in places.values()}
    for graphs in GRAPH_SETS.values():
        for file, model in zip(graphs.files, graphs_of(folder, graphs), strict=True):
            onnx.checker.check_model(str(folder / file), full_check=True)
            for tensor in model.graph.initializer:
                if tensor.data_location != TensorProto.EXTERNAL:
                    assert tensor.ByteSize() < 200, f"{tensor.name} is a weight that was copied into {file}"
                    continue
                where = {entry.key: entry.value for entry in tensor.external_data}
                assert where["location"] == WEIGHTS_FILE
                begin = int(where["offset"])
                assert (begin, begin + int(where["length"])) in ranges
            floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
            ports = {value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output]}
            assert ports & floats == {COMPUTE_TYPE[graphs.compute]}, file


def test_only_the_sets_asked_for_are_written(tmp_path: Path) -> None:
    folder = write(tmp_path, tiny_manifest("fp32", None), "ort", "trt10-fp16", "ort")
    assert {path.name for path in folder.glob("*.onnx")} == {
        *(f"{part}.ort.onnx" for part in GRAPH_NAMES),
        *(f"{part}.trt10-fp16.onnx" for part in GRAPH_NAMES),
    }
    manifest = open_bundle(folder).manifest
    assert manifest.graph_sets == (GRAPH_SETS["ort"], GRAPH_SETS["trt10-fp16"])
    (folder / "llm.ort.onnx").unlink()
    with pytest.raises(BundleError, match=r"llm\.ort\.onnx"):
        open_bundle(folder)
    document = json.loads((folder / MANIFEST_FILE).read_text())
    del document["files"]["llm.ort.onnx"]
    (folder / MANIFEST_FILE).write_text(json.dumps(document))
    assert open_bundle(folder).manifest.graph_sets == (GRAPH_SETS["trt10-fp16"],)


def test_the_default_keeps_its_file_names() -> None:
    assert GRAPH_SETS["onnx24"].files == GRAPH_FILES == ("vit.onnx", "projector.onnx", "llm.onnx")
    assert len(set(ALL_GRAPH_FILES)) == (len(GRAPH_NAMES) + 1) * len(GRAPH_SETS)


@pytest.mark.parametrize("name", ["onnx25", "ort-bf16", "", "onnx24-fp32"])
def test_a_dialect_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"is not one of onnx24, onnx24-fp16"):
        write(tmp_path, tiny_manifest("fp32", None), name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weights", PRECISIONS)
@pytest.mark.parametrize("name", ["300m", "6b", "qwen3"])
def test_trt10_stays_within_what_tensorrt_10_3_documents(tmp_path: Path, name: str, weights: str) -> None:
    names = [name for name, graphs in GRAPH_SETS.items() if graphs.dialect == "trt10"]
    folder = write(tmp_path, variant(name, weights), *names)
    for chosen in names:
        for model in graphs_of(folder, GRAPH_SETS[chosen]):
            blocked = any(tensor.data_type == TensorProto.INT4 for tensor in model.graph.initializer)
            assert [(entry.domain, entry.version) for entry in model.opset_import] == [
                ("", 21 if blocked else 20)
            ]
            constants = {tensor.name for tensor in model.graph.initializer}
            assert {node.op_type for node in model.graph.node} <= TENSORRT_10_3_OPERATORS
            for node in model.graph.node:
                if node.op_type in AXES_INPUT and len(node.input) > AXES_INPUT[node.op_type]:
                    assert node.input[AXES_INPUT[node.op_type]] in constants, node.name
                if node.op_type == "ScatterND":
                    assert not node.attribute
                if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
                    # The zero point must be zero, and is when it is left out.
                    assert list(node.input[2:]) in ([], ["zero.int8"])


def test_the_operator_list_would_catch_a_younger_operator(tmp_path: Path) -> None:
    folder = write(tmp_path, variant("6b"), "onnx24")
    used = {node.op_type for model in graphs_of(folder, GRAPH_SETS["onnx24"]) for node in model.graph.node}
    assert used - TENSORRT_10_3_OPERATORS == {
        "Attention",
        "RMSNormalization",
        "RotaryEmbedding",
        "TensorScatter",
    }


@pytest.mark.parametrize(("weights", "bits"), [("int4", 4), ("int8", 8)])
def test_ort_keeps_integers(tmp_path: Path, weights: str, bits: int) -> None:
    """Every matrix of integers is multiplied as such; nothing makes floats of it."""
    folder = write(tmp_path, variant("300m", weights), "ort")
    llm = onnx.load(folder / "llm.ort.onnx", load_external_data=False)
    kinds = [node.op_type for node in llm.graph.node]
    assert "DequantizeLinear" not in kinds
    assert "Gemm" not in kinds
    products = [node for node in llm.graph.node if node.op_type == "MatMulNBits"]
    layers = variant("300m").llm.layers
    assert len(products) == 4 * layers + 1
    for node in products:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        assert attributes["bits"] == bits
        assert attributes["accuracy_level"] == 4
