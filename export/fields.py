"""Typed access to a parsed ``config.json``, with errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from internvl_rt.errors import CheckpointError

MAX_INTEGER = 1 << 62
"""Far beyond any size of a model, and small enough to be computed with."""


@dataclass(frozen=True)
class Fields:
    """One object of a JSON document. Missing and null keys take the class default, where there is one."""

    values: Mapping[str, Any]
    where: str
    """File and path of keys, such as ``.../config.json: vision_config``."""

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer."""
        value = self._value(key, default)
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.wrong(key, value, "an integer")
        if abs(value) > MAX_INTEGER:
            raise self.wrong(key, value, "an integer that a model can have")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._value(key, default)
        if type(value) not in (int, float) or abs(value) > 1e300 or not isfinite(value):
            raise self.wrong(key, value, "a number")
        return float(value)

    def within(self, key: str, found: float, low: float, high: float) -> None:
        """Refuses a value that is out of the range in which it can be computed with.

        Raises:
            CheckpointError: if ``found``, which ``key`` says, is not from ``low`` to ``high``.
        """
        if not low <= found <= high:
            raise self.wrong(key, found, f"a number from {low:g} to {high:g}")

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._value(key, default)
        if type(value) is not bool:
            raise self.wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default)
        if type(value) is not str:
            raise self.wrong(key, value, "a string")
        return value

    def side(self, key: str, default: int | None = None) -> int:
        """The side of a square: an integer, or a pair of the same integer twice."""
        value = self._value(key, default)
        if isinstance(value, list) and len(value) == 2 and value[0] is not None and value[0] == value[1]:
            return Fields({key: value[0]}, self.where).integer(key)
        return self.integer(key, default)

    def triple(self, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        """Three finite numbers, one for each colour; a single one is for all three."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, list):
            number = self.number(key)
            return number, number, number
        red, green, blue = self.numbers(key, 3)
        return red, green, blue

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """As many finite numbers."""
        value = self.values.get(key)
        if not isinstance(value, list) or len(value) != count:
            raise self.wrong(key, value, f"{count} numbers")
        return tuple(Fields({key: number}, self.where).number(key) for number in value)

    def texts(self, key: str) -> tuple[str, ...]:
        """Strings: a list of them, or one alone. Missing, null and empty are none; so are nulls inside."""
        value = self.values.get(key)
        listed = value if isinstance(value, list) else [value]
        if not all(text is None or type(text) is str for text in listed):
            raise self.wrong(key, value, "a list of names")
        return tuple(text for text in listed if text)

    def like(self, key: str, default: Any) -> Any:
        """A value of the type of its default; a square's side where that is an integer."""
        if isinstance(default, bool):
            return self.boolean(key, default)
        if isinstance(default, int):
            return self.side(key, default)
        return self.number(key, default) if isinstance(default, float) else self.text(key, default)

    def inner(self, key: str) -> Fields:
        """A nested object."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, value, "an object")
        return Fields(value, f"{self.where}: {key}")

    def require(self, key: str, found: object, *supported: object) -> None:
        """Refuses a value that changes what the model computes in a way that is not supported.

        Raises:
            CheckpointError: if ``found`` is none of ``supported``.
        """
        if found not in supported:
            raise self.wrong(key, found, " or ".join(map(repr, supported)))

    def wrong(self, key: str, found: object, expected: str) -> CheckpointError:
        """The error for a value that cannot be used."""
        shown = "missing" if found is None else repr(found)[:100]
        return CheckpointError(
            f"{self.where}: {key} is {shown}; this release expects {expected}. "
            "Check that config.json is the one that came with the checkpoint."
        )

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value
