"""Every dialect computes what the native engine does: pictures, prompts in chunks, decode, two sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from bundle.tiny import tiny_manifest
from graphs.test_graphs import variant
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.graph_sets import GRAPH_SETS
from internvl_rt.bundle.manifest import LanguageModel, Manifest
from internvl_rt.engines.native import NativeEngine
from internvl_rt.engines.onnxruntime import OnnxEngine
from internvl_rt.engines.onnxruntime.decoder import OnnxDecoder
from internvl_rt.engines.onnxruntime.vision import OnnxVision
from internvl_rt.errors import BundleError
from internvl_rt.export.calibration import calibrated
from internvl_rt.export.family import FAMILY
from internvl_rt.export.synthetic import RandomSource, write_synthetic
from parity.compare import rounding

Floats = npt.NDArray[np.float32]

CACHE_TOKENS = 600
PROMPTS = (150, 41)
"""Tokens of two sequences; the longer one is more than a chunk."""
CHUNK = 48
STEPS = 6

EXACT = {name: graphs for name, graphs in GRAPH_SETS.items() if graphs.compute == "fp32"}
HALF = {name: graphs for name, graphs in GRAPH_SETS.items() if graphs.compute == "fp16"}


def shrunk(llm: LanguageModel) -> LanguageModel:
    """The facts of a model of the family with everything small but what makes it that architecture."""
    rope, experts = llm.rope, llm.experts
    if rope.long_factor:
        # Within the prompts' lengths, so that they take both sets of factors.
        short, long = rope.short_factor[:8], rope.long_factor[:8]
        rope = dataclasses.replace(
            rope, short_factor=short, long_factor=long, original_max_position_embeddings=100
        )
    if experts is not None:
        experts = dataclasses.replace(experts, count=12, chosen=3)
    return dataclasses.replace(
        llm,
        rope=rope,
        experts=experts,
        hidden_size=96,
        layers=2,
        heads=2 * (llm.heads // llm.kv_heads),
        kv_heads=2,
        head_dim=16,
        intermediate_size=160,
        vocab_size=331,
    )


LANGUAGE_MODELS = {
    "-".join(
        [
            llm.architecture,
            f"group{llm.heads // llm.kv_heads}",
            llm.rope.scaling,
            *(["tied"] if llm.tied_embeddings else []),
        ]
    ): llm
    for llm in (shrunk(model.llm) for model in FAMILY.values())
}
"""Every kind of language model of the family's table, and the layouts that share its rows."""
LANGUAGE_MODELS["qwen3-layout"] = dataclasses.replace(
    LANGUAGE_MODELS["qwen2-group7-none"], qkv_bias=False, qk_norm=True, head_dim=40
)


def manifest_of(llm: LanguageModel, weights: str = "fp32") -> Manifest:
    return dataclasses.replace(tiny_manifest(weights, None if weights == "int4" else weights), llm=llm)


def write(folder: Path, manifest: Manifest, names: object) -> Bundle:
    chosen = tuple(names)  # type: ignore[arg-type]
    return open_bundle(
        write_synthetic(manifest, folder / "bundle", tokenizer=None, progress=False, dialect=chosen)
    )


def answers(
    engine: NativeEngine | OnnxDecoder, hidden: int, step: Callable[[list[int], Floats], Floats]
) -> Floats:
    """The logits of two prompts and of steps that decode both."""
    random = np.random.default_rng(0)
    prompts = [random.standard_normal((n, hidden), dtype=np.float32) for n in PROMPTS]
    sequences = [engine.new_sequence() for _ in prompts]
    logits = [
        engine.prefill(sequence, prompt, True) for sequence, prompt in zip(sequences, prompts, strict=True)
    ]
    logits += [step(sequences, random.integers(8, 300, 2)) for _ in range(STEPS)]
    return np.concatenate(logits)


def native_answers(bundle: Bundle) -> Floats:
    engine = NativeEngine(bundle, cache_tokens=CACHE_TOKENS, threads=1)
    return answers(engine, bundle.manifest.llm.hidden_size, engine.decode)


