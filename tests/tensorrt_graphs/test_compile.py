"""TensorRT takes the graphs whole: a sample of the table that ``compile_graphs.py`` prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.graph_sets import GRAPH_SETS
from internvl_rt.export.graphs import write_graphs
from tensorrt_graphs.compile_graphs import Case, compile_graph, tool, write_bundle

pytestmark = [
    pytest.mark.skipif(
        tool() is None, reason="no compile check here: INTERNVL_RT_COMPILE_CHECK does not name one"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None,
        reason="the compiler is not installed: pip install onnxruntime-ep-nv-tensorrt-rtx-cu13",
    ),
]

SAMPLE = [
    (Case("InternVL2_5-1B", "vit", "bf16", "onnx24-bf16"), "sm86"),
    (Case("InternVL2_5-1B", "projector", "fp16", "onnx24-fp16"), "sm120"),
    (Case("InternVL2_5-1B", "llm", "int4", "onnx24-fp16"), "sm89"),
    (Case("InternVL2_5-1B", "llm", "int4", "trt10-fp16"), "sm86"),
]


@pytest.mark.parametrize(
    ("case", "architecture"), SAMPLE, ids=lambda value: getattr(value, "part", None) or str(value)
)
def test_a_graph_becomes_one_engine(tmp_path: Path, case: Case, architecture: str) -> None:
    whole, said = compile_graph(write_bundle(tmp_path, case, 2), case, architecture)
    assert whole, said


def test_the_check_can_fail(tmp_path: Path) -> None:
    """TensorRT refuses a cache whose extent it cannot see, which is why ``capacity`` exists."""
    case = Case("InternVL2_5-1B", "llm", "fp16", "onnx24-fp16")
    folder = write_bundle(tmp_path, case, 1)
    bundle = open_bundle(folder)
    write_graphs(folder, bundle.manifest, bundle.places, [GRAPH_SETS[case.graphs]])
    whole, said = compile_graph(folder, case, "sm89")
    assert not whole
    assert "KV cache tensor must have a static sequence length" in said
