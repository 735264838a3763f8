"""Numbers of bytes for people."""

from __future__ import annotations

from internvl_rt import _core


def readable_size(count: float) -> str:
    """Bytes in the unit that fits: ``812 B``, ``1.50 GiB``."""
    return _core.readable_size(count)
