"""The engines under test, and how their numbers are compared."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.engines.engine import Engine

_CLASSES = {
    "onnxruntime": ("internvl_rt.engines.onnxruntime", "OnnxEngine"),
    "native": ("internvl_rt.engines.native", "NativeEngine"),
}
ENGINES = [name for name, (module, _) in _CLASSES.items() if importlib.util.find_spec(module)]


@contextlib.contextmanager
def opened(engine: str, folder: Path, cache_tokens: int = 2048, threads: int = 2) -> Iterator[Engine]:
    """An engine of a bundle, closed at the end."""
    module, name = _CLASSES[engine]
    made = getattr(importlib.import_module(module), name)(
        open_bundle(folder), cache_tokens=cache_tokens, threads=threads
    )
    try:
        yield made
    finally:
        made.close()


def relative_error(found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """The largest error, in units of the expected values' root mean square."""
    assert found.shape == expected.shape
    expected = expected.astype(np.float64)
    return float(np.abs(found - expected).max() / np.sqrt((expected**2).mean()))


def cosines(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The cosine between corresponding rows of two arrays."""
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(1) / norms)


def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """The smallest cosine between corresponding rows of two arrays."""
    return float(cosines(a, b).min())


def greedy(engine: Engine, embeddings: npt.NDArray[np.float32], steps: int) -> list[int]:
    """The greedy continuation of a prompt."""
    sequence = engine.new_sequence()
    logits = engine.prefill(sequence, embeddings)
    tokens = []
    for _ in range(steps):
        tokens.append(int(logits[-1].argmax()))
        logits = engine.decode([sequence], tokens[-1:])
    engine.drop(sequence)
    return tokens


def assert_greedy_agrees(found: list[int], expected: list[int], margins: list[float]) -> None:
    """Tokens are equal until the reference itself is undecided."""
    for step, (mine, theirs, margin) in enumerate(zip(found, expected, margins, strict=True)):
        if margin <= 1e-3:
            return
        assert mine == theirs, f"token {step} differs where the reference leads by {margin:.2e}"


@dataclass(frozen=True)
class Rounding:
    """How near the native engine comes to float64 where it rounds activations for their weights."""

    cosine: float
    """At least, between features or logits of one token."""
    error: float
    """At most, in units of the logits' root mean square."""


INTEGERS = Rounding(0.999, 0.2)
"""For int8 and int4, to int8. A row whose greatest element is three times its root mean square gets a noise
of 3 / 127 / sqrt(12) = 0.7 % from that. The nine roundings on the way through two layers and the output
matrix add up to 2 %, and to 4.5 % where a row has twice the noise: a cosine of 0.999. The largest of some
thousand errors is four and a half times their root mean square: 0.2 of the logits'.
"""

BFLOAT16 = Rounding(0.9999, 0.06)
"""For bf16, to bf16, where the processor multiplies that. Eight significant bits are a noise of 0.16 %; nine
roundings add up to 0.5 %. The contract's cosine allows 1.4 %, and 0.06 for the largest error.
"""


def rounding(engine: str, weights: str) -> Rounding | None:
    """How an engine rounds activations at a precision; None where it does not."""
    if engine == "native" and weights in ("int8", "int4"):
        return INTEGERS
    if engine == "native" and weights == "bf16" and _core.multiplies_bfloat16():
        return BFLOAT16
    return None


def assert_rounded_agrees(
    bounds: Rounding,
    found: npt.NDArray[np.floating],
    expected: npt.NDArray[np.floating],
    decode: Callable[[int], npt.NDArray[np.floating]],
    tokens: list[int],
    margins: list[float],
    experts: bool = False,
) -> None:
    """Logits are within the bounds, and tokens are equal wherever those leave no doubt.

    Args:
        bounds: of the rounding.
        found: logits of a prompt [n, vocab].
        expected: the reference's.
        decode: appends a token and returns the logits after it [1, vocab].
        tokens: the reference's greedy continuation, which is what is decoded.
        margins: by how much each of those tokens leads.
        experts: whether the model is a mixture of experts. There, a little noise makes a token that stands
            between two experts get the other one: what is said of noise holds for the median token.
    """
    if experts:
        assert np.median(cosines(found, expected)) > bounds.cosine
        return
    assert cosine(found, expected) > bounds.cosine
    assert relative_error(found, expected) < bounds.error
    doubt = 2 * bounds.error * float(np.sqrt((expected.astype(np.float64) ** 2).mean()))
    assert max(margins) > doubt
    for token, margin in zip(tokens, margins, strict=True):
        if margin > doubt:
            assert int(found[-1].argmax()) == token
        found = decode(token)
