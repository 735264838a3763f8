"""How the string of a token becomes bytes of text."""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from internvl_rt.errors import BundleError
from internvl_rt.prompts.byte_alphabet import BYTE_ALPHABET

_BYTE_PIECE = re.compile("<0x([0-9A-Fa-f]{2})>")


class Decoding:
    """How a token's string becomes bytes, read from the tokenizer's decoder.

    Two kinds are known: byte-level (Qwen, Llama 3) and SentencePiece with byte fallback (InternLM2, Phi-3).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Reads the decoder.

        Raises:
            BundleError: if it is of another kind.
        """
        self.byte_level: dict[str, int] | None = None
        self.replacements: list[tuple[str, str]] = []
        self.byte_fallback = False
        self.artificial_spaces = 0
        """So many spaces at the very start of a text are the tokenizer's, not the model's."""
        if tokenizer.decoder is None:
            raise BundleError("the tokenizer has no decoder. Export the bundle again.")
        self._read(json.loads(tokenizer.decoder.__getstate__()))

    def _read(self, decoder: dict[str, Any]) -> None:
        match decoder:
            case {"type": "Sequence", "decoders": list(parts)}:
                for part in parts:
                    self._read(part)
            case {"type": "ByteLevel"}:
                self.byte_level = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
                self.replacements.append((old, new))
            case {"type": "ByteFallback"}:
                self.byte_fallback = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                self.artificial_spaces = start
            case {"type": "Metaspace", "replacement": str(mark)}:
                self.replacements.append((mark, " "))
                self.artificial_spaces = int(decoder.get("prepend_scheme", "always") != "never")
            case _:
                raise BundleError(f"the tokenizer's decoder {decoder} is not known. Export the bundle again.")

    def token_bytes(self, token: str, *, strip_space: bool = False) -> bytes:
        """The bytes of a token that is in the model's vocabulary.

        Args:
            token: its string.
            strip_space: without the space in front, unless that is a byte token, which the model meant.
        """
        if self.byte_level is not None:
            try:
                return bytes(self.byte_level[character] for character in token)
            except KeyError:
                return token.encode()
        if self.byte_fallback and (byte := _BYTE_PIECE.fullmatch(token)):
            return bytes((int(byte[1], 16),))
        for old, new in self.replacements:
            token = token.replace(old, new)
        if strip_space:
            token = token.removeprefix(" ")
        return token.encode()
