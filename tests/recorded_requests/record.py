"""Takes the record: ``python tests/recorded_requests/record.py``.

It is what the package answered when this was run last. Only a change of behaviour that is meant is a reason
to run it again; the difference is then part of the change, and is read as closely.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from recorded_requests.bundles import Models
from recorded_requests.cases import CLASSES
from recorded_requests.lines import write
from recorded_requests.stage import replied

LAST_BITS = 2.0**-16
"""By how much logits are scaled to find answers that hang on the last bits of an exponential."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder))
        for name, requests in CLASSES.items():
            replies = {request.name: replied(models, request) for request in requests}
            assert len(replies) == len(requests), f"{name}: two requests have one name"
            for scale in (1 - LAST_BITS, 1 + LAST_BITS):
                models.scale(scale)
                for request in requests:
                    chosen = ids_in(replied(models, request))
                    assert chosen == ids_in(replies[request.name]), (
                        f"{name}, {request.name}: other tokens where logits differ in their last bits. "
                        "Choose another seed."
                    )
            models.scale(1.0)
            print(f"{name}: {len(replies)} requests, {write(name, replies):,} bytes")


def ids_in(value: Any) -> list[str]:
    """The ids of all answers in a reply."""
    if isinstance(value, dict):
        own = [value[key] for key in ("ids", "next", "pieces") if key in value]
        return [str(own), *(found for item in value.values() for found in ids_in(item))]
    return [found for item in value for found in ids_in(item)] if isinstance(value, list) else []


if __name__ == "__main__":
    main()
