"""The native engine: the vision side and the language model in C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.manifest import Manifest, unreadable_files
from internvl_rt.engines.arrays import check_pixel_values
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.errors import InternVLError, PromptError

CacheType = Literal["float32", "float16", "bfloat16", "int8"]
"""How keys and values are stored; int8 has one scale for each token's key and value of a head."""

PREFILL_CHUNK = 256
"""Prompt tokens that are computed at once: it bounds the memory of activations."""


def default_cache_type(manifest: Manifest) -> CacheType:
    """How keys and values are stored where the user does not say."""
    return _core.default_cache_type(manifest.precision.llm, attends_in_bfloat16=_core.attends_in_bfloat16())


class NativeEngine:
    """Satisfies :class:`internvl_rt.engines.engine.Engine`.

    Weights are computed from where they lie in the mapped file. The features of a tile are the same bits
    whatever tiles are encoded beside it, and the logits after a token however its sequence was cut into calls
    and whatever is decoded beside it; both for any number of threads.
    """

    name = "native"

    def __init__(
        self,
        bundle: Bundle,
        *,
        cache_tokens: int,
        threads: int | None = None,
        cache_type: CacheType = "float32",
        activation_bytes: int = _core.DEFAULT_ACTIVATION_BYTES,
    ) -> None:
        """Maps the weights and allocates the KV cache.

        Args:
            bundle: an opened bundle; its graphs are not needed.
            cache_tokens: tokens that the KV cache holds, all sequences together; rounded up to whole blocks.
            threads: how many compute; None for one per usable core.
            cache_type: how keys and values are stored.
            activation_bytes: what the activations of a batch of tiles may take; one tile is always taken.

        Raises:
            BundleError: if a tensor is not what the manifest says.
            DeviceError: if there is no memory for the cache or a batch, or ``threads`` is out of range.
        """
        self._bundle = bundle
        # Both sides read one mapping of the weights, and one team of threads computes both.
        weights, team = map_weights(bundle), _core.ThreadTeam(threads or 0)
        self.team = team
        self.hidden_size = bundle.manifest.llm.hidden_size
        manifest = bundle.manifest.checked()
        self._decoder: _core.Decoder | None = _core.Decoder(
            manifest,
            weights,
            team,
            cache_tokens=cache_tokens,
            cache_type=cache_type,
            prefill_chunk=PREFILL_CHUNK,
        )
        self._vision: _core.VisionEncoder | None = _core.VisionEncoder(
            manifest, weights, team, activation_bytes=activation_bytes
        )
        self.core: _core.NativeEngine | None = _core.NativeEngine(self._decoder, self._vision, manifest)
        """What the scheduler computes with, without Python."""

    @property
    def cache(self) -> _core.CacheRoom:
        """See :class:`internvl_rt.engines.engine.Engine`. Forks share full blocks."""
        return _core.CacheRoom(self._open.cache_tokens, block_tokens=_core.CACHE_BLOCK, forks_share=True)

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that no sequence uses, in whole blocks."""
        return self._open.free_tokens

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        """Encodes tiles, as :meth:`internvl_rt.engines.engine.Engine.encode_tiles`.

        Signals are handled between layers: there, Ctrl-C ends the call. Tokens of other sequences are decoded
        there too.

        Raises:
            ImageError: if the shape or type is another one.
        """
        vision = self._vision
        if vision is None:
            raise _closed()
        check_pixel_values(pixel_values, self._bundle.manifest.vision)
        return EncodedTiles(*vision.encode(pixel_values, progress))

    def new_sequence(self) -> int:
        """Starts an empty sequence. One that nobody knows any more is dropped."""
        return LeasedSequence(_core.SequenceLease(self._open))

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        """Starts a sequence with the first tokens of another; blocks of the cache are shared, not copied.

        One that nobody knows any more is dropped.
        """
        if tokens is None:
            tokens = self._open.length(sequence)
        return LeasedSequence(_core.SequenceLease(self._open, sequence, tokens))

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
        progress: Progress | None = None,
    ) -> Float32Array:
        """Appends embeddings, as :meth:`internvl_rt.engines.engine.Engine.prefill`.

        Args:
            sequence: the sequence to append to.
            embeddings: float32 [n, hidden], n >= 1.
            all_logits: return the logits of every position instead of the last one's.
            progress: asked between layers with the number of tokens done, a multiple of ``PREFILL_CHUNK``.
                What it raises ends the prefill, and the sequence is as it was before the call. Signals are
                handled there, and tokens of other sequences decoded.

        Raises:
            CacheFullError: if the cache has no room for n more tokens.
            PromptError: if the shape or type of ``embeddings`` is another one.
        """
        return self._open.prefill(sequence, _rows(embeddings, "embeddings"), all_logits, progress)

    def decode(
        self, sequences: Sequence[int], tokens: Sequence[int], counts: Sequence[int] | None = None
    ) -> Float32Array:
        """Appends a run of tokens to each of several sequences, as one batch.

        The logits are the same bits as after the same tokens one by one.

        Raises:
            CacheFullError: if the cache has no room for the tokens.
            PromptError: if a token is outside of the vocabulary, a sequence is named twice, or the counts do
                not add up.
        """
        return self._open.decode(np.asarray(sequences, np.int64), np.asarray(tokens, np.int64), counts)

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        """Looks up and splices, as :meth:`internvl_rt.engines.engine.Engine.embed`."""
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
            raise PromptError(f"token_ids is {token_ids.dtype} {list(token_ids.shape)}; expected int64 [n].")
        rows = None if features is None else _rows(features, "features")
        image_token = self._bundle.manifest.prompt.image_context_id
        return self._open.embed(token_ids.astype(np.int64, copy=False), rows, image_token)

    def close(self) -> None:
        """Frees the engine's memory, once the calls that are running have ended."""
        self._decoder = self._vision = self.core = None

    @property
    def _open(self) -> _core.Decoder:
        if self._decoder is None:
            raise _closed()
        return self._decoder


