"""The engine itself: vision and language model behind the one interface, on a device that runs programs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from internvl_rt._core import CacheRoom
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.graph_ports import (
    COS,
    EMBEDDINGS,
    FEATURES,
    HIDDEN,
    LOGITS,
    MASK,
    PIXEL_VALUES,
    ROWS,
    SIN,
    WRITE_INDICES,
    cache_ports,
)
from internvl_rt.bundle.graph_sets import Compute
from internvl_rt.engines.arrays import check_embeddings, check_pixel_values
from internvl_rt.engines.embedding import EmbeddingTable
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.engines.rotary import rotary_tables
from internvl_rt.engines.runs import check_runs, steps_together
from internvl_rt.engines.sequences import Sequences, forked_length
from internvl_rt.engines.tensorrt.device import Binding, Device, Program
from internvl_rt.engines.tensorrt.profiles import ATTENDED, LOGIT_ROWS, Shape
from internvl_rt.engines.tensorrt.store import Plan, built_plans, engine_file, find_engines
from internvl_rt.errors import CacheFullError, DeviceError, InternVLError

PREFILL, DECODE = 0, 1
"""The profiles of the language model's engine."""

NUMPY_TYPE: dict[Compute, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


class TensorRtEngine:
    """A bundle on TensorRT; see :class:`internvl_rt.engines.engine.Engine`.

    Hidden states, keys and values stay on the GPU; pixels go there, and features and logits come back.
    A fork copies keys and values. Sequences are decoded one after another. A tile's result may differ in the
    last bits with the number of tiles that are encoded together, because TensorRT chooses kernels by shape.
    """

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        *,
        cache_tokens: int,
        threads: int | None = None,
        device: Device | None = None,
        plan: Plan | None = None,
    ) -> None:
        """Loads the engines that ``internvl-rt build`` made on this machine.

        Args:
            bundle: an opened bundle.
            cache_tokens: tokens that all sequences hold together; one alone holds what the engines were built
                for at most.
            threads: is not used: the GPU computes.
            device: the GPU; found where None.
            plan: of the engines; that of the newest that were built for this bundle and machine where None.

        Raises:
            DeviceError: if TensorRT or a GPU is missing, or no engines were built; it says what to do.
        """
        del threads
        if device is None or plan is None:
            from internvl_rt.engines.tensorrt.nvidia import Gpu

            device = gpu = Gpu()
            plan = next(iter(built_plans(bundle, gpu.toolkit)), None)
        folder = None if plan is None else find_engines(bundle, plan)
        if plan is None or folder is None:
            raise DeviceError(
                f"{bundle.folder}: there are no TensorRT engines for this bundle, TensorRT and GPU. "
                f"Build them, once on each machine: internvl-rt build {bundle.folder}"
            )
        vit, projector, llm = (
            (folder / engine_file(part)).read_bytes() for part in ("vit", "projector", "llm")
        )
        self.hidden_size = bundle.manifest.llm.hidden_size
        self._lock = threading.Lock()
        self._embedding = EmbeddingTable(bundle)
        self._vision = Vision(bundle, plan, device, device.load(vit), device.load(projector))
        self._decoder = Decoder(bundle, plan, device, device.load(llm), cache_tokens)
        self._cache_tokens = cache_tokens
        self._closed = False

    @property
    def cache(self) -> CacheRoom:
        """See :class:`internvl_rt.engines.engine.Engine`. A fork is a copy."""
        return CacheRoom(self._cache_tokens)

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that no sequence uses; a new sequence of so many fits now."""
        with self._open():
            return self._decoder.free_tokens

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        """Encodes tiles, as many at once as the engines were built for."""
        with self._open():
            return self._vision.encode(pixel_values, progress)

    def new_sequence(self) -> int:
        """Starts an empty sequence."""
        with self._open():
            return self._decoder.new_sequence()

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        """Starts a sequence with the first ``tokens`` tokens; keys and values are copied on the GPU."""
        with self._open():
            return self._decoder.fork(sequence, tokens)

    def drop(self, sequence: int) -> None:
        """Forgets a sequence and frees its place in the cache."""
        with self._open():
            self._decoder.drop(sequence)

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        with self._open():
            return self._decoder.length(sequence)

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        """Appends embeddings to a sequence."""
        with self._open():
            return self._decoder.prefill(sequence, embeddings, all_logits, progress)

    def decode(
        self, sequences: Sequence[int], tokens: Sequence[int], counts: Sequence[int] | None = None
    ) -> Float32Array:
        """Appends a run of tokens to each of several different sequences."""
        with self._open():
            embeddings = self._embedding.look_up(np.asarray(tokens, np.int64))
            return self._decoder.decode(sequences, embeddings, counts)

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        """Looks up token embeddings and splices image features in."""
        with self._open():
            return self._embedding.embed(token_ids, features)

    def close(self) -> None:
        """Frees the engine's memory once the call that is running has ended."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._decoder.close()
                self._vision.close()

    def _open(self) -> threading.Lock:
        if self._closed:
            raise InternVLError("this engine is closed. Load the model again.")
        return self._lock


