"""What happens to a user without permission, in tests that root may run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def unprivileged(way: Path) -> Iterator[None]:
    """Lets root's permissions rest. What is imported here for the first time may not be found.

    Args:
        way: a folder to which nobody is let through; what is in it keeps its permissions.
    """
    for folder in (way, *way.parents):
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o055)
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)
