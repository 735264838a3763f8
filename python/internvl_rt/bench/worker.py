"""The process that measures one engine, and reports to ``bench.run`` in lines of JSON.

It reads a line from stdin, one JSON object (bundle, engine, options), and writes objects with ``progress``,
then one with ``report`` or with ``error``. When its stdin ends, whoever started it is gone, and it ends too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from typing import Any

from internvl_rt.bench.measure import measure_engine
from internvl_rt.bench.report import BenchOptions
from internvl_rt.errors import InternVLError


def main() -> None:
    """Does the one task."""
    task = json.loads(_line(sys.stdin.fileno()))
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    options = task["options"]
    options |= {"image_size": tuple(options["image_size"]), "cache_fills": tuple(options["cache_fills"])}
    try:
        report = measure_engine(
            task["bundle"], task["engine"], BenchOptions(**options), lambda text: _tell({"progress": text})
        )
    except InternVLError as error:
        _tell({"error": type(error).__name__, "message": str(error)})
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    else:
        _tell({"report": dataclasses.asdict(report)})


def _line(descriptor: int) -> bytes:
    """A line, without Python's buffer: a thread that waits in one keeps the process from ending."""
    line = b""
    while not line.endswith(b"\n") and (more := os.read(descriptor, 1 << 16)):
        line += more
    return line


def _end_with_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    # At once, in the middle of a computation: nobody waits for its end.
    os._exit(1)


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)
