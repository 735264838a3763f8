"""The engine itself: vision and language model behind the one interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from internvl_rt._core import CacheRoom
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.engines.embedding import EmbeddingTable
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.engines.onnxruntime.decoder import OnnxDecoder
from internvl_rt.engines.onnxruntime.providers import choose_graph_set, choose_providers
from internvl_rt.engines.onnxruntime.vision import OnnxVision
from internvl_rt.errors import InternVLError

Opened = TypeVar("Opened")


class OnnxEngine:
    """A bundle on ONNX Runtime; see :class:`internvl_rt.engines.engine.Engine`.

    A fork copies keys and values, and takes as much of the cache as its original.
    """

    name = "onnxruntime"

    def __init__(
        self,
        bundle: Bundle,
        *,
        cache_tokens: int,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> None:
        """Loads the graphs.

        Args:
            bundle: an opened bundle.
            cache_tokens: tokens that all sequences hold together.
            threads: how many compute; None for all usable cores.
            providers: ``cpu``, ``cuda``, ``tensorrt``, ``tensorrt-rtx``, ``openvino``, or ONNX Runtime's own
                names, best first; the CPU where None. Plug-ins that are installed register themselves.

        Raises:
            BundleError: if the bundle has no graphs that suit, or ONNX Runtime does not take one.
            DeviceError: if a provider cannot be used here; the message says what to install.
        """
        chosen = choose_providers(providers)
        graphs = choose_graph_set(bundle, chosen)
        self.providers = tuple(provider.key for provider in chosen)
        self.graphs = graphs
        self.hidden_size = bundle.manifest.llm.hidden_size
        self._cache_tokens = cache_tokens
        self._embedding: EmbeddingTable | None = EmbeddingTable(bundle)
        self._vision: OnnxVision | None = OnnxVision(bundle, threads, providers=chosen, graphs=graphs)
        self._decoder: OnnxDecoder | None = OnnxDecoder(
            bundle, cache_tokens, threads, providers=chosen, graphs=graphs
        )

    @property
    def cache(self) -> CacheRoom:
        """See :class:`internvl_rt.engines.engine.Engine`. A fork is a copy."""
        return CacheRoom(self._cache_tokens)

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that no sequence uses."""
        return _open(self._decoder).free_tokens

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        """Encodes tiles, one after another."""
        return _open(self._vision).encode_tiles(pixel_values, progress)

    def new_sequence(self) -> int:
        """Starts an empty sequence."""
        return _open(self._decoder).new_sequence()

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        """Starts a sequence with the first ``tokens`` tokens of another one; all of them where None."""
        return _open(self._decoder).fork(sequence, tokens)

    def drop(self, sequence: int) -> None:
        """Forgets a sequence and frees its place in the cache."""
        _open(self._decoder).drop(sequence)

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""
        return _open(self._decoder).length(sequence)

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        """Appends embeddings to a sequence."""
        return _open(self._decoder).prefill(sequence, embeddings, all_logits, progress)

    def decode(
        self, sequences: Sequence[int], tokens: Sequence[int], counts: Sequence[int] | None = None
    ) -> Float32Array:
        """Appends a run of tokens to each of several different sequences."""
        embeddings = _open(self._embedding).look_up(np.asarray(tokens, np.int64))
        return _open(self._decoder).decode(sequences, embeddings, counts)

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        """Looks up token embeddings and splices image features in."""
        return _open(self._embedding).embed(token_ids, features)

    def close(self) -> None:
        """Frees the engine's memory once the calls that are running have ended."""
        self._embedding = self._vision = self._decoder = None


def _open(part: Opened | None) -> Opened:
    if part is None:
        raise InternVLError("this engine is closed. Load the model again.")
    return part
