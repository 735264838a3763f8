"""The angles of rotary position embedding, computed by the host so that the graph serves every variant."""

from __future__ import annotations

import numpy as np

from internvl_rt.bundle.manifest import LanguageModel
from internvl_rt.engines.engine import Float32Array


def rotary_tables(llm: LanguageModel, begin: int, end: int, length: int) -> tuple[Float32Array, Float32Array]:
    """Cosines and sines of positions ``begin`` to ``end`` (exclusive).

    Args:
        llm: the facts.
        begin: the first position.
        end: one past the last.
        length: the sequence's length after the call that these positions are part of; see ``Engine``. Beyond
            the trained length, ``dynamic`` scaling enlarges the base by it (dynamic NTK, as InternLM2's
            authors do:
            theta * (factor * length / trained - (factor - 1)) ** (d / (d - 2))). It decides too which set
            of factors divides the frequencies (longrope, as Phi-3's authors do).

    Returns:
        Two float32 [1, end - begin, head_dim / 2].
    """
    rope, d = llm.rope, llm.head_dim
    theta = rope.theta
    if rope.scaling == "dynamic" and length > rope.max_position_embeddings:
        stretch = rope.factor * length / rope.max_position_embeddings - (rope.factor - 1)
        theta *= stretch ** (d / (d - 2))
    frequencies = theta ** (-np.arange(0, d, 2, dtype=np.float64) / d)
    original = rope.original_max_position_embeddings
    factors = rope.long_factor if original is not None and length > original else rope.short_factor
    if factors:
        frequencies /= np.array(factors)
    angles = np.outer(np.arange(begin, end, dtype=np.float64), frequencies)[None]
    cos, sin = np.cos(angles) * rope.attention_factor, np.sin(angles) * rope.attention_factor
    return cos.astype(np.float32), sin.astype(np.float32)