class Vision:
    """Tiles to image features: the ViT, and the projector that begins with the pixel shuffle."""

    def __init__(self, bundle: Bundle, plan: Plan, device: Device, vit: Program, projector: Program) -> None:
        manifest = bundle.manifest
        size, vision = manifest.vision.image_size, manifest.vision
        self._facts = vision
        self._device, self._vit, self._projector = device, vit, projector
        self._dtype = NUMPY_TYPE[plan.graph_set.compute]
        self._tiles = plan.limits.tiles
        self._pixels_shape: Shape = (3, size, size)
        self._hidden_shape: Shape = (1 + vision.patches, vision.hidden_size)
        self._features_shape: Shape = (manifest.tokens_per_tile, manifest.llm.hidden_size)
        self._pixels, self._hidden, self._features = (
            device.allocate(self._tiles * int(np.prod(shape)) * self._dtype.itemsize)
            for shape in (self._pixels_shape, self._hidden_shape, self._features_shape)
        )

    def encode(self, pixel_values: Float32Array, progress: Progress | None) -> EncodedTiles:
        """Encodes tiles; the times are those of all batches."""
        check_pixel_values(pixel_values, self._facts)
        features = np.empty((len(pixel_values), *self._features_shape), self._dtype)
        started = perf_counter()
        for begin in range(0, len(pixel_values), self._tiles):
            if progress is not None and begin > 0:
                progress(begin)
            batch = np.ascontiguousarray(pixel_values[begin : begin + self._tiles].astype(self._dtype))
            n = len(batch)
            self._device.write(self._pixels, batch)
            hidden = Binding(self._hidden, (n, *self._hidden_shape))
            self._vit.run(0, {PIXEL_VALUES: Binding(self._pixels, batch.shape), HIDDEN: hidden})
            found = Binding(self._features, (n, *self._features_shape))
            self._projector.run(0, {HIDDEN: hidden, FEATURES: found})
            self._device.read(features[begin : begin + n], self._features)
        # The two run behind each other without the host, which sees only when both are done.
        return EncodedTiles(features.astype(np.float32), (perf_counter() - started) * 1e3, 0.0)

    def close(self) -> None:
        """Frees the buffers."""
        for address in (self._pixels, self._hidden, self._features):
            self._device.free(address)


class _Sequence:
    """Keys and values of one sequence: one piece of memory, or two between which they change sides."""

    def __init__(self) -> None:
        self.length = 0
        self.appending = 0
        """Always 0: a call keeps others from the engine."""
        self.current = 0
        self.other = 0
        """The side that the next run writes; ``current`` itself where it writes in place."""


