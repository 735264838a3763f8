"""The native engine: the language model in C++. Until its own ViT exists, vision runs on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.manifest import PROJECTOR_GRAPH, VIT_GRAPH, LanguageModel
from internvl_rt.engines.engine import EncodedTiles, Float32Array
from internvl_rt.errors import InternVLError, PromptError

if TYPE_CHECKING:
    from internvl_rt.engines.onnxruntime import OnnxVision

PREFILL_CHUNK = 256
"""Prompt tokens that are computed at once: it bounds the memory of activations."""


class NativeEngine:
    """Satisfies :class:`internvl_rt.engines.engine.Engine`.

    Weights are computed from where they lie in the mapped file. The logits after a token are the same bits
    however its sequence was cut into calls, whatever is decoded beside it, and for any number of threads.
    """

    name = "native"

    def __init__(
        self,
        bundle: Bundle,
        *,
        cache_tokens: int,
        threads: int | None = None,
        cache_type: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        """Maps the weights and allocates the KV cache.

        Args:
            bundle: an opened bundle. One without graphs serves text only.
            cache_tokens: tokens that the KV cache holds, all sequences together; rounded up to whole blocks.
            threads: how many compute; None for one per usable core.
            cache_type: how keys and values are stored.

        Raises:
            BundleError: if a tensor is not what the manifest says, or a graph is not taken.
            DeviceError: if there is no memory for the cache, or ``threads`` is out of range.
        """
        self._bundle = bundle
        self._decoder: _core.Decoder | None = load_decoder(
            bundle, cache_tokens=cache_tokens, threads=threads, cache_type=cache_type
        )
        graphs = {VIT_GRAPH, PROJECTOR_GRAPH} <= set(bundle.manifest.files)
        self._vision = _load_vision(bundle, threads) if graphs else None

    @property
    def cache_tokens(self) -> int:
        """Tokens that the KV cache holds, all sequences together."""
        return self._open.cache_tokens

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that no sequence uses, in whole blocks."""
        return self._open.free_tokens

    def encode_tiles(self, pixel_values: Float32Array) -> EncodedTiles:
        """Encodes tiles, as :meth:`internvl_rt.engines.engine.Engine.encode_tiles`.

        Raises:
            ImageError: if the shape or type is another one.
            BundleError: if the bundle has no graphs.
        """
        _ = self._open
        if self._vision is None:
            self._bundle.file(VIT_GRAPH)  # says what is missing
            raise AssertionError("a bundle with a ViT graph has a vision side")
        return self._vision.encode_tiles(pixel_values)

    def new_sequence(self) -> int:
        """Starts an empty sequence."""
        return self._open.new_sequence()

    def fork(self, sequence: int) -> int:
        """Starts a sequence with the same content; blocks of the cache are shared, not copied."""
        return self._open.fork(sequence)

    def drop(self, sequence: int) -> None:
        """Forgets a sequence and frees the blocks that no other sequence shares."""
        self._open.drop(sequence)

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        return self._open.length(sequence)

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Float32Array:
        """Appends embeddings, as :meth:`internvl_rt.engines.engine.Engine.prefill`.

        Args:
            sequence: the sequence to append to.
            embeddings: float32 [n, hidden], n >= 1.
            all_logits: return the logits of every position instead of the last one's.
            progress: called between chunks of ``PREFILL_CHUNK`` tokens with the number of tokens done. What
                it raises ends the prefill, and the sequence is as it was before the call.

        Raises:
            CacheFullError: if the cache has no room for n more tokens.
            PromptError: if the shape or type of ``embeddings`` is another one.
        """
        return self._open.prefill(sequence, _rows(embeddings, "embeddings"), all_logits, progress)

    def decode(self, sequences: Sequence[int], tokens: Sequence[int]) -> Float32Array:
        """Appends one token to each of several sequences, as one batch.

        Raises:
            CacheFullError: if the cache has no room for one more token per sequence.
            PromptError: if a token is outside of the vocabulary or a sequence is named twice.
        """
        return self._open.decode(np.asarray(sequences, np.int64), np.asarray(tokens, np.int64))

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        """Looks up and splices, as :meth:`internvl_rt.engines.engine.Engine.embed`."""
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
            raise PromptError(f"token_ids is {token_ids.dtype} {list(token_ids.shape)}; expected int64 [n].")
        rows = None if features is None else _rows(features, "features")
        image_token = self._bundle.manifest.prompt.image_context_id
        return self._open.embed(token_ids.astype(np.int64, copy=False), rows, image_token)

    def close(self) -> None:
        """Frees the engine's memory, once the calls that are running have ended."""
        self._decoder = None
        self._vision = None

    @property
    def _open(self) -> _core.Decoder:
        if self._decoder is None:
            raise InternVLError("the engine is closed. Load the bundle again.")
        return self._decoder


def load_decoder(
    bundle: Bundle,
    *,
    cache_tokens: int,
    threads: int | None = None,
    cache_type: Literal["float32", "bfloat16"] = "float32",
    prefill_chunk: int = PREFILL_CHUNK,
) -> _core.Decoder:
    """The language model of a bundle alone."""
    tensors: list[tuple[str, str, list[int], int, int]] = [
        (place.tensor.name, place.tensor.dtype, list(place.tensor.shape), place.begin, place.end)
        for place in bundle.places.values()
    ]
    return _core.Decoder(
        decoder_facts(bundle.manifest.llm),
        _core.WeightFile(str(bundle.weights), tensors),
        _core.ThreadTeam(threads or 0),
        cache_tokens=cache_tokens,
        cache_type=cache_type,
        prefill_chunk=prefill_chunk,
    )


def decoder_facts(llm: LanguageModel) -> _core.DecoderFacts:
    """The facts of a language model as the C++ core takes them."""
    experts = llm.experts
    return _core.DecoderFacts(
        hidden_size=llm.hidden_size,
        layers=llm.layers,
        heads=llm.heads,
        kv_heads=llm.kv_heads,
        head_dim=llm.head_dim,
        intermediate_size=llm.intermediate_size,
        vocab_size=llm.vocab_size,
        norm_eps=llm.norm_eps,
        qkv_bias=llm.qkv_bias,
        qk_norm=llm.qk_norm,
        rope=_core.RopeFacts(
            theta=llm.rope.theta,
            dynamic=llm.rope.scaling == "dynamic",
            factor=llm.rope.factor,
            max_positions=llm.rope.max_position_embeddings,
            short_factors=llm.rope.short_factor,
            long_factors=llm.rope.long_factor,
            original_positions=llm.rope.original_max_position_embeddings or 0,
            attention_factor=llm.rope.attention_factor,
        ),
        experts=_core.ExpertFacts()
        if experts is None
        else _core.ExpertFacts(count=experts.count, chosen=experts.chosen, normalise=experts.normalise),
    )


def _load_vision(bundle: Bundle, threads: int | None) -> OnnxVision:
    # Imported late: ONNX Runtime takes longer to load than the language model.
    from internvl_rt.engines.onnxruntime import OnnxVision

    return OnnxVision(bundle, threads)


def _rows(array: Float32Array, name: str) -> Float32Array:
    """Holds an argument against its type; the C++ core holds it against the model's width."""
    if array.dtype != np.float32 or array.ndim != 2:
        raise PromptError(f"{name} is {array.dtype} {list(array.shape)}; expected float32 [n, hidden].")
    return array
