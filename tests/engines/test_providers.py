"""Execution providers of ONNX Runtime: found, chosen, and missing in words that help."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

import internvl_rt as ivl
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.graph_sets import GRAPH_SETS
from internvl_rt.engines.onnxruntime import OnnxEngine, providers
from internvl_rt.engines.onnxruntime.cache import GRANULARITY, SequenceCache
from internvl_rt.engines.onnxruntime.decoder import OnnxDecoder
from internvl_rt.engines.onnxruntime.providers import (
    PROVIDERS,
    choose_graph_set,
    choose_providers,
    find_providers,
)
from internvl_rt.errors import BundleError, DeviceError

OPENVINO = importlib.util.find_spec("onnxruntime_ep_openvino") is not None
ON_A_CPU_BUILD = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()


def test_the_cpu_is_always_there() -> None:
    found = {finding.provider.key: finding for finding in find_providers()}
    assert set(found) == {"cpu", "cuda", "tensorrt", "tensorrt-rtx", "openvino"}
    assert found["cpu"].usable
    assert all(finding.usable or finding.reason for finding in found.values())
    for names in (None, [], ["cpu"], "cpu", ["CPUExecutionProvider", "cpu"]):
        assert choose_providers(names) == (PROVIDERS["cpu"],)


def test_an_unknown_provider() -> None:
    with pytest.raises(DeviceError, match="'gpu' is none of cpu, cuda, tensorrt, tensorrt-rtx, openvino"):
        choose_providers(["cpu", "gpu"])


@pytest.mark.skipif(not ON_A_CPU_BUILD, reason="this build of ONNX Runtime has CUDA")
@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("cuda", r"pip install 'internvl-rt\[gpu\]'"),
        ("tensorrt", "pip install tensorrt-cu12"),
        ("TensorrtExecutionProvider", "pip install tensorrt-cu12"),
    ],
)
def test_a_missing_provider_says_what_to_install(tiny_bundle: Path, name: str, install: str) -> None:
    with pytest.raises(DeviceError, match=install):
        ivl.load(tiny_bundle, engine="onnxruntime", providers=[name])


def test_providers_belong_to_one_engine(tiny_bundle: Path) -> None:
    with pytest.raises(DeviceError, match="use engine='onnxruntime'"):
        ivl.load(tiny_bundle, engine="native", providers=["cpu"])
    with ivl.load(tiny_bundle, engine="onnxruntime", providers=["cpu"]) as model:
        assert model.chat("Hello", max_new_tokens=2).token_ids


def _plugin(monkeypatch: pytest.MonkeyPatch, devices: list[Any], fails: bool = False) -> list[str]:
    """Stands in for an installed plug-in package; returns the libraries that are registered."""
    package = ModuleType("onnxruntime_ep_openvino")
    package.__spec__ = importlib.util.spec_from_loader("onnxruntime_ep_openvino", None)
    package.get_ep_name = lambda: "OpenVINOExecutionProvider"  # type: ignore[attr-defined]
    package.get_library_path = lambda: "/plugin.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", package)
    monkeypatch.setattr(providers, "_registered", {})
    registered: list[str] = []

    def register(name: str, path: str) -> None:
        if fails:
            raise RuntimeError("libfoo.so: cannot open shared object file\nand more")
        registered.append(path)

    monkeypatch.setattr(onnxruntime, "register_execution_provider_library", register)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: devices if registered else [])
    return registered


def test_a_plugin_registers_itself_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = _plugin(monkeypatch, [SimpleNamespace(ep_name="OpenVINOExecutionProvider")])
    for _ in range(2):
        chosen = choose_providers(["openvino"])
        assert [provider.key for provider in chosen] == ["openvino", "cpu"]
    assert registered == ["/plugin.so"]


def test_a_plugin_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugin(monkeypatch, [])
    with pytest.raises(DeviceError, match=r"is installed and finds no device.*Intel's CPUs, GPUs and NPUs"):
        choose_providers(["openvino"])


def test_a_plugin_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugin(monkeypatch, [], fails=True)
    with pytest.raises(DeviceError, match=r"does not load \(libfoo.so: cannot open shared object file\)"):
        choose_providers(["openvino"])


def test_a_provider_that_is_built_in_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package onnxruntime-openvino, which has no plug-in: sessions on it computed on the CPU provider."""
    asked: list[Any] = []

    def session(model: str, options: Any, providers: Any = None) -> None:
        asked.append(providers)

    names = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "get_ep_devices", list)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    providers.open_session("vit.onnx", onnxruntime.SessionOptions(), choose_providers(["openvino"]))
    assert asked == [names]


