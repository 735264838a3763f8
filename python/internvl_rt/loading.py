"""Loads a bundle into an engine."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.engine import Engine
from internvl_rt.errors import BundleError, DeviceError, PromptError
from internvl_rt.inspection import default_cache_tokens
from internvl_rt.model import Model
from internvl_rt.prompts.render import PromptRenderer
from internvl_rt.prompts.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from internvl_rt.engines.native import CacheType

ENGINES = {"native": "NativeEngine", "onnxruntime": "OnnxEngine", "tensorrt": "TensorRtEngine"}
"""The modules of ``internvl_rt.engines``, and the engine's class in each."""
DEVICES = ("auto", "cpu")
MOST_CACHE_TOKENS = 1 << 24


def load(
    path: str | Path,
    device: str = "auto",
    engine: str = "native",
    threads: int | None = None,
    *,
    cache_tokens: int | None = None,
    cache_type: CacheType | None = None,
    max_context: int | None = None,
    verify: bool = False,
    providers: Sequence[str] | None = None,
) -> Model:
    """Opens a bundle and makes it ready for questions.

    Args:
        path: the folder that ``export`` wrote.
        device: ``auto`` or ``cpu``.
        engine: ``native`` (C++), ``onnxruntime``, or ``tensorrt`` on an NVIDIA GPU, for which
            ``internvl-rt build`` made engines.
        threads: that compute one answer; every usable physical core where None.
        cache_tokens: the size of the KV cache, which is fixed here and shared by all answers that are being
            written. Where None it is 8192, or the model's own limit if that is less.
        cache_type: of ``engine="native"``, how keys and values are stored: ``float32``, ``float16`` or
            ``bfloat16`` in half of the memory, ``int8`` in about a quarter. Where None, ``float32`` for a
            language model in fp32; for others ``bfloat16`` where the processor multiplies it (AVX-512 BF16)
            and the weights are not fp16, else ``float16``.
        max_context: the most tokens that one prompt and its answer may have together; the smaller of
            ``cache_tokens`` and the trained length where None. More than the trained length is for models
            with dynamic rope scaling, up to its factor times as many.
        verify: compute the SHA-256 of the weights first, which reads the whole file.
        providers: of ``engine="onnxruntime"``, best first: ``cpu`` (where None), ``cuda``, ``tensorrt``,
            ``tensorrt-rtx``, ``openvino``, or ONNX Runtime's own names.

    Raises:
        BundleError: if the bundle is incomplete, truncated or altered.
        DeviceError: if this release or this machine does not have the device or engine.
        PromptError: if a number is out of range.
    """
    _check_device(device)
    check_engine(engine)
    bundle = open_bundle(path, verify=verify)
    cache_tokens, context_tokens = context_of(bundle.manifest, cache_tokens, max_context)
    return assemble(bundle, engine, cache_tokens, context_tokens, threads, providers, cache_type)[0]


def assemble(
    bundle: Bundle,
    engine: str,
    cache_tokens: int,
    context_tokens: int,
    threads: int | None,
    providers: Sequence[str] | None = None,
    cache_type: CacheType | None = None,
) -> tuple[Model, Engine]:
    """A model, and the engine that it computes with; arguments as for ``load``.

    Raises:
        BundleError: if the tokenizer does not fit the manifest, or the engine does not take the bundle.
        DeviceError: if this release has no such engine.
        PromptError: if ``threads`` is out of range.
    """
    if threads is not None:
        threads = _positive("threads", threads, 1024)
    tokenizer = PromptTokenizer.from_bundle(bundle.folder)
    try:
        renderer = PromptRenderer(tokenizer, bundle.manifest.prompt, bundle.manifest.tokens_per_tile)
    except BundleError as error:
        raise BundleError(f"{bundle.folder}: {error}") from error
    started = start_engine(engine, bundle, cache_tokens, threads, providers, cache_type)
    model = Model(
        bundle.manifest, started, tokenizer, renderer, context_tokens=context_tokens, threads=threads
    )
    return model, started


def context_of(manifest: Manifest, cache_tokens: int | None, max_context: int | None) -> tuple[int, int]:
    """The size of the KV cache and the longest prompt with its answer, in tokens; arguments as for ``load``.

    Raises:
        PromptError: if a number is out of range.
    """
    if cache_tokens is None:
        cache_tokens = default_cache_tokens(manifest.llm)
    cache_tokens = _positive("cache_tokens", cache_tokens, MOST_CACHE_TOKENS)
    rope = manifest.llm.rope
    if max_context is None:
        return cache_tokens, min(cache_tokens, rope.max_position_embeddings)
    max_context = _positive("max_context", max_context, MOST_CACHE_TOKENS)
    return cache_tokens, min(cache_tokens, max_context, rope.longest_context)


def start_engine(
    engine: str,
    bundle: Bundle,
    cache_tokens: int,
    threads: int | None,
    providers: Sequence[str] | None = None,
    cache_type: CacheType | None = None,
) -> Engine:
    """Loads a bundle into the engine of that name.

    Raises:
        DeviceError: if this release has no such engine, this machine not the providers, or the engine no
            choice of cache types.
        PromptError: if there is no such cache type.
    """
    check_engine(engine)
    check_cache_type(engine, cache_type)
    options: dict[str, Any] = {}
    if providers is not None:
        if engine != "onnxruntime":
            raise DeviceError(
                f"providers={providers!r} are ONNX Runtime's, and engine={engine!r} has none. Leave them "
                "out, or use engine='onnxruntime'."
            )
        options["providers"] = providers
    if engine == "native":
        from internvl_rt.engines.native import default_cache_type

        options["cache_type"] = cache_type or default_cache_type(bundle.manifest)
    # An engine's libraries are imported when it is asked for, and not before.
    made = getattr(import_module(f"internvl_rt.engines.{engine}"), ENGINES[engine])
    started: Engine = made(bundle, cache_tokens=cache_tokens, threads=threads, **options)
    return started


def check_engine(engine: str) -> None:
    """Raises DeviceError unless this release has an engine of that name."""
    if not isinstance(engine, str) or engine not in ENGINES:
        raise DeviceError(
            f"engine={engine!r}: this release has the engines {', '.join(ENGINES)}. Use engine='native', or "
            "engine='onnxruntime' for ONNX Runtime; both run on the CPU. 'tensorrt' needs an NVIDIA GPU."
        )


def check_cache_type(engine: str, cache_type: CacheType | None) -> None:
    """Raises unless the engine has a KV cache of that type; None is the engine's own.

    Raises:
        DeviceError: if the engine has one type of cache only.
        PromptError: if no engine has such a type.
    """
    if cache_type is None:
        return
    from internvl_rt.engines.native import CacheType

    if cache_type not in get_args(CacheType):
        raise PromptError(f"cache_type must be one of {', '.join(get_args(CacheType))}, not {cache_type!r}.")
    if engine != "native":
        raise DeviceError(
            f"cache_type={cache_type!r} is for engine='native'; engine={engine!r} stores its KV cache "
            "in one way. Leave it out."
        )


def _check_device(device: str) -> None:
    if device in DEVICES:
        return
    raise DeviceError(
        f"device={device!r}: this release computes on the CPU. Use device='auto' or device='cpu'; "
        "`internvl-rt doctor` tells what this machine can run."
    )


def _positive(name: str, value: Any, most: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise PromptError(f"{name} must be an integer of at least 1, not {value!r}.") from None
    if not 1 <= number <= most:
        raise PromptError(f"{name} must be from 1 to {most}, not {number}.")
    return number
