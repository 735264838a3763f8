"""The interface that every engine satisfies; the rest of the package does not know which one runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from internvl_rt._core import CacheRoom

Float32Array = npt.NDArray[np.float32]

Progress: TypeAlias = Callable[[int], None]
"""Asked on the way of a long call whether to go on, ten times a second where the engine can. Its argument is
how much is done, often the same as before. What it raises ends the call, which leaves everything as it was
before. It must not call the engine."""


@dataclass(frozen=True)
class EncodedTiles:
    """What the vision side makes of a picture's tiles."""

    features: Float32Array
    """[tiles, tokens_per_tile, hidden] of the language model's width."""
    vit_ms: float
    projector_ms: float
    """Pixel shuffle included."""
    compressed: Float32Array | None = None
    """[tiles, tokens_per_compressed_tile, hidden] of a model with a resolution router: what the tiles are in
    fewer tokens. The whole picture decides which of the two a tile becomes."""
    scores: Float32Array | None = None
    """[tiles], then: the probability that a tile can do with fewer tokens."""


class Engine(Protocol):
    """Vision encoder and language model of one loaded bundle.

    A *sequence* is a place in the KV cache, named by an integer. All methods may be called from
    several threads. A call that fails leaves every sequence as it was before the call.

    Some models choose the frequencies of rotary position embedding by a sequence's length: dynamic NTK beyond
    the trained length, longrope at its original one. As in the authors' code, that is the length after the
    call, for all positions that the call appends, however an engine cuts them into chunks; and keys that are
    in the cache stay as they were rotated. So a prompt is prefilled in one call, and a token that is decoded
    has the frequencies of the sequence that ends with it.
    """

    name: str
    hidden_size: int
    """Of the language model: the width of embeddings and of image features."""

    @property
    def cache(self) -> CacheRoom:
        """Tokens that the KV cache holds, all sequences together, and how many of them a sequence takes."""

    @property
    def free_tokens(self) -> int:
        """Tokens of the cache that no sequence uses; a new sequence of so many fits now."""

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        """Encodes tiles, in batches whose activations are bounded.

        Args:
            pixel_values: normalised float32 [tiles, 3, tile_size, tile_size]. The result of a tile does not
                depend on the others.
            progress: asked with the number of tiles done, also in the middle of a tile.

        Raises:
            ImageError: if the shape or type is another one.
        """

    def new_sequence(self) -> int:
        """Starts an empty sequence."""

    def fork(self, sequence: int, tokens: int | None = None) -> int:
        """Starts a sequence with the first ``tokens`` tokens of another one; all of them where None."""

    def drop(self, sequence: int) -> None:
        """Forgets a sequence and frees its place in the cache."""

    def length(self, sequence: int) -> int:
        """Tokens of a sequence."""

    def prefill(
        self,
        sequence: int,
        embeddings: Float32Array,
        all_logits: bool = False,
        progress: Progress | None = None,
    ) -> Float32Array:
        """Appends embeddings to a sequence.

        Args:
            sequence: the sequence to append to.
            embeddings: float32 [n, hidden], n >= 1.
            all_logits: return the logits of every position instead of the last one's.
            progress: asked with the number of tokens done.

        Returns:
            float32 [1, vocab], or [n, vocab].

        Raises:
            CacheFullError: if the cache has no room for n more tokens.
            PromptError: if the shape or type of ``embeddings`` is another one.
        """

    def decode(
        self, sequences: Sequence[int], tokens: Sequence[int], counts: Sequence[int] | None = None
    ) -> Float32Array:
        """Appends a run of tokens to each of several different sequences.

        A run has the rotary frequencies that its tokens get one by one.

        Args:
            sequences: the sequences to append to.
            tokens: those of the first sequence, then those of the next, and so on.
            counts: how many tokens each sequence gets, at least one; exactly one each where None.

        Returns:
            float32 [len(sequences), vocab], the logits after each run. A row does not depend on the others.

        Raises:
            CacheFullError: if the cache has no room for the tokens.
            PromptError: if a sequence is named twice, or the counts do not add up.
        """

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        """Looks up token embeddings and puts image features in the places of the image context token.

        Args:
            token_ids: [n].
            features: [image tokens, hidden], or None. One row for each image context id, in order.

        Returns:
            float32 [n, hidden].

        Raises:
            PromptError: if an id is outside of the vocabulary, or the counts differ.
        """

    def close(self) -> None:
        """Frees the engine's memory. Calling it twice is fine; anything else afterwards is an error."""
