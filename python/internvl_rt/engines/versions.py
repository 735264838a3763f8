"""Versions of the libraries that engines compute with."""

from __future__ import annotations

import re


def release_of(version: str) -> tuple[int, int]:
    """Major and minor of a version such as ``10.3.0.30``; (0, 0) if it is none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
