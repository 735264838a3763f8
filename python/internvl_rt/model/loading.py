"""Loads a bundle into an engine."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from internvl_rt import _core
from internvl_rt.arguments import checked_integer, checked_number, checked_option
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.engine import Engine
from internvl_rt.engines.native import CacheType
from internvl_rt.errors import BundleError, DeviceError, PromptError
from internvl_rt.images import MAX_PIXELS, Orientation
from internvl_rt.model.asking import PictureRules
from internvl_rt.model.cache_size import (
    check_memory,
    checked_tolerance,
    context_of,
    stored_type,
    tile_cache_size,
)
from internvl_rt.model.model import Model
from internvl_rt.prompts.tokenizer import PromptTokenizer

ENGINES = {"native": "NativeEngine", "onnxruntime": "OnnxEngine", "tensorrt": "TensorRtEngine"}
"""The modules of ``internvl_rt.engines``, and the engine's class in each."""
DEVICES = ("auto", "cpu")


def load(
    path: str | Path,
    device: str = "auto",
    engine: str = "native",
    threads: int | None = None,
    *,
    cache_tokens: int | None = None,
    cache_type: CacheType | None = None,
    max_context: int | None = None,
    max_wait_s: float = _core.MAX_WAIT_S.default,
    max_waiting: int = _core.MAX_WAITING.default,
    tile_cache_bytes: int | None = None,
    frame_tolerance: int = 0,
    prefix_cache_tokens: int | None = None,
    verify: bool = False,
    providers: Sequence[str] | None = None,
    orientation: Orientation | None = None,
    allow_paths: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> Model:
    """Opens a bundle and makes it ready for questions.

    Args:
        path: the folder that ``export`` wrote.
        device: ``auto`` or ``cpu``.
        engine: ``native`` (C++), ``onnxruntime``, or ``tensorrt`` on an NVIDIA GPU, for which
            ``internvl-rt build`` made engines.
        threads: that compute one answer; every usable physical core where None.
        cache_tokens: the size of the KV cache, which is fixed here and shared by all answers that are being
            written. The native engine takes its memory here; onnxruntime checks that it is there, and takes
            it as the cache fills. Where None it is the model's trained length, up to 32768, as far as that
            takes no more than a quarter of the memory that the weights leave, and 4096 at least; or
            ``max_context`` if that is more.
        cache_type: of ``engine="native"``, how keys and values are stored: ``float32``, ``float16`` or
            ``bfloat16`` in half of the memory, ``int8`` in about a quarter. Where None, ``float32`` for a
            language model in fp32; for others ``bfloat16`` where the processor multiplies it (AVX-512 BF16)
            and the weights are not fp16, else ``float16``.
        max_context: the most tokens that one prompt and its answer may have together; the smaller of
            ``cache_tokens`` and the trained length where None. More than the trained length is for models
            with dynamic rope scaling, up to its factor times as many.
        max_wait_s: how long a call waits at most, in seconds, for room in the cache that others hold.
        max_waiting: how many requests wait for their turn at most; one more is refused with ``BusyError``.
        tile_cache_bytes: what the features of tiles may take that are kept for pictures which show them
            again, pixel by pixel; the ones that were not used for the longest time make room. So a camera's
            frame takes the vision tower only where it has changed. Answers are the same for every size; 0
            keeps nothing. It fills as tiles are encoded: of InternVL2_5-1B a 1080p picture takes 8 MB. Where
            None, two pictures of the model's most tiles, 64 MB at least, and a sixteenth of the memory at
            hand at most.
        frame_tolerance: the largest difference of two values of a pixel, 0 to 255, that still counts as equal
            to what stood at the same place before: a tile then takes the features of the tile that was
            encoded there in one of the last four pictures of the same grid. A camera's noise costs no tile
            any more. Answers then depend on the pictures before, and a change that is fainter than this on
            every pixel is not seen. Of 107 held-out questions about table-top scenes with noise of standard
            deviation 2, after a frame that lacked an object, 100 were answered right at 0, 16 and 64, and 94
            at 128; at 8 the noise was new in every tile, at 16 in none (``benchmarks/frame_tolerance.py``).
            The pixels that are compared count in ``tile_cache_bytes``. 0 takes equal pixels only.
        prefix_cache_tokens: how much of the cache may keep what was computed for calls that are over: a call
            whose prompt begins as theirs did, pictures included, does not compute it again. All of it where
            None, 0 for none; whatever a call needs it gets. The answers do not depend on it.
        verify: compute the SHA-256 of the weights first, which reads the whole file.
        providers: of ``engine="onnxruntime"``, best first: ``cpu`` (where None), ``cuda``, ``tensorrt``,
            ``tensorrt-rtx``, ``openvino``, or ONNX Runtime's own names.
        orientation: ``exif`` turns pictures as their EXIF says, ``stored`` does not. Where None, what the
            reference code of the checkpoint's format does: transformers turns them, the authors' own code
            does not. Boxes refer to the picture as it was seen.
        allow_paths: False refuses every path and file URL, in ``images``, ``video`` and messages: right where
            questions come from elsewhere. A call may say otherwise.
        max_pixels: the most pixels of a picture that is decoded, which takes up to 8 bytes for each of them.

    Raises:
        BundleError: if the bundle is incomplete, truncated or altered.
        DeviceError: if this release or this machine does not have the device, the engine, or the memory that
            the KV cache or ``tile_cache_bytes`` takes.
        PromptError: if a number is out of range.
        ImageError: if there is no such orientation.
    """
    check_engine(engine)
    check_cache_type(engine, cache_type)
    _check_device(device, engine)
    max_wait_s = checked_number("max_wait_s", max_wait_s, _core.MAX_WAIT_S)
    bundle = open_bundle(path, verify=verify)
    stored = stored_type(engine, bundle.manifest, cache_type)
    cache_tokens, context_tokens = context_of(bundle.manifest, cache_tokens, max_context, stored)
    rules = PictureRules(orientation or own_orientation(bundle.manifest), allow_paths, max_pixels)
    tile_cache_bytes = tile_cache_size(bundle.manifest, tile_cache_bytes)
    return assemble(
        bundle,
        engine,
        cache_tokens,
        context_tokens,
        threads,
        providers,
        cache_type,
        rules,
        max_wait_s,
        checked_option("max_waiting", max_waiting, _core.MAX_WAITING),
        tile_cache_bytes,
        checked_tolerance(frame_tolerance, tile_cache_bytes),
        None
        if prefix_cache_tokens is None
        else checked_integer("prefix_cache_tokens", prefix_cache_tokens, 0),
    )[0]


def own_orientation(manifest: Manifest) -> Orientation:
    """How the reference code of a checkpoint's format sees a photo whose EXIF says that it lies."""
    return "exif" if manifest.source_format == "internvl" else "stored"


def assemble(
    bundle: Bundle,
    engine: str,
    cache_tokens: int,
    context_tokens: int,
    threads: int | None,
    providers: Sequence[str] | None = None,
    cache_type: CacheType | None = None,
    rules: PictureRules | None = None,
    max_wait_s: float = _core.MAX_WAIT_S.default,
    max_waiting: int = _core.MAX_WAITING.default,
    tile_cache_bytes: int = 0,
    frame_tolerance: int = 0,
    prefix_cache_tokens: int | None = 0,
) -> tuple[Model, Engine]:
    """A model, and the engine that it computes with; arguments as for ``load``.

    Raises:
        BundleError: if the tokenizer does not fit the manifest, or the engine does not take the bundle.
        DeviceError: if this release has no such engine, or the machine has too little memory for the cache.
        PromptError: if ``threads`` is out of range.
    """
    if threads is not None:
        threads = checked_option("threads", threads, _core.THREADS)
    tokenizer = PromptTokenizer.from_bundle(bundle.folder, bundle.manifest.prompt)
    try:
        renderer = _core.PromptRenderer(tokenizer, bundle.manifest.prompt, bundle.manifest.tokens_per_tile)
    except BundleError as error:
        raise BundleError(f"{bundle.folder}: {error} Export the bundle again.") from error
    started = start_engine(engine, bundle, cache_tokens, threads, providers, cache_type)
    model = Model(
        bundle.manifest,
        started,
        tokenizer,
        renderer,
        context_tokens=context_tokens,
        threads=threads,
        rules=rules or PictureRules(own_orientation(bundle.manifest)),
        max_wait_s=max_wait_s,
        max_waiting=max_waiting,
        tile_cache_bytes=tile_cache_bytes,
        frame_tolerance=frame_tolerance,
        prefix_cache_tokens=prefix_cache_tokens,
    )
    return model, started


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
        DeviceError: if this release has no such engine, this machine lacks the providers or the memory, or
            the engine has no choice of cache types.
        PromptError: if there is no such cache type.
    """
    check_engine(engine)
    check_cache_type(engine, cache_type)
    stored = stored_type(engine, bundle.manifest, cache_type)
    check_memory(bundle.manifest.llm, stored, cache_tokens, _core.usable_memory())
    options: dict[str, Any] = {}
    if providers is not None:
        if engine != "onnxruntime":
            raise DeviceError(
                f"providers={providers!r}: only engine='onnxruntime' has providers, not engine={engine!r}. "
                "Leave them out, or use engine='onnxruntime'."
            )
        options["providers"] = providers
    if engine == "native":
        options["cache_type"] = stored
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
    if cache_type not in get_args(CacheType):
        raise PromptError(f"cache_type must be one of {', '.join(get_args(CacheType))}, not {cache_type!r}.")
    if engine != "native":
        raise DeviceError(
            f"cache_type={cache_type!r} is for engine='native'; engine={engine!r} stores its KV cache "
            "in one way. Leave it out."
        )


def _check_device(device: str, engine: str) -> None:
    if device not in DEVICES:
        raise DeviceError(
            f"device={device!r}: this release has the devices 'auto' and 'cpu'. Use device='auto'; "
            "`internvl-rt doctor` tells what this machine can run."
        )
    if device == "cpu" and engine == "tensorrt":
        raise DeviceError(
            "device='cpu', engine='tensorrt': TensorRT computes on an NVIDIA GPU. Use device='auto', or "
            "engine='native' for the CPU."
        )
