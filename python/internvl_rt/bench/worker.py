"""``python -m internvl_rt.bench.worker``: measures one engine and tells ``bench.run`` by lines of JSON.

It reads one JSON object from stdin (bundle, engine, options) and writes objects with ``progress``, then one
with ``report`` or one with ``error``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from internvl_rt.bench.measure import measure_engine
from internvl_rt.bench.report import BenchOptions
from internvl_rt.errors import InternVLError


def main() -> None:
    """Does the one task."""
    task = json.load(sys.stdin)
    options = task["options"]
    options |= {"image_size": tuple(options["image_size"]), "cache_fills": tuple(options["cache_fills"])}
    try:
        report = measure_engine(
            task["bundle"], task["engine"], BenchOptions(**options), lambda text: _tell({"progress": text})
        )
    except InternVLError as error:
        _tell({"error": type(error).__name__, "message": str(error)})
    else:
        _tell({"report": dataclasses.asdict(report)})


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