class LeasedSequence(int):
    """The number of a sequence, which is dropped with the last reference to this object.

    An interrupt may come between any two instructions of Python, so also after a sequence was made and before
    whoever asked for it has its number: nobody could drop it then.
    """

    def __new__(cls, lease: _core.SequenceLease) -> LeasedSequence:
        """Keeps the lease."""
        sequence = super().__new__(cls, lease.id)
        sequence._lease = lease
        return sequence

    _lease: _core.SequenceLease


def _closed() -> InternVLError:
    return InternVLError("the engine is closed. Load the bundle again.")


def map_weights(bundle: Bundle) -> _core.WeightFile:
    """The weights of a bundle, memory-mapped.

    Raises:
        BundleError: if the file is not what it was when the bundle was opened.
    """
    with unreadable_files():
        return _core.WeightFile(bundle.weights, list(bundle.places.values()))


def load_decoder(
    bundle: Bundle,
    *,
    cache_tokens: int,
    threads: int | None = None,
    cache_type: CacheType = "float32",
    prefill_chunk: int = PREFILL_CHUNK,
) -> _core.Decoder:
    """The language model of a bundle alone."""
    return _core.Decoder(
        bundle.manifest.checked(),
        map_weights(bundle),
        _core.ThreadTeam(threads or 0),
        cache_tokens=cache_tokens,
        cache_type=cache_type,
        prefill_chunk=prefill_chunk,
    )


def _rows(array: Float32Array, name: str) -> Float32Array:
    """Holds an argument against its type; the C++ core holds it against the model's width."""
    if array.dtype != np.float32 or array.ndim != 2:
        raise PromptError(f"{name} is {array.dtype} {list(array.shape)}; expected float32 [n, hidden].")
    return array
