"""``internvl-rt build``: from a bundle's facts and weights to the engines of this machine's GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.graph_ports import HIDDEN, SHUFFLED
from internvl_rt.bundle.graph_sets import GRAPH_NAMES, Compute, GraphName, GraphSet
from internvl_rt.bundle.manifest import WEIGHTS_FILE, Manifest
from internvl_rt.bundle.tensors import TensorPlace, tensor_specs
from internvl_rt.engines.tensorrt.device import Builder
from internvl_rt.engines.tensorrt.profiles import LOGIT_ROWS, Limits, Profile, ShapeRange, profiles_of
from internvl_rt.engines.tensorrt.store import (
    TIMING_CACHE,
    Plan,
    engine_file,
    find_engines,
    plan_of,
    staged_engines,
    store_of,
    write_whole,
)
from internvl_rt.errors import DeviceError

WORKSPACE_BYTES = 1 << 30
"""The most that one layer may take for itself while it runs."""
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class MemoryEstimate:
    """What building and running takes, reckoned from the model's facts before anything starts."""

    disk_bytes: int
    """Of the engines."""
    build_bytes: int
    """Of the GPU while the largest engine is built, and as much again of the host: weights in the graph's
    types, the copy that the engine keeps, and the workspace."""
    run_bytes: int
    """Of the GPU once all are loaded: weights, one sequence's KV cache, inputs, outputs and activations."""


def estimate(manifest: Manifest, limits: Limits, compute: Compute, *, in_place: bool) -> MemoryEstimate:
    """The memory of a model's engines.

    Args:
        manifest: the facts.
        limits: what the engines must be able to do.
        compute: what they compute in.
        in_place: whether the cache is updated where it lies (``onnx24``) or from one buffer into another.
    """
    wide = BYTES[compute]
    weights = dict.fromkeys(GRAPH_NAMES, 0)
    for spec in tensor_specs(manifest):
        part: GraphName = "llm" if spec.part == "embedding" else spec.part
        for tensor in spec.stored:
            floats = tensor.dtype in ("float32", "float16", "bfloat16")
            weights[part] += prod(tensor.shape) * wide if floats else tensor.bytes
    vision, llm = manifest.vision, manifest.llm
    cache = 2 * llm.layers * llm.kv_heads * llm.head_dim * limits.cache_tokens * wide * (1 if in_place else 2)
    tokens = limits.tiles * (1 + vision.patches)
    vit = tokens * (4 * vision.hidden_size + vision.intermediate_size) * wide
    vit += 0 if in_place else 2 * tokens * (1 + vision.patches) * vision.heads * wide
    chunk = limits.prefill_chunk
    decoder = chunk * (4 * llm.hidden_size + 3 * llm.intermediate_size) * wide
    # Where attention is written out, all scores of a run are there at once.
    scores = 0 if in_place else 2 * llm.heads * chunk * limits.cache_tokens * wide
    logits = max(LOGIT_ROWS, limits.decode_batch) * llm.vocab_size * wide
    return MemoryEstimate(
        disk_bytes=sum(weights.values()),
        build_bytes=2 * max(weights.values()) + WORKSPACE_BYTES,
        run_bytes=sum(weights.values()) + cache + vit + decoder + scores + logits,
    )


class GraphWriter(Protocol):
    """``internvl_rt.export.graphs.write_graphs``: building is like exporting, and running needs neither."""

    def __call__(
        self,
        folder: Path,
        manifest: Manifest,
        places: Mapping[str, TensorPlace],
        sets: Sequence[GraphSet],
        *,
        capacity: int | None = None,
        shuffles: bool = False,
    ) -> None:
        """Writes the graphs of a model into its bundle's folder."""


