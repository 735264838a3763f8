"""The files of the record: one for each class of requests, one line for each request."""

from __future__ import annotations

import json
from pathlib import Path

from recorded_requests.stage import Reply

FOLDER = Path(__file__).parent / "record"


def read(name: str) -> dict[str, Reply]:
    """The replies of a class, by the request's name."""
    replies: dict[str, Reply] = {}
    for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            replies.update(json.loads(line))
    return replies


def write(name: str, replies: dict[str, Reply]) -> int:
    """Writes the replies of a class, and returns the size of the file in bytes."""
    lines = (
        json.dumps({request: reply}, ensure_ascii=False, sort_keys=True) + "\n"
        for request, reply in replies.items()
    )
    FOLDER.mkdir(exist_ok=True)
    return (FOLDER / f"{name}.jsonl").write_bytes("".join(lines).encode())
