"""How byte-level vocabularies (GPT-2, Qwen, Llama 3) write bytes as characters."""

from __future__ import annotations

from internvl_rt import _core

BYTE_ALPHABET = _core.byte_alphabet()
"""The character of each of the 256 bytes."""
