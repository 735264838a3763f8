"""The most memory that this process has had at one time, and what it was made of. Linux only."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.002
"""Seconds between two looks, each of which takes some 50 microseconds."""


@dataclass(frozen=True)
class Resident:
    """Bytes of a process that are in memory."""

    total: int
    files: int
    """Pages of mapped files, such as weights and libraries: shared by all processes, and dropped when memory
    is short."""
    anonymous: int
    """Everything else: heap, cache, activations, copies of weights."""


class MemoryWatch:
    """Looks again and again, from a thread of its own, until it is asked for the peak."""

    def __init__(self) -> None:
        self._most = resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def peak(self) -> Resident:
        """The kernel's own count of the most, which misses no moment, split as the most that was seen."""
        self._done.set()
        self._thread.join()
        (most,) = _status("VmHWM")
        return Resident(most, self._most.files, self._most.anonymous)

    def _look(self) -> None:
        while not self._done.wait(INTERVAL):
            self._most = max(self._most, resident(), key=lambda found: found.total)


def resident() -> Resident:
    """What is in memory now."""
    files, anonymous, shared = _status("RssFile", "RssAnon", "RssShmem")
    return Resident(files + anonymous + shared, files, anonymous + shared)


def _status(*names: str) -> tuple[int, ...]:
    """Lines of /proc/self/status, in bytes."""
    lines = (line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    values = {name: value for name, value in lines if name in names}
    return tuple(1024 * int(values[name].split()[0]) for name in names)
