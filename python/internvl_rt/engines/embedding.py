"""Token embeddings, looked up in the memory-mapped table, with image features spliced in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.tensors import EMBED_TOKENS
from internvl_rt.engines.engine import Float32Array
from internvl_rt.errors import PromptError


class EmbeddingTable:
    """The embedding table of a bundle, [vocab, hidden]; rows are read from the file when they are needed."""

    def __init__(self, bundle: Bundle) -> None:
        place = bundle.places[EMBED_TOKENS]
        self._dtype = place.tensor.dtype
        # NumPy has no bfloat16: the upper half of a float32.
        stored = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[self._dtype]
        self._table = np.memmap(bundle.weights, stored, "r", place.begin, place.tensor.shape)
        self._image_context_id = bundle.manifest.prompt.image_context_id

    def embed(self, token_ids: npt.NDArray[np.int64], features: Float32Array | None) -> Float32Array:
        """Looks up and splices, as :meth:`internvl_rt.engines.engine.Engine.embed`."""
        embeddings = self.look_up(token_ids)
        places = token_ids == self._image_context_id
        given = 0 if features is None else len(features)
        if int(places.sum()) != given:
            raise PromptError(
                f"the prompt has {int(places.sum())} image context tokens and {given} image features were "
                "given. There must be one feature for each."
            )
        if features is not None:
            if features.dtype != np.float32 or features.shape[1:] != embeddings.shape[1:]:
                raise PromptError(
                    f"features is {features.dtype} {list(features.shape)}; expected float32 "
                    f"[n, {embeddings.shape[1]}]."
                )
            embeddings[places] = features
        return embeddings

    def look_up(self, token_ids: npt.NDArray[np.int64]) -> Float32Array:
        """The rows of the table, without splicing.

        Raises:
            PromptError: if an id is outside of the vocabulary.
        """
        vocab = self._table.shape[0]
        if token_ids.ndim != 1 or token_ids.dtype.kind not in "iu":
            raise PromptError(f"token_ids is {token_ids.dtype} {list(token_ids.shape)}; expected int64 [n].")
        if len(token_ids) and not (token_ids.min() >= 0 and token_ids.max() < vocab):
            outside = token_ids[(token_ids < 0) | (token_ids >= vocab)][0]
            raise PromptError(f"token id {outside} is outside of the vocabulary, 0 to {vocab - 1}.")
        rows = self._table[token_ids]
        if self._dtype == "bfloat16":
            return (rows.astype(np.uint32) << 16).view(np.float32)
        return rows.astype(np.float32)