class Decoder:
    """Sequences of a language model. A call that fails leaves every sequence's length as it was."""

    def __init__(
        self, bundle: Bundle, plan: Plan, device: Device, program: Program, cache_tokens: int
    ) -> None:
        self._llm = llm = bundle.manifest.llm
        self._limits, self._device, self._program = plan.limits, device, program
        self._dtype = NUMPY_TYPE[plan.graph_set.compute]
        # TensorRT updates a cache in place where the graph says TensorScatter, and copies it where it says
        # ScatterND.
        self._in_place = plan.graph_set.dialect == "onnx24"
        self._cache_shape: Shape = (1, llm.kv_heads, plan.limits.cache_tokens, llm.head_dim)
        self._cache_bytes = int(np.prod(self._cache_shape)) * self._dtype.itemsize
        self._ports = [port for layer in range(llm.layers) for port in cache_ports(layer)]
        self._sequences: Sequences[_Sequence] = Sequences(cache_tokens)
        self._spare: list[int] = []
        """Caches of sequences that were dropped."""
        n, half, wide = plan.limits.prefill_chunk, llm.head_dim // 2, self._dtype.itemsize
        self._buffers = {
            name: device.allocate(size)
            for name, size in {
                EMBEDDINGS: n * llm.hidden_size * wide,
                COS: n * half * wide,
                SIN: n * half * wide,
                MASK: n * plan.limits.cache_tokens,
                WRITE_INDICES: 8,
                ROWS: LOGIT_ROWS * 8,
                LOGITS: LOGIT_ROWS * llm.vocab_size * wide,
            }.items()
        }

    @property
    def free_tokens(self) -> int:
        """Tokens that no sequence uses; a new one of so many fits."""
        return min(self._sequences.free_tokens, self._limits.cache_tokens)

    def new_sequence(self) -> int:
        """Starts an empty sequence; it takes memory when it gets its first token."""
        return self._sequences.add(_Sequence())

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        """Starts a sequence with the keys and values of the first ``tokens`` tokens."""
        origin = self._sequences[sequence]
        tokens = forked_length(origin, tokens)
        self._require_free(tokens, tokens)
        copy = _Sequence()
        if tokens:
            self._give_memory(copy)
            self._device.copy(copy.current, origin.current, self._cache_bytes * len(self._ports))
            copy.length = tokens
        return self._sequences.add(copy)

    def drop(self, sequence: int) -> None:
        """Forgets a sequence; its memory serves the next one."""
        dropped = self._sequences.remove(sequence)
        self._spare += {dropped.current, dropped.other} - {0}

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        return self._sequences[sequence].length

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool,
        progress: Progress | None = None,
    ) -> Float32Array:
        """Appends embeddings, as :meth:`internvl_rt.engines.engine.Engine.prefill`."""
        check_embeddings(embeddings, self._llm.hidden_size)
        cache, n = self._sequences[sequence], len(embeddings)
        self._require_free(n, cache.length + n)
        self._give_memory(cache)
        logits = np.empty((n if all_logits else 1, self._llm.vocab_size), self._dtype)
        chunk = min(LOGIT_ROWS, self._limits.prefill_chunk) if all_logits else self._limits.prefill_chunk
        for begin in range(0, n, chunk):
            if progress is not None and begin > 0:
                progress(begin)
            end = min(begin + chunk, n)
            rows = np.arange(end - begin) if all_logits else np.array([end - begin - 1])
            self._run(PREFILL, cache, cache.length + begin, cache.length + n, embeddings[begin:end], rows)
            if all_logits:
                self._device.read(logits[begin:end], self._buffers[LOGITS])
            elif end == n:
                self._device.read(logits, self._buffers[LOGITS])
        cache.length += n
        return logits.astype(np.float32)

    def decode(
        self, sequences: Sequence[int], embeddings: Float32Array, counts: Sequence[int] | None = None
    ) -> Float32Array:
        """Appends the first ``counts[0]`` of ``embeddings`` [n, hidden] to the first sequence, and so on.

        Each gets one row where there are no counts.
        """
        counts = check_runs(sequences, len(embeddings), counts)
        check_embeddings(embeddings, self._llm.hidden_size)
        caches = [self._sequences[sequence] for sequence in sequences]
        longest = max(cache.length + count for cache, count in zip(caches, counts, strict=True))
        self._require_free(len(embeddings), longest)
        logits = np.empty((len(caches), self._llm.vocab_size), self._dtype)
        for cache in caches:
            self._give_memory(cache)
        done = 0
        for i, (cache, count) in enumerate(zip(caches, counts, strict=True)):
            self._run_steps(cache, embeddings[done : done + count])
            self._device.read(logits[i : i + 1], self._buffers[LOGITS])
            done += count
        for cache, count in zip(caches, counts, strict=True):
            cache.length += count
        return logits.astype(np.float32)

    def close(self) -> None:
        """Frees all memory."""
        for sequence in self._sequences.numbers():
            self.drop(sequence)
        for address in (*self._spare, *self._buffers.values()):
            self._device.free(address)
        self._spare.clear()

    def _run_steps(self, cache: _Sequence, embeddings: Float32Array) -> None:
        """Computes embeddings that follow a sequence as if each of them were a call of its own."""
        for part in steps_together(self._llm.rope, cache.length, len(embeddings), self._limits.prefill_chunk):
            rows = embeddings[part.start : part.stop]
            self._run(
                DECODE if len(rows) == 1 else PREFILL,
                cache,
                cache.length + part.start,
                cache.length + part.stop,
                rows,
                np.array([len(rows) - 1]),
            )

    def _run(
        self,
        profile: int,
        cache: _Sequence,
        position: int,
        length: int,
        embeddings: Float32Array,
        rows: npt.NDArray[np.int64],
    ) -> None:
        """Computes n embeddings at ``position`` of a sequence that will have ``length`` tokens."""
        end = position + len(embeddings)
        cos, sin = rotary_tables(self._llm, position, end, length)
        attended = min(self._limits.cache_tokens, -(-end // ATTENDED) * ATTENDED)
        mask = np.arange(attended) <= np.arange(position, end)[:, None]
        bindings = {}
        for name, array in {
            EMBEDDINGS: embeddings[None].astype(self._dtype),
            COS: cos.astype(self._dtype),
            SIN: sin.astype(self._dtype),
            MASK: mask[None, None],
            WRITE_INDICES: np.array([position], np.int64),
            ROWS: rows.astype(np.int64),
        }.items():
            self._device.write(self._buffers[name], np.ascontiguousarray(array))
            bindings[name] = Binding(self._buffers[name], array.shape)
        for index, (port_in, port_out) in enumerate(self._ports):
            offset = index * self._cache_bytes
            bindings[port_in] = Binding(cache.current + offset, self._cache_shape)
            bindings[port_out] = Binding(cache.other + offset, self._cache_shape)
        bindings[LOGITS] = Binding(self._buffers[LOGITS], (len(rows), self._llm.vocab_size))
        self._program.run(profile, bindings)
        # What lies behind a sequence's length is never looked at, so a failed call need not turn this back.
        cache.current, cache.other = cache.other, cache.current

    def _give_memory(self, cache: _Sequence) -> None:
        if cache.current == 0:
            cache.current = self._memory()
        if cache.other == 0:
            cache.other = cache.current if self._in_place else self._memory()

    def _memory(self) -> int:
        size = self._cache_bytes * len(self._ports)
        if not self._spare:
            return self._device.allocate(size)
        address = self._spare.pop()
        # Places behind the mask count with weight zero, and zero times another sequence's NaN is NaN.
        self._device.clear(address, size)
        return address

    def _require_free(self, tokens: int, length: int) -> None:
        """Raises unless so many more tokens fit, and a sequence of ``length`` tokens, the longest then."""
        self._sequences.require_free(tokens)
        most = self._limits.cache_tokens
        if length > most:
            raise CacheFullError(
                f"the engines were built for sequences of {most} tokens; this one would have more. Shorten "
                "the prompt, or build them with a larger --cache-tokens."
            )
