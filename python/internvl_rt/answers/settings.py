"""How an answer is generated: the arguments, checked once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, TypedDict, cast, get_args

from internvl_rt import _core
from internvl_rt.arguments import checked_integer, checked_number, checked_option
from internvl_rt.errors import PromptError
from internvl_rt.prompts.tokenizer import KeepTokens

JsonSchema: TypeAlias = Mapping[str, Any] | type[Any]


@dataclass(frozen=True)
class GenerationSettings:
    """The arguments of a generation, under the names that transformers uses.

    Raises:
        PromptError: for a value outside of its range or of another type. The message names the argument.
    """

    max_new_tokens: int = _core.MAX_NEW_TOKENS.default
    """The answer ends here at the latest, at least 1."""
    do_sample: bool = False
    """Draw tokens at random; otherwise the likeliest token is taken and the next three do nothing."""
    temperature: float = _core.TEMPERATURE.default
    """Below 1 the likely tokens get likelier. 0 takes the likeliest, whatever ``do_sample`` says."""
    top_p: float = _core.TOP_P.default
    """Draw from the likeliest tokens that together have this probability, above 0 up to 1."""
    top_k: int = _core.TOP_K.default
    """Draw from this many likeliest tokens; 0 draws from all. 50 is what transformers does."""
    repetition_penalty: float = _core.REPETITION_PENALTY.default
    """Above 1 makes tokens that the answer has already less likely, sampled or not."""
    seed: int | None = None
    """The same seed, prompt and settings draw the same answer; None takes a new one each time."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    keep_special_tokens: KeepTokens = "none"
    """Which special tokens stay in the text: ``none``; ``grounding`` (``<ref>``, ``<box>``, ...); ``task``,
    which are these and those that a fine-tuning added: the text that ``history`` takes; or ``all``."""
    ignore_stop_tokens: bool = False
    """Generate to max_new_tokens whatever the model says: for measuring."""
    schema: JsonSchema | None = None
    """The answer is a JSON document that satisfies this schema, or its beginning where ``max_new_tokens``
    ends it (finish reason ``length``). A dictionary, or a class with ``model_json_schema()`` as pydantic's.
    Written with the separators of ``json.dumps`` and no other white space."""
    pattern: str | None = None
    """The whole answer matches this regular expression, in the syntax of Rust's ``regex``: without
    look-around and back references."""
    choices: tuple[str, ...] | None = None
    """The answer is one of these texts."""
    priority: int = _core.PRIORITY.default
    """Of requests that wait, those of a higher priority come first; where the cache is full they take the
    room of answers of a lower one, which are written on later."""
    cache_salt: str = ""
    """What is computed for this call is reused for calls with the same salt only. Give every user one of
    their own where they must not learn from the time of an answer what others have asked."""

    def __post_init__(self) -> None:
        self._set(
            "max_new_tokens", checked_option("max_new_tokens", self.max_new_tokens, _core.MAX_NEW_TOKENS)
        )
        self._set("top_k", checked_option("top_k", self.top_k, _core.TOP_K))
        self._set("temperature", checked_number("temperature", self.temperature, _core.TEMPERATURE))
        self._set("top_p", checked_number("top_p", self.top_p, _core.TOP_P))
        self._set(
            "repetition_penalty",
            checked_number("repetition_penalty", self.repetition_penalty, _core.REPETITION_PENALTY),
        )
        self._set("priority", checked_option("priority", self.priority, _core.PRIORITY))
        if not isinstance(self.cache_salt, str):
            raise PromptError(f"cache_salt must be a text, not {self.cache_salt!r:.100}.")
        if self.seed is not None:
            self._set("seed", checked_integer("seed", self.seed, 0, most=2**64 - 1))
        self._set("stop", _stop_strings(self.stop))
        self._set("keep_special_tokens", _kept(self.keep_special_tokens))
        for name in ("do_sample", "ignore_stop_tokens"):
            self._set(name, bool(getattr(self, name)))
        if self.temperature == 0.0:
            self._set("do_sample", False)
        self._check_form()

    @property
    def constrained(self) -> bool:
        """Whether the answer has a form to keep."""
        return not (self.schema is None and self.pattern is None and self.choices is None)

    def _check_form(self) -> None:
        given = [name for name in ("schema", "pattern", "choices") if getattr(self, name) is not None]
        if len(given) > 1:
            raise PromptError(f"{' and '.join(given)} were given: an answer has one form. Give one of them.")
        if given and self.ignore_stop_tokens:
            raise PromptError(
                f"{given[0]} ends the answer, and ignore_stop_tokens does not let it. Give one."
            )
        if self.schema is not None:
            self._set("schema", _schema(self.schema))
        if self.pattern is not None and (not isinstance(self.pattern, str) or not self.pattern):
            raise PromptError(f"pattern must be a regular expression, a text; found {self.pattern!r}.")
        if self.choices is not None:
            self._set("choices", _choices(self.choices))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


def _kept(value: object) -> KeepTokens:
    for choice in get_args(KeepTokens):
        if value == choice:
            return cast("KeepTokens", choice)
    raise PromptError(f"keep_special_tokens must be one of {', '.join(get_args(KeepTokens))}, not {value!r}.")


def _stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(stop, Sequence):
        raise PromptError(f"stop must be a text or a list of texts, not {stop!r}.")
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    for string in strings:
        if not isinstance(string, str):
            raise PromptError(f"stop must be texts of at least one character, not {string!r}.")
    _core.check_stop(strings)
    return strings


def _schema(schema: Any) -> dict[str, Any]:
    if isinstance(schema, type) and hasattr(schema, "model_json_schema"):
        schema = schema.model_json_schema()
    try:
        if not isinstance(schema, Mapping):
            raise TypeError
        copied: dict[str, Any] = json.loads(json.dumps(dict(schema), allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise PromptError(
            f"schema must be a JSON schema, a dictionary of JSON values; found {schema!r:.200}."
        ) from None
    return copied


def _choices(choices: Any) -> tuple[str, ...]:
    if isinstance(choices, (str, bytes)) or not isinstance(choices, Sequence) or not choices:
        raise PromptError(f"choices must be a list of at least one text, not {choices!r:.200}.")
    for choice in choices:
        if not isinstance(choice, str):
            raise PromptError(
                f"choices must be texts without white space around them, as answers are; found "
                f"{choice!r:.200}."
            )
    _core.check_choices(choices)
    return tuple(choices)


class GenerationArguments(TypedDict, total=False):
    """The keyword arguments of ``chat``, ``stream`` and ``generate``: those of ``GenerationSettings``."""

    max_new_tokens: int
    do_sample: bool
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    keep_special_tokens: KeepTokens
    ignore_stop_tokens: bool
    schema: JsonSchema | None
    pattern: str | None
    choices: Sequence[str] | None
    priority: int
    cache_salt: str


def generation_settings(arguments: GenerationArguments) -> GenerationSettings:
    """Checks keyword arguments.

    Raises:
        PromptError: for a value outside of its range or of another type.
        TypeError: for a name that is none of them.
    """
    known = [field.name for field in fields(GenerationSettings)]
    for name in arguments:
        if name not in known:
            raise TypeError(f"{name!r} is not an argument of a generation; there are {', '.join(known)}.")
    return GenerationSettings(**cast("dict[str, Any]", arguments))


def checked_sequences(number: Any, name: str = "num_return_sequences") -> int:
    """A number of answers.

    Raises:
        PromptError: unless it is an integer from 1 to 256.
    """
    return checked_option(name, number, _core.ANSWERS)