def onnx_answers(bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch) -> Floats:
    monkeypatch.setattr("internvl_rt.engines.onnxruntime.decoder.MAX_CHUNK", CHUNK)
    engine = NativeEngine(bundle, cache_tokens=1, threads=1)  # for its embedding table
    decoder = OnnxDecoder(bundle, CACHE_TOKENS, 1, graphs=GRAPH_SETS[name])

    def step(sequences: list[int], tokens: Floats) -> Floats:
        return decoder.decode(sequences, engine.embed(tokens, None))

    return answers(decoder, bundle.manifest.llm.hidden_size, step)


def relative(found: Floats, wanted: Floats) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def least_cosine(found: Floats, wanted: Floats, of: float = 1.0) -> float:
    """The cosine that this part of the rows reaches."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(wanted, axis=-1)
    return float(np.quantile((found * wanted).sum(-1) / lengths, 1 - of))


@pytest.mark.parametrize("name", list(LANGUAGE_MODELS))
def test_language_models(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write(tmp_path, manifest_of(LANGUAGE_MODELS[name]), [*EXACT, *HALF])
    wanted = native_answers(bundle)
    for graphs in EXACT:
        assert relative(onnx_answers(bundle, graphs, monkeypatch), wanted) < 1e-4, graphs
    # Of experts that a router likes equally well, rounding may choose another one.
    most = 1.0 if bundle.manifest.llm.experts is None else 0.95
    for graphs in HALF:
        assert least_cosine(onnx_answers(bundle, graphs, monkeypatch), wanted, most) > 0.99999, graphs


@pytest.mark.parametrize("weights", ["fp16", "bf16"])
def test_stored_floats(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write(tmp_path, manifest_of(LANGUAGE_MODELS["qwen2-group7-none"], weights), EXACT)
    native = native_answers(bundle)
    exact = onnx_answers(bundle, "onnx24", monkeypatch)
    for graphs in EXACT:
        assert relative(onnx_answers(bundle, graphs, monkeypatch), exact) < 1e-4, graphs
    if bounds := rounding("native", weights):
        assert least_cosine(native, exact) > bounds.cosine
    else:
        assert relative(native, exact) < 1e-4


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_integers(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs of one bundle differ in how they round activations, and in nothing else."""
    bundle = write(tmp_path, manifest_of(LANGUAGE_MODELS["qwen2-group7-none"], weights), EXACT)
    exact = onnx_answers(bundle, "onnx24", monkeypatch)
    assert relative(onnx_answers(bundle, "trt10", monkeypatch), exact) < 1e-4
    rounded = onnx_answers(bundle, "ort", monkeypatch)
    assert least_cosine(rounded, exact) > 0.999
    assert least_cosine(rounded, native_answers(bundle)) > 0.999
    _round_no_activations(bundle.folder / "llm.ort.onnx")
    assert relative(onnx_answers(bundle, "ort", monkeypatch), exact) < 1e-4


@pytest.mark.parametrize("name", ["300m", "6b"])
@pytest.mark.parametrize("weights", ["fp32", "bf16", "int8"])
def test_vision(tmp_path: Path, name: str, weights: str) -> None:
    bundle = write(tmp_path, variant(name, weights), [*EXACT, *HALF])
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 56), dtype=np.float32)
    features = {
        graphs: OnnxVision(bundle, 1, graphs=GRAPH_SETS[graphs]).encode_tiles(pixels).features
        for graphs in (*EXACT, *HALF)
    }
    exact = features["onnx24"]
    assert relative(features["trt10"], exact) < 1e-4
    native = NativeEngine(bundle, cache_tokens=1, threads=1).encode_tiles(pixels).features
    if weights == "int8":
        assert least_cosine(features["ort"], exact) > 0.999
        assert least_cosine(native, exact) > 0.999
    else:
        assert relative(features["ort"], exact) < 1e-4
        assert least_cosine(native, exact) > 0.9999
    for graphs in HALF:
        assert least_cosine(features[graphs], exact) > (0.999 if weights == "int8" else 0.9999), graphs


