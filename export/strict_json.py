"""JSON files that come from outside: no key twice, nothing that is not JSON."""

from __future__ import annotations

import json
from typing import Any


class JsonError(ValueError):
    """What is not JSON. The message does not name the file, and has no full stop."""


def parse_json(text: bytes) -> Any:
    """Parses JSON strictly: no key twice, no NaN or Infinity, bounded nesting.

    Raises:
        JsonError: if it is anything else.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except JsonError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise JsonError(f"is not JSON ({str(error)[:200]})") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"has the key {key!r} twice")
            seen.add(key)
    return result


def _no_constant(name: str) -> Any:
    raise JsonError(f"has {name}, which is not JSON")
