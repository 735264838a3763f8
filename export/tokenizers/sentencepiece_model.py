"""``tokenizer.model``: the fields of SentencePiece's protocol buffer that a conversion needs.

Read by hand: the format is small, and a malformed file becomes a reason instead of a crash.
Field numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers.files import read_bytes

SPACE = "▁"
"""U+2581, which stands for a space in pieces."""

_Value: TypeAlias = int | bytes


class PieceType(enum.IntEnum):
    """What a piece is to the encoder."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    """Never comes out of text."""
    USER_DEFINED = 4
    """Always one piece where it stands in text."""
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary."""

    text: str
    score: float
    type: PieceType


@dataclass(frozen=True)
class SentencePieceModel:
    """What a ``tokenizer.model`` says."""

    path: Path
    data: bytes
    """The file itself."""
    pieces: tuple[Piece, ...]
    algorithm: str
    """``bpe``, ``unigram``, ``word`` or ``char``."""
    byte_fallback: bool
    whitespace_as_suffix: bool
    charsmap: bytes
    """The compiled normalisation rules; empty for none."""
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    @property
    def control_pieces(self) -> frozenset[str]:
        """The pieces that never come out of text."""
        kinds = (PieceType.CONTROL, PieceType.UNKNOWN)
        return frozenset(piece.text for piece in self.pieces if piece.type in kinds)

    def for_library(self, *, dummy_prefix: bool) -> bytes:
        """The file for the SentencePiece library, with another word on its prefix.

        Since 0.2.3 the library refuses a model with U+0000 within a piece, and warns of a piece that is this
        character alone. No text that a prompt is made of has it, so such pieces go by another name.
        """
        written = bytearray()
        index = 0
        for number, value in _fields(self.data):
            if number == 1:
                piece = self.pieces[index]
                if "\0" in piece.text:
                    value = _written(1, f"<U+0000 {index}>".encode())
                    value += _SCORE.pack(2 << 3 | 5, piece.score) + _written(3, int(piece.type))
                index += 1
            if number != _SELF_TEST:  # its texts were encoded with the other prefix
                written += _written(number, value)
        # Of a field that is there twice the last one counts, and messages are merged.
        return bytes(written + _written(3, _written(3, int(dummy_prefix))))


_SELF_TEST = 4

_SCORE = struct.Struct("<Bf")
"""A piece's field 2, the tag in front."""


def _written(number: int, value: _Value) -> bytes:
    if isinstance(value, int):
        return _varint_bytes(number << 3) + _varint_bytes(value)
    return _varint_bytes(number << 3 | 2) + _varint_bytes(len(value)) + value


def _varint_bytes(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Reads a model file.

    Raises:
        CheckpointError: if the file is not one, is truncated, or defines a piece twice.
    """
    data = read_bytes(path)
    pieces: list[Piece] = []
    trainer: dict[int, _Value] = {}
    normaliser: dict[int, _Value] = {}
    try:
        for number, value in _fields(data):
            if number == 1:
                pieces.append(_piece(_message(value)))
            elif number == 2:
                trainer.update(_fields(_message(value)))
            elif number == 3:
                normaliser.update(_fields(_message(value)))
        charsmap = _message(normaliser.get(2, b""))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: is not a SentencePiece model ({error}). Download the file again."
        ) from error
    if not pieces:
        raise CheckpointError(f"{path}: is not a SentencePiece model (it has no pieces).")
    seen: set[str] = set()
    for piece in pieces:
        if piece.text in seen:
            raise CheckpointError(f"{path}: the piece {piece.text!r} is there twice.")
        seen.add(piece.text)
    algorithm = trainer.get(3, 1)
    return SentencePieceModel(
        path=path,
        data=data,
        pieces=tuple(pieces),
        algorithm=_ALGORITHMS.get(algorithm, str(algorithm)) if isinstance(algorithm, int) else "?",
        byte_fallback=bool(trainer.get(35, 0)),
        whitespace_as_suffix=bool(trainer.get(24, 0)),
        charsmap=charsmap,
        add_dummy_prefix=bool(normaliser.get(3, 1)),
        remove_extra_whitespaces=bool(normaliser.get(4, 1)),
        escape_whitespaces=bool(normaliser.get(5, 1)),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    score, kind = fields.get(2, b"\0\0\0\0"), fields.get(3, 1)
    if not isinstance(score, bytes) or len(score) != 4:
        raise ValueError("a piece's score is no float")
    value: float = struct.unpack("<f", score)[0]
    if not math.isfinite(value):
        raise ValueError(f"a piece has the score {value}")
    if not isinstance(kind, int) or kind not in PieceType.__members__.values():
        raise ValueError(f"a piece has the unknown type {kind!r}")
    return Piece(_message(fields.get(1, b"")).decode("utf-8"), value, PieceType(kind))


def _message(value: _Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field has the wrong wire type")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """The fields of one message: integers for varints, bytes for everything else."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if length > len(data) - at:
            raise ValueError(f"a field of {length} bytes at byte {at} runs past the end")
        yield tag >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number of more than ten bytes at byte {at}")
