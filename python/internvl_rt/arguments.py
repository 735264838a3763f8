"""Checks of arguments that many calls have."""

from __future__ import annotations

import operator
from typing import Any

from internvl_rt.errors import PromptError


def checked_integer(name: str, value: Any, least: int, most: int = 2**31 - 1) -> int:
    """The value of an argument of that name.

    Raises:
        PromptError: unless it is an integer from ``least`` to ``most``.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise PromptError(f"{name} must be an integer of at least {least}, not {value!r}.") from None
    if not least <= number <= most:
        raise PromptError(f"{name} must be an integer from {least} to {most}, not {number}.")
    return number