def build_engines(
    bundle: Bundle,
    builder: Builder,
    limits: Limits,
    *,
    write_graphs: GraphWriter,
    compute: Compute | None = None,
    rebuild: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Builds the three engines of a bundle, or finds those that were built for exactly this.

    They appear under their name only when all of them are there. A build that is interrupted leaves nothing
    but what it measured (the timing cache), which makes the next one shorter.

    Args:
        bundle: an opened bundle.
        builder: TensorRT on this machine's GPU.
        limits: what the engines must be able to do.
        write_graphs: the exporter's.
        compute: the type to compute in; see ``plan_of``.
        rebuild: build even if the engines are there.
        say: is told what is needed, before anything starts, and what is being done.

    Returns:
        The engines' folder.

    Raises:
        DeviceError: if the GPU or the disk is too small, TensorRT fails, or nothing can be written.
    """
    _check_model(bundle)
    plan = plan_of(bundle, builder.toolkit, limits, compute)
    found = None if rebuild else find_engines(bundle, plan)
    if found is not None:
        say(f"{found}: the engines are there already")
        return found
    needs = estimate(
        bundle.manifest, limits, plan.graph_set.compute, in_place=plan.graph_set.dialect == "onnx24"
    )
    say(
        f"building for {plan.gpu} with TensorRT {plan.tensorrt}: about {_gb(needs.build_bytes)} of GPU "
        f"memory and as much of the host's while it builds, {_gb(needs.disk_bytes)} of disk, and "
        f"{_gb(needs.run_bytes)} of GPU memory to run"
    )
    _check_room(bundle, builder, needs)
    with staged_engines(bundle, plan) as staging:
        _write_graphs(bundle, plan, staging, write_graphs)
        timing = store_of(bundle) / TIMING_CACHE
        for part in GRAPH_NAMES:
            say(f"building {part}")
            measured = timing.read_bytes() if timing.is_file() else b""
            engine, measured = builder.build(
                staging / plan.graph_set.file(part),
                engine_profiles(bundle.manifest, part, limits),
                measured,
                WORKSPACE_BYTES,
            )
            write_whole(staging / engine_file(part), engine, staging)
            write_whole(timing, measured, staging)
        for leftover in (WEIGHTS_FILE, *plan.graph_set.files):
            (staging / leftover).unlink()
    folder = store_of(bundle) / plan.key
    say(f"{folder}: done")
    return folder


def engine_profiles(manifest: Manifest, part: GraphName, limits: Limits) -> tuple[Profile, ...]:
    """The profiles of an engine: as ``profiles_of``, where the projector begins at the ViT's output."""
    profiles = profiles_of(manifest, part, limits)
    if part != "projector":
        return profiles
    shape = (1 + manifest.vision.patches, manifest.vision.hidden_size)
    old = profiles[0][SHUFFLED]
    tiles = (old.least[0], old.usual[0], old.most[0])
    return ({HIDDEN: ShapeRange(*((n, *shape) for n in tiles))},)


def _write_graphs(bundle: Bundle, plan: Plan, staging: Path, write_graphs: GraphWriter) -> None:
    """The graphs for these engines: the cache's extent fixed, the shuffle on the GPU."""
    weights = bundle.weights.resolve()
    try:
        # A parser may refuse weights that a symbolic link leads out of the graph's folder for.
        (staging / WEIGHTS_FILE).hardlink_to(weights)
    except OSError:
        (staging / WEIGHTS_FILE).symlink_to(weights)
    write_graphs(
        staging,
        bundle.manifest,
        bundle.places,
        [plan.graph_set],
        capacity=plan.limits.cache_tokens,
        shuffles=True,
    )


def _check_model(bundle: Bundle) -> None:
    lacks = ""
    if bundle.manifest.llm.experts is not None:
        lacks = "TensorRT has no operator for a mixture of experts on this GPU"
    elif bundle.manifest.flash is not None:
        lacks = "this release does not build the resolution router of InternVL3.5-Flash for TensorRT"
    if lacks:
        raise DeviceError(f"{bundle.folder}: {lacks}. Use engine='native' or engine='onnxruntime'.")


def _check_room(bundle: Bundle, builder: Builder, needs: MemoryEstimate) -> None:
    memory = builder.toolkit.memory_bytes
    if max(needs.build_bytes, needs.run_bytes) > memory:
        raise DeviceError(
            f"the engines need about {_gb(max(needs.build_bytes, needs.run_bytes))} of GPU memory; "
            f"{builder.toolkit.gpu} has {_gb(memory)}. Export with a smaller precision (--weights int4), or "
            "build with a smaller cache (--cache-tokens)."
        )
    free = shutil.disk_usage(bundle.folder.resolve().parent).free
    if needs.disk_bytes > free:
        raise DeviceError(
            f"the engines need about {_gb(needs.disk_bytes)} of disk; {_gb(free)} are free. Make some room."
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
