"""ONNX Runtime's execution providers: which this machine has, and which graphs suit them."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnxruntime

from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.graph_sets import GRAPH_SETS, GraphSet
from internvl_rt.engines.versions import release_of
from internvl_rt.errors import BundleError, DeviceError


@dataclass(frozen=True)
class Provider:
    """An execution provider as ``providers=`` names it."""

    key: str
    name: str
    """ONNX Runtime's own name, which ``providers=`` takes too."""
    memory: Literal["cpu", "cuda"]
    """Where the KV cache lies, so that it is not copied in every step."""
    graph_sets: tuple[str, ...]
    """Those that it runs, best first."""
    plugins: tuple[str, ...]
    """Packages that bring it as a plug-in; none if only a build of ONNX Runtime has it."""
    install: str
    """What to do where it is missing."""
    fixed_cache: bool = False
    """It wants the extent of the KV cache when the graph is loaded: TensorRT does."""


_SCATTER_RELEASE = (1, 25)
"""The first ONNX Runtime with TensorScatter, by which the language models of ``onnx24`` update the cache."""

_GPU_BUILD = "pip uninstall onnxruntime, then pip install 'internvl-rt[gpu]'; it needs CUDA 12 and cuDNN 9"

PROVIDERS: dict[str, Provider] = {
    provider.key: provider
    for provider in (
        Provider(
            "cpu", "CPUExecutionProvider", "cpu", ("ort", "onnx24", "trt10"), (), "pip install onnxruntime"
        ),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "cuda",
            ("ort-fp16", "ort", "onnx24-fp16", "onnx24"),
            (),
            _GPU_BUILD,
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            "cuda",
            ("onnx24-fp16", "trt10-fp16", "onnx24", "trt10"),
            (),
            f"{_GPU_BUILD}, and TensorRT 10: pip install tensorrt-cu12 (JetPack has its own)",
            fixed_cache=True,
        ),
        Provider(
            "tensorrt-rtx",
            "NvTensorRTRTXExecutionProvider",
            "cuda",
            ("onnx24-fp16", "trt10-fp16"),
            ("onnxruntime_ep_nv_tensorrt_rtx",),
            "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13; it needs an NVIDIA GPU from Ampere on",
            fixed_cache=True,
        ),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            "cpu",
            ("onnx24", "trt10"),
            ("onnxruntime_ep_openvino",),
            "pip install onnxruntime-ep-openvino for Intel's CPUs, GPUs and NPUs; for other CPUs pip "
            "uninstall onnxruntime, then pip install onnxruntime-openvino",
        ),
    )
}


@dataclass(frozen=True)
class ProviderFinding:
    """Whether a provider can be used here."""

    provider: Provider
    usable: bool
    reason: str
    """Why not; empty if it can."""


_registered: dict[str, str] = {}
"""Plug-in packages that were loaded, and what they said if they failed."""
_registering = threading.Lock()


def find_providers() -> tuple[ProviderFinding, ...]:
    """Every provider that this package knows, and whether it can be used here. Loads plug-ins."""
    return tuple(_find(provider) for provider in PROVIDERS.values())


def choose_providers(names: Sequence[str] | None) -> tuple[Provider, ...]:
    """The providers of a ``providers=`` argument.

    Args:
        names: ``cpu``, ``cuda``, ``tensorrt``, ``tensorrt-rtx``, ``openvino``, or ONNX Runtime's own names.
            The first is preferred, and what one does not take goes to the next. None is ``cpu``, and the CPU
            always comes last.

    Raises:
        DeviceError: if there is no such provider, or it cannot be used here; the message says what to
            install.
    """
    if isinstance(names, str):
        names = (names,)
    if names is not None and not isinstance(names, Sequence):
        raise DeviceError(f"providers={names!r}: a list of names is expected, such as ['cuda', 'cpu'].")
    chosen = []
    for name in names or ("cpu",):
        provider = next((p for p in PROVIDERS.values() if name in (p.key, p.name)), None)
        if provider is None:
            raise DeviceError(
                f"providers={list(names or ())}: {name!r} is none of {', '.join(PROVIDERS)}. "
                "`internvl-rt doctor` tells which this machine has."
            )
        finding = _find(provider)
        if not finding.usable:
            raise DeviceError(
                f"the provider {provider.key} ({provider.name}) cannot be used here: {finding.reason}."
            )
        chosen.append(provider)
    if PROVIDERS["cpu"] not in chosen:
        chosen.append(PROVIDERS["cpu"])
    return tuple(dict.fromkeys(chosen))


