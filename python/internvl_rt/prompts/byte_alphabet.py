"""How byte-level vocabularies (GPT-2, Qwen, Llama 3) write bytes as characters."""

from __future__ import annotations


def _make() -> str:
    """Printable Latin-1 bytes stand for themselves, the others for the characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


BYTE_ALPHABET = _make()
"""The character of each of the 256 bytes."""