@pytest.mark.parametrize("name", ["300m", "6b"])
def test_inputs_of_the_towers_matrices_are_int8_where_their_scales_are_known(
    tmp_path: Path, name: str
) -> None:
    """In the graphs for TensorRT, which is to multiply integers; the others round token by token, or not."""
    manifest = variant(name, "int8")
    pixels = np.random.default_rng(0).standard_normal((2, 3, 56, 56), dtype=np.float32)
    _, manifest, found = calibrated(RandomSource(0), manifest, pixels, least_cosine=0.99)
    matrices = 4 * manifest.vision.layers
    assert len(found.input_scales) == len(manifest.precision.input_scales) == matrices
    plain = dataclasses.replace(manifest, precision=dataclasses.replace(manifest.precision, input_scales={}))
    features = {}
    for scaled, written in ((True, manifest), (False, plain)):
        bundle = write(tmp_path / str(scaled), written, ["onnx24", *HALF])
        for graphs in ("onnx24", "onnx24-fp16", "trt10-fp16"):
            model = onnx.load(bundle.folder / GRAPH_SETS[graphs].file("vit"), load_external_data=False)
            quantised = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
            assert quantised == (matrices if scaled and graphs != "onnx24" else 0)
            vision = OnnxVision(bundle, 1, graphs=GRAPH_SETS[graphs])
            features[graphs, scaled] = vision.encode_tiles(pixels).features
    exact = features["onnx24", False]
    assert (features["onnx24", True] == exact).all()
    for graphs in ("onnx24-fp16", "trt10-fp16"):
        rounded, plain_cosine = (least_cosine(features[graphs, scaled], exact) for scaled in (True, False))
        assert 0.999 < rounded < plain_cosine


def test_how_a_prompt_is_cut_does_not_matter_to_ort(tmp_path: Path) -> None:
    """Rounded activations too: each token's are rounded by itself.

    ONNX Runtime's sums differ in their last bits with the number of rows, and so can turn a rounding whose
    value stands between two integers: then that token, and those that see it, differ by a step.
    """
    llm = LANGUAGE_MODELS["qwen2-group7-none"]
    bundle = write(tmp_path, manifest_of(llm, "int4"), ["ort"])
    decoder = OnnxDecoder(bundle, CACHE_TOKENS, 1)
    embeddings = np.random.default_rng(0).standard_normal((90, llm.hidden_size), dtype=np.float32)
    whole = decoder.prefill(decoder.new_sequence(), embeddings, all_logits=True)
    sequence = decoder.new_sequence()
    parts = [decoder.prefill(sequence, embeddings[:61], all_logits=True)]
    parts += [decoder.prefill(sequence, embeddings[i : i + 1]) for i in range(61, 90)]
    cut = np.concatenate(parts)
    assert np.median(np.abs(cut - whole)[61:].max(axis=1)) < 1e-5 * np.abs(whole).max()
    assert least_cosine(cut, whole) > 0.9999


def test_the_engine_takes_the_dialect_that_suits_it(tmp_path: Path) -> None:
    manifest = tiny_manifest("fp32", None)
    both = write(tmp_path / "both", manifest, ["onnx24", "ort", "ort-fp16"])
    assert OnnxEngine(both, cache_tokens=10).graphs == GRAPH_SETS["ort"]
    other = write(tmp_path / "other", manifest, ["trt10"])
    assert OnnxEngine(other, cache_tokens=10).graphs == GRAPH_SETS["trt10"]
    none = write(tmp_path / "none", manifest, ["onnx24-bf16"])
    with pytest.raises(
        BundleError, match=r"has only those of onnx24-bf16. Export it again with --dialect ort"
    ):
        OnnxEngine(none, cache_tokens=10)


def _round_no_activations(path: Path) -> None:
    """Lets MatMulNBits compute in fp32, which is exact where it rounds activations otherwise."""
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 1
    path.write_bytes(model.SerializeToString())