def test_an_old_onnx_runtime_takes_the_dialects_that_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """1.24 and older have no TensorScatter."""

    def bundle(*names: str) -> Any:
        manifest = SimpleNamespace(graph_sets=[GRAPH_SETS[name] for name in names])
        return SimpleNamespace(folder=Path("out"), manifest=manifest)

    cpu = choose_providers(None)
    for release, language_model, expected in (
        ("1.24.4", True, "trt10"),
        ("1.24.4", False, "onnx24"),
        ("1.25.0", True, "onnx24"),
        ("2.0.0", True, "onnx24"),
    ):
        monkeypatch.setattr(onnxruntime, "__version__", release)
        chosen = choose_graph_set(bundle("onnx24", "trt10"), cpu, language_model=language_model)
        assert chosen.name == expected
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(BundleError, match=r"1\.23\.2 runs.*--dialect ort, or update onnxruntime to 1\.25"):
        choose_graph_set(bundle("onnx24"), cpu)


@pytest.mark.skipif(not OPENVINO, reason="onnxruntime-ep-openvino is not installed")
def test_the_openvino_plugin(tiny_bundle: Path) -> None:
    """Holds the plug-in against the CPU provider, where it finds a device it computes on: Intel's alone."""
    finding = next(found for found in find_providers() if found.provider.key == "openvino")
    if not finding.usable:
        assert "finds no device" in finding.reason
        pytest.skip(finding.reason)
    bundle = open_bundle(tiny_bundle)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 56, 56), dtype=np.float32)
    prompt = np.random.default_rng(1).standard_normal((9, 64), dtype=np.float32)
    found = []
    for names in (["cpu"], ["openvino"]):
        engine = OnnxEngine(bundle, cache_tokens=64, providers=names)
        sequence = engine.new_sequence()
        found.append((engine.encode_tiles(pixels).features, engine.prefill(sequence, prompt)))
    for mine, wanted in zip(found[1], found[0], strict=True):
        # It rounds to bfloat16 on processors that multiply those.
        cosines = (mine * wanted).sum(-1) / np.linalg.norm(mine, axis=-1) / np.linalg.norm(wanted, axis=-1)
        assert cosines.min() > 0.9999


def test_a_cache_in_a_devices_memory(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of CUDA, with values of ONNX Runtime that happen to lie on the CPU."""
    made: list[Any] = []
    wrap = onnxruntime.OrtValue.ortvalue_from_numpy

    def on_the_cpu(array: Any, device: str, number: int) -> Any:
        assert device == "cuda"
        made.append(wrap(array.copy(), "cpu", number))
        return made[-1]

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", on_the_cpu)
    prompt = np.random.default_rng(1).standard_normal((GRANULARITY + 40, 64), dtype=np.float32)
    logits = []
    for memory in ("cpu", "cuda"):
        engine = OnnxEngine(open_bundle(tiny_bundle), cache_tokens=4 * GRANULARITY, threads=1)
        assert engine._decoder is not None
        engine._decoder._memory = memory
        sequence = engine.new_sequence()
        engine.prefill(sequence, prompt[:200])
        fork = engine.fork(sequence)
        engine.prefill(sequence, prompt[200:])  # outgrows its buffers
        engine.prefill(fork, prompt[3:9])
        logits.append(engine.decode([sequence, fork], [5, 6]))
    assert len(made) == 3 * 4
    np.testing.assert_array_equal(logits[0], logits[1])


def test_a_copy_of_an_empty_cache_is_its_own(tiny_bundle: Path) -> None:
    cache = SequenceCache(open_bundle(tiny_bundle).manifest.llm)
    cache.make_room(5)
    copy = cache.copy(cache.length)
    assert copy.capacity == 0
    copy.make_room(5)
    assert not any(a is b for a, b in zip(copy.buffers, cache.buffers, strict=True))


def test_a_provider_that_wants_a_fixed_cache(tiny_bundle: Path) -> None:
    """As TensorRT does: the graph is loaded for one extent, and every sequence has it from the start."""
    fixed = dataclasses.replace(PROVIDERS["cpu"], fixed_cache=True)
    bundle = open_bundle(tiny_bundle)
    prompt = np.random.default_rng(1).standard_normal((40, 64), dtype=np.float32)
    logits = []
    for provider in (PROVIDERS["cpu"], fixed):
        decoder = OnnxDecoder(bundle, 300, 1, providers=[provider])
        sequence = decoder.new_sequence()
        decoder.prefill(sequence, prompt)
        fork = decoder.fork(sequence)
        logits.append([decoder.prefill(each, prompt[:3]) for each in (sequence, fork)])
    assert decoder._sequences[fork].capacity == 320
    for found, wanted in zip(logits[1], logits[0], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    shapes = {port.shape[2] for port in decoder._session._session.get_inputs() if "cache" in port.name}
    assert shapes == {320}
