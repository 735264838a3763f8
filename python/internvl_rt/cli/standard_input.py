"""What ``-`` stands for: a question or a picture that comes through standard input."""

from __future__ import annotations

import sys

from internvl_rt.errors import ImageError, InternVLError, PromptError

MOST_QUESTION_BYTES = 1_000_000


def read_question() -> str:
    """The text that standard input holds, UTF-8.

    Raises:
        PromptError: if it is larger than a question, or no text.
    """
    data = _read(MOST_QUESTION_BYTES, "a question", PromptError)
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise PromptError(
            f"standard input is not UTF-8 text (byte {error.start}); expected a question. A picture is given "
            "with --image -."
        ) from error


def read_picture() -> bytes:
    """The bytes of the picture that standard input holds.

    Raises:
        ImageError: if it is larger than a picture's file.
    """
    from internvl_rt.images import MAX_PIXELS
    from internvl_rt.images.decode import BYTES_PER_PIXEL

    return _read(BYTES_PER_PIXEL * MAX_PIXELS, "a picture", ImageError)


def _read(most: int, expected: str, error: type[InternVLError]) -> bytes:
    # Piece by piece: an endless input would fill the memory.
    data = bytearray()
    while piece := sys.stdin.buffer.read(1 << 16):
        data += piece
        if len(data) > most:
            raise error(f"standard input has more than {most / 1e6:g} MB; expected {expected}.")
    return bytes(data)
