"""Which precision every part of a model is stored in."""

from __future__ import annotations

from typing import get_args

from internvl_rt.bundle.manifest import PartPrecision, Precision
from internvl_rt.errors import CheckpointError

PRECISIONS: tuple[str, ...] = get_args(Precision)

DEFAULT_WEIGHTS: Precision = "bf16"
"""Of a language model that is not quantised already."""


def choose_precision(weights: str, vision: str | None = None) -> PartPrecision:
    """The precision of every part.

    Args:
        weights: of the language model: fp32, fp16, bf16, int8 or int4.
        vision: of the vision tower; None is the same as ``weights`` for fp32, fp16 and bf16, and bf16 for the
            integers. int4 is refused: InternVL's towers are known to break with 4-bit weights.

    Returns:
        The embedding table and the projector are never integers, bf16 instead: the table is looked up and not
        multiplied, and the projector is about one part in a hundred of the model while every image token
        passes through it.

    Raises:
        CheckpointError: for an unknown precision, or int4 vision.
    """
    for option, value in (("weights", weights), ("vision", vision)):
        if value is not None and value not in PRECISIONS:
            raise CheckpointError(
                f"{option}={value!r} is not a precision; choose one of {', '.join(PRECISIONS)}."
            )
    if vision == "int4":
        raise CheckpointError(
            "vision='int4' is refused: the vision tower's answers break with 4-bit weights. "
            "Choose int8 or bf16 for vision; the language model may be int4."
        )
    return PartPrecision(
        vit=_float_or_bf16(weights) if vision is None else _precision(vision),
        projector=_float_or_bf16(weights if vision is None else vision),
        llm=_precision(weights),
        embedding=_float_or_bf16(weights),
    )


def _precision(name: str) -> Precision:
    return next(p for p in get_args(Precision) if p == name)


def _float_or_bf16(name: str) -> Precision:
    return "bf16" if name in ("int8", "int4") else _precision(name)
