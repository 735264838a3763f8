"""Checks of arguments that many calls have."""

from __future__ import annotations

import math
import operator
from typing import Any

from internvl_rt import _core
from internvl_rt.errors import PromptError


def integer_of(value: Any) -> int | None:
    """The value of an integer of any type; None for what is none, and for a bool."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def number_of(value: Any) -> float:
    """The value of a number of any type, or of a text that is one; NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def checked_number(name: str, value: Any, option: _core.NumberOption) -> float:
    """The value of an argument of that name.

    Raises:
        PromptError: unless it is a number in the option's range.
    """
    number = number_of(value)
    if not option.takes(number):
        raise PromptError(f"{name} must be a number {option.range}, not {value!r}.")
    return number


def checked_option(name: str, value: Any, option: _core.IntegerOption) -> int:
    """The same for an integer."""
    return checked_integer(name, value, option.least, option.most)


def checked_integer(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """The value of an argument of that name.

    Raises:
        PromptError: unless it is an integer from ``least`` to ``most``.
    """
    number = integer_of(value)
    if number is None:
        raise PromptError(f"{name} must be an integer of at least {least}, not {value!r}.")
    if not least <= number <= most:
        raise PromptError(f"{name} must be an integer from {least} to {most}, not {number}.")
    return number
