"""The typed errors. Each message says what was wrong, what was expected, and what to do.

The core says the first two. What to do, in Python's words, follows from the code of its errors and stands
here.
"""

from __future__ import annotations

import re

_ADVICE = {
    "no_bundle": "Make a bundle with `internvl-rt export CHECKPOINT OUT`.",
    "engine_cannot": "Use engine='onnxruntime'.",
    "forked": "Or start that process with multiprocessing's 'spawn' method.",
    "logits_not_a_number": (
        "Check the files with `internvl-rt inspect BUNDLE --verify`; if they are whole, the numbers grew too "
        "large on the way: export with bf16 or fp32, which hold larger ones than fp16."
    ),
}
"""By the core's codes: a sentence that goes behind the message."""
_NAMES = {"too_many_frames": (re.compile(r"(take \d+ frames)"), r"\1 (num_frames)")}
"""What goes behind words in the message: the argument's name."""

CODES = frozenset({*_ADVICE, *_NAMES})


def with_advice(message: str, code: str) -> str:
    """A message of the core's with Python's advice; as it is where the code is empty."""
    if code in _NAMES:
        words, named = _NAMES[code]
        return words.sub(named, message)
    return f"{message} {_ADVICE[code]}" if code in _ADVICE else message


class InternVLError(Exception):
    """The base of every error that this package raises on purpose."""


class CheckpointError(InternVLError):
    """A checkpoint folder that cannot be read, or holds an architecture that is not supported."""


class BundleError(InternVLError):
    """A bundle that is incomplete, truncated, altered, or of another format version."""


class ImageError(InternVLError):
    """A picture that cannot be decoded, or whose size, type or layout is not taken."""


class PromptError(InternVLError):
    """A prompt that does not fit the model: image marks, length, template or arguments."""


class DeviceError(InternVLError):
    """A device, engine or instruction set that this machine does not have."""


class CacheFullError(InternVLError):
    """The KV cache has no free block left. Sequences that are running keep running."""


class BusyError(InternVLError):
    """So many requests wait for the model that it takes no further one now."""


class ClosedError(InternVLError):
    """A call to a model that was closed."""
