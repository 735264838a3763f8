"""The language model on ONNX Runtime: sequences, prefill in chunks, decode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.graph_ports import (
    CAPACITY,
    COS,
    EMBEDDINGS,
    LAST_POSITIONS,
    LOGITS,
    MASK,
    ROWS,
    SIN,
    TOTAL_LENGTH,
    WRITE_INDICES,
    cache_ports,
)
from internvl_rt.bundle.graph_sets import GraphSet
from internvl_rt.engines.arrays import check_embeddings
from internvl_rt.engines.engine import Float32Array, Progress
from internvl_rt.engines.onnxruntime.cache import SequenceCache
from internvl_rt.engines.onnxruntime.providers import PROVIDERS, Provider, choose_graph_set
from internvl_rt.engines.onnxruntime.session import NUMPY_TYPE, Session, Tensor, contiguous
from internvl_rt.engines.rotary import rotary_tables
from internvl_rt.engines.runs import check_runs, steps_together
from internvl_rt.engines.sequences import Sequences, forked_length
from internvl_rt.engines.turns import Turns

MAX_CHUNK = 512
"""Tokens of a prompt that are computed together."""

ATTENDED = 64
"""Attention reads the cache up to a multiple of this, so that few different shapes are seen."""

MAX_SCORE_BYTES = 128 << 20
"""ONNX Runtime holds the attention scores of a chunk, float32 [heads, chunk, capacity], all at once."""


class OnnxDecoder:
    """Sequences of a language model. One call computes at a time; the others wait."""

    def __init__(
        self,
        bundle: Bundle,
        cache_tokens: int,
        threads: int | None = None,
        *,
        providers: Sequence[Provider] = (PROVIDERS["cpu"],),
        graphs: GraphSet | None = None,
    ) -> None:
        """Loads the graph.

        The cache takes memory as it fills: ``2 * layers * kv_heads * head_dim * 4`` bytes a token.

        Args:
            bundle: an opened bundle.
            cache_tokens: tokens that all sequences hold together.
            threads: how many compute; None for all usable cores.
            providers: what ``choose_providers`` returned.
            graphs: of the bundle; those that suit the first provider best where None.

        Raises:
            BundleError: if the bundle has no graphs that suit, or ONNX Runtime does not take the graph.
        """
        self._llm = bundle.manifest.llm
        graphs = graphs or choose_graph_set(bundle, providers)
        self._dialect = graphs.dialect
        self._dtype = NUMPY_TYPE[graphs.compute]
        self._memory = providers[0].memory
        fixed = -(-cache_tokens // ATTENDED) * ATTENDED if providers[0].fixed_cache else None
        self._capacity = fixed
        # A decode step would spend most of its time on making floats of integers again.
        fold = bundle.manifest.precision.llm in ("int8", "int4")
        self._session = Session(
            bundle.file(graphs.file("llm")),
            threads or _core.usable_cores(),
            fold_weights=fold,
            providers=providers,
            extents={} if fixed is None else {CAPACITY: fixed},
        )
        self._ports = [port for layer in range(self._llm.layers) for port in cache_ports(layer)]
        self._sequences: Sequences[SequenceCache] = Sequences(cache_tokens)
        self._turns = Turns()

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that no sequence uses."""
        with self._turns.turn():
            return self._sequences.free_tokens

    def new_sequence(self) -> int:
        """Starts an empty sequence."""
        with self._turns.turn():
            return self._sequences.add(SequenceCache(self._llm, self._dtype, self._memory, self._capacity))

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        """Starts a sequence with the first ``tokens`` tokens; keys and values are copied.

        Raises:
            CacheFullError: if the copy does not fit.
        """
        with self._turns.turn():
            origin = self._sequences.idle(sequence)
            tokens = forked_length(origin, tokens)
            self._sequences.require_free(tokens)
            return self._sequences.add(origin.copy(tokens))

    def drop(self, sequence: int) -> None:
        """Forgets a sequence and frees its place in the cache."""
        with self._turns.turn():
            self._sequences.remove(sequence)

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        with self._turns.turn():
            return self._sequences[sequence].length

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        """Appends embeddings, as :meth:`internvl_rt.engines.engine.Engine.prefill`."""
        check_embeddings(embeddings, self._llm.hidden_size)
        embeddings = contiguous(embeddings)
        n = len(embeddings)
        with self._turns.turn(None if progress is None else partial(progress, 0)):
            cache = self._sequences.idle(sequence)
            start, length = cache.length, cache.length + n
            self._sequences.require_free(n)
            cache.make_room(length)
            cache.appending = n
        logits = np.empty((n if all_logits else 1, self._llm.vocab_size), self._dtype)
        chunk = self._chunk(cache.capacity)
        try:
            for begin in range(0, n, chunk):
                step = None if progress is None else partial(progress, begin)
                if step is not None and begin > 0:
                    step()
                end = min(begin + chunk, n)
                if all_logits:
                    rows, out = np.arange(end - begin), logits[begin:end]
                elif end == n:
                    rows, out = np.array([end - begin - 1]), logits
                else:
                    rows, out = np.arange(0), logits[:0]
                # Others decode between two chunks.
                with self._turns.turn(step):
                    self._run(cache, start + begin, length, embeddings[begin:end], rows, out, step)
            cache.length = length
        finally:
            cache.appending = 0
        return logits.astype(np.float32, copy=False)

    def decode(
        self, sequences: Sequence[int], embeddings: Float32Array, counts: Sequence[int] | None = None
    ) -> Float32Array:
        """Appends the first ``counts[0]`` of ``embeddings`` [n, hidden] to the first sequence, and so on.

        The sequences are computed one after another, because ONNX Runtime's matrix products of several rows
        differ in the last bits from those of one. The rows of one sequence are computed together.

        Args:
            sequences: the sequences to append to.
            embeddings: of the tokens.
            counts: how many rows each sequence gets, at least one; exactly one each where None.

        Returns:
            float32 [len(sequences), vocab], the logits after the last row of each.

        Raises:
            CacheFullError: if the cache has no room for the tokens.
            PromptError: if a sequence is named twice, or the counts do not add up.
        """
        counts = check_runs(sequences, len(embeddings), counts)
        check_embeddings(embeddings, self._llm.hidden_size)
        embeddings = contiguous(embeddings)
        with self._turns.turn():
            caches = [self._sequences.idle(sequence) for sequence in sequences]
            self._sequences.require_free(len(embeddings))
            for cache, count in zip(caches, counts, strict=True):
                cache.make_room(cache.length + count)
            logits = np.empty((len(caches), self._llm.vocab_size), self._dtype)
            done = 0
            for i, (cache, count) in enumerate(zip(caches, counts, strict=True)):
                rows = embeddings[done : done + count]
                self._run_steps(cache, rows, logits[i : i + 1])
                done += count
            for cache, count in zip(caches, counts, strict=True):
                cache.length += count
            return logits.astype(np.float32, copy=False)

    def _run_steps(self, cache: SequenceCache, embeddings: Float32Array, logits: npt.NDArray[Any]) -> None:
        """Computes embeddings that follow a sequence as if each of them were a call of its own."""
        for part in steps_together(
            self._llm.rope, cache.length, len(embeddings), self._chunk(cache.capacity)
        ):
            last = part.stop == len(embeddings)
            rows = np.array([part.stop - part.start - 1] if last else [], np.int64)
            position, length = cache.length + part.start, cache.length + part.stop
            self._run(
                cache,
                position,
                length,
                embeddings[part.start : part.stop],
                rows,
                logits if last else logits[:0],
            )

    def _run(
        self,
        cache: SequenceCache,
        position: int,
        length: int,
        embeddings: Float32Array,
        rows: npt.NDArray[np.int64],
        logits: npt.NDArray[Any],
        step: Callable[[], None] | None = None,
    ) -> None:
        """Computes n embeddings at ``position`` of a sequence that will have ``length`` tokens."""
        end = position + len(embeddings)
        cos, sin = rotary_tables(self._llm, position, end, length)
        inputs: dict[str, Tensor] = {
            EMBEDDINGS: embeddings[None].astype(self._dtype, copy=False),
            COS: cos.astype(self._dtype, copy=False),
            SIN: sin.astype(self._dtype, copy=False),
            ROWS: rows,
        }
        if self._dialect == "ort":
            inputs[LAST_POSITIONS] = np.array([end - 1], np.int32)
            inputs[TOTAL_LENGTH] = np.array(end, np.int32)
        else:
            attended = min(cache.capacity, -(-end // ATTENDED) * ATTENDED)
            mask = np.arange(attended) <= np.arange(position, end)[:, None]
            inputs[MASK] = mask[None, None]
            inputs[WRITE_INDICES] = np.array([position], np.int64)
        outputs: dict[str, Tensor] = {LOGITS: logits}
        for (port_in, port_out), buffer in zip(self._ports, cache.buffers, strict=True):
            inputs[port_in] = outputs[port_out] = buffer
        self._session.run(inputs, outputs, step)

    def _chunk(self, capacity: int) -> int:
        return max(16, min(MAX_CHUNK, MAX_SCORE_BYTES // (4 * self._llm.heads * capacity)))
