"""Waiting for what another thread brings about."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str = "it never came to that", seconds: float = 30.0) -> None:
    """Returns as soon as the condition holds; fails where it does not in that time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.001)
