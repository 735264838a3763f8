"""Numbers of bytes for people."""

from __future__ import annotations


def readable_size(count: float) -> str:
    """Bytes in the unit that fits: ``812 B``, ``1.50 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
