"""OpenVINO itself reads a bundle's graphs, and computes what the native engine computes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bundle.tiny import tiny_manifest
from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.graph_ports import (
    COS,
    EMBEDDINGS,
    HIDDEN,
    LOGITS,
    MASK,
    PIXEL_VALUES,
    ROWS,
    SHUFFLED,
    SIN,
    WRITE_INDICES,
    cache_ports,
)
from internvl_rt.bundle.graph_sets import GRAPH_SETS, GraphName
from internvl_rt.engines.native import NativeEngine
from internvl_rt.engines.rotary import rotary_tables
from internvl_rt.errors import BundleError, DeviceError
from internvl_rt.export.synthetic import write_synthetic
from internvl_rt.openvino import BEAMS, keep_cache, tensor_scatter

Floats = npt.NDArray[np.float32]

CAPACITY = 128


@pytest.fixture(scope="module")
def openvino() -> Any:
    return pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("openvino") / "bundle"
    manifest = tiny_manifest("fp32", None)
    return open_bundle(
        write_synthetic(manifest, out, tokenizer=None, progress=False, dialect=["onnx24", "trt10"])
    )


def read(openvino: Any, bundle: Bundle, dialect: str, part: GraphName) -> Any:
    core = openvino.Core()
    if dialect == "onnx24":
        core.add_extension(tensor_scatter())
    return core.read_model(bundle.folder / GRAPH_SETS[dialect].file(part))


def compiled(openvino: Any, model: Any) -> Any:
    # By itself it rounds activations to bfloat16 where the CPU has that, and caches that it keeps to int8.
    return openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    )


def close(found: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("dialect", ["onnx24", "trt10"])
def test_pictures(openvino: Any, bundle: Bundle, dialect: str) -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 3, 56, 56), dtype=np.float32)
    hidden = compiled(openvino, read(openvino, bundle, dialect, "vit"))({PIXEL_VALUES: pixels})[HIDDEN]
    projector = bundle.manifest.projector
    shuffled = _core.pixel_shuffle(
        np.ascontiguousarray(hidden),
        block=projector.downsample,
        version=projector.pixel_shuffle,
        team=_core.ThreadTeam(1),
    )
    features = compiled(openvino, read(openvino, bundle, dialect, "projector"))({SHUFFLED: shuffled})[0]
    close(features, NativeEngine(bundle, cache_tokens=1, threads=1).encode_tiles(pixels).features)


@pytest.mark.parametrize("dialect", ["onnx24", "trt10"])
def test_a_prompt_and_a_decode_step(openvino: Any, bundle: Bundle, dialect: str) -> None:
    """Two sequences of different lengths in one batch, with the caches that the graph gave back."""
    llm = bundle.manifest.llm
    native = NativeEngine(bundle, cache_tokens=2 * CAPACITY, threads=1)
    decoder = compiled(openvino, read(openvino, bundle, dialect, "llm"))
    ports = [port for layer in range(llm.layers) for port in cache_ports(layer)]
    caches = {name: np.zeros((2, llm.kv_heads, CAPACITY, llm.head_dim), np.float32) for name, _ in ports}

    def step(embeddings: Floats, begins: npt.NDArray[np.int64], attended: int) -> Floats:
        batch, n, _ = embeddings.shape
        tables = [rotary_tables(llm, int(begin), int(begin) + n, int(begin) + n) for begin in begins]
        positions = begins[:, None] + np.arange(n)
        found = decoder(
            {
                EMBEDDINGS: embeddings,
                COS: np.concatenate([cos for cos, _ in tables]),
                SIN: np.concatenate([sin for _, sin in tables]),
                MASK: (np.arange(attended) <= positions[:, :, None])[:, None],
                WRITE_INDICES: begins,
                ROWS: np.arange(batch * n),
                **caches,
            }
        )
        for port_in, port_out in ports:
            caches[port_in] = found[port_out].copy()
        return np.asarray(found[LOGITS])

    prompt = np.random.default_rng(1).standard_normal((2, 50, llm.hidden_size), dtype=np.float32)
    lengths = (50, 33)
    sequences = [native.new_sequence() for _ in lengths]
    wanted = [
        native.prefill(sequence, embeddings[:n], True)
        for sequence, embeddings, n in zip(sequences, prompt, lengths, strict=True)
    ]
    logits = step(prompt, np.zeros(2, np.int64), 64).reshape(2, 50, -1)
    for found, logits_wanted, n in zip(logits, wanted, lengths, strict=True):
        close(found[:n], logits_wanted)
    tokens = np.array([5, 6])
    decoded = step(native.embed(tokens, None)[:, None], np.array(lengths, np.int64), CAPACITY)
    close(decoded, native.decode(sequences, tokens))


def test_a_cache_that_openvino_keeps(openvino: Any, bundle: Bundle) -> None:
    """Two sequences of different lengths, the shorter one padded; for the last step they change places."""
    llm = bundle.manifest.llm
    native = NativeEngine(bundle, cache_tokens=2 * CAPACITY, threads=1)
    model = read(openvino, bundle, "onnx24", "llm")
    keep_cache(model)
    assert {port.get_any_name() for port in model.inputs} == {EMBEDDINGS, COS, SIN, MASK, ROWS, BEAMS}
    assert [port.get_any_name() for port in model.outputs] == [LOGITS]
    request = compiled(openvino, model).create_infer_request()
    lengths = np.array([50, 33])

    def step(embeddings: Floats, positions: npt.NDArray[np.int64], mask: Any, beams: list[int]) -> Floats:
        tables = [rotary_tables(llm, int(at[0]), int(at[-1]) + 1, int(at[-1]) + 1) for at in positions]
        inputs = {
            EMBEDDINGS: embeddings,
            COS: np.concatenate([cos for cos, _ in tables]),
            SIN: np.concatenate([sin for _, sin in tables]),
            MASK: mask[:, None],
            ROWS: np.arange(positions.size),
            BEAMS: np.array(beams, np.int32),
        }
        return np.array(request.infer(inputs)[LOGITS])

    prompt = np.random.default_rng(2).standard_normal((2, 50, llm.hidden_size), dtype=np.float32)
    causal = np.tril(np.ones((50, 50), bool))
    for _ in range(2):  # the second time from an emptied cache
        request.reset_state()
        sequences = [native.new_sequence() for _ in lengths]
        logits = step(prompt, np.tile(np.arange(50), (2, 1)), np.stack([causal, causal]), [0, 1])
        for found, sequence, embeddings, n in zip(
            logits.reshape(2, 50, -1), sequences, prompt, lengths, strict=True
        ):
            close(found[:n], native.prefill(sequence, embeddings[:n], True))
        for order, new in (([0, 1], 1), ([1, 0], 2)):
            tokens = np.array([4 + new, 40 + new])
            columns = np.arange(50 + new)
            seen = (columns < lengths[order][:, None]) | (columns >= 50)
            decoded = step(
                native.embed(tokens, None)[:, None],
                (lengths[order] + new - 1)[:, None],
                seen[:, None],
                order,
            )
            close(decoded, native.decode([sequences[i] for i in order], tokens))
        for sequence in sequences:
            native.drop(sequence)


def test_a_graph_without_a_cache_to_keep(openvino: Any, bundle: Bundle) -> None:
    cases: tuple[tuple[str, GraphName], ...] = (("onnx24", "vit"), ("trt10", "llm"))
    for dialect, part in cases:
        with pytest.raises(BundleError, match=r"expected llm\.onnx of the dialect onnx24"):
            keep_cache(read(openvino, bundle, dialect, part))


def test_without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    for name in [name for name in sys.modules if name.startswith("openvino.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(DeviceError, match="pip install openvino"):
        tensor_scatter()