def choose_graph_set(
    bundle: Bundle, providers: Sequence[Provider], *, language_model: bool = True
) -> GraphSet:
    """The graphs of a bundle that suit the first provider best.

    Args:
        bundle: an opened bundle.
        providers: what ``choose_providers`` returned.
        language_model: whether that is to run too; vision sides ask less of ONNX Runtime.

    Raises:
        BundleError: if the bundle has none that it runs.
    """
    wanted = providers[0].graph_sets
    old = language_model and release_of(onnxruntime.__version__) < _SCATTER_RELEASE
    if old:
        wanted = tuple(name for name in wanted if GRAPH_SETS[name].dialect != "onnx24")
    there = {graphs.name for graphs in bundle.manifest.graph_sets}
    for name in wanted:
        if name in there:
            return GRAPH_SETS[name]
    has = f"only those of {', '.join(sorted(there))}" if there else "none"
    update = f", or update onnxruntime to {'.'.join(map(str, _SCATTER_RELEASE))}" if old else ""
    raise BundleError(
        f"{bundle.folder}: the provider {providers[0].key} of ONNX Runtime {onnxruntime.__version__} runs "
        f"graphs of the dialects {', '.join(wanted)}; this bundle has {has}. "
        f"Export it again with --dialect {wanted[0]}{update}."
    )


def open_session(
    model: str, options: onnxruntime.SessionOptions, providers: Sequence[Provider]
) -> onnxruntime.InferenceSession:
    """Loads a graph on providers that ``choose_providers`` returned."""
    built_in: list[str | tuple[str, dict[str, str]]] = []
    plugged = False
    for provider in providers:
        devices = _plugin_devices(provider)
        if devices:
            options.add_provider_for_devices(devices, {})
            plugged = True
        elif provider.key == "tensorrt":
            # Graphs state their types; building takes minutes, so what was built is kept.
            built_in.append((provider.name, {"trt_engine_cache_enable": "1"}))
        else:
            built_in.append(provider.name)
    if plugged:
        return onnxruntime.InferenceSession(model, options)  # falls back to the CPU by itself
    return onnxruntime.InferenceSession(model, options, providers=built_in)


def _find(provider: Provider) -> ProviderFinding:
    if provider.name in onnxruntime.get_available_providers():
        return ProviderFinding(provider, True, "")
    found = [package for package in provider.plugins if importlib.util.find_spec(package)]
    if not found:
        return ProviderFinding(provider, False, f"it is not installed. {provider.install}")
    failures = [failure for failure in map(_register, found) if failure]
    if _plugin_devices(provider):
        return ProviderFinding(provider, True, "")
    if failures:
        return ProviderFinding(
            provider, False, f"its plug-in does not load ({failures[0]}). {provider.install}"
        )
    return ProviderFinding(
        provider, False, f"its plug-in {found[0]} is installed and finds no device. {provider.install}"
    )


def _register(package: str) -> str:
    """Loads a plug-in once; returns what went wrong."""
    with _registering:
        if package not in _registered:
            _registered[package] = ""
            try:
                plugin: Any = importlib.import_module(package)
                onnxruntime.register_execution_provider_library(
                    plugin.get_ep_name(), plugin.get_library_path()
                )
            except Exception as error:  # whatever a foreign package and its libraries raise
                _registered[package] = str(error).split("\n", 1)[0][:300] or type(error).__name__
        return _registered[package]


def _plugin_devices(provider: Provider) -> list[Any]:
    if not provider.plugins or not hasattr(onnxruntime, "get_ep_devices"):
        return []
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.name]
