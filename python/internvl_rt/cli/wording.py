"""Messages of the Python API in the words of the command line.

An error names arguments: ``cache_tokens``, ``engine='native'``. People who type commands know options:
``--cache-tokens``, ``--engine native``. Where the command has no such option, plain words stand there.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """What an argument is called elsewhere."""

    option: str
    plain: str
    """For commands without the option."""


WORDS = {
    "as_one": Word("--as-one", "one place for all pictures"),
    "cache_fills": Word("--cache-fill", "the tokens in the cache"),
    "cache_tokens": Word("--cache-tokens", "KV cache"),
    "cache_type": Word("--cache-type", "the type of the KV cache"),
    "calibrate": Word("--calibrate", "calibration"),
    "choices": Word("--choice", "choices"),
    "detail": Word("--detail", "detail"),
    "device": Word("--device", "device"),
    "dialect": Word("--dialect", "dialect"),
    "do_sample": Word("--sample", "sampling"),
    "end": Word("--end", "end"),
    "engine": Word("--engine", "engine"),
    "frames_per_second": Word("--fps", "frames per second"),
    "image_size": Word("--image-size", "the picture's size"),
    "max_context": Word("--max-context", "context"),
    "max_new_tokens": Word("--max-new-tokens", "the length of the answer"),
    "max_tiles": Word("--max-tiles", "the number of tiles"),
    "min_tiles": Word("--min-tiles", "the least number of tiles"),
    "n": Word("--number", "the number of answers"),
    "new_tokens": Word("--new-tokens", "the tokens of an answer"),
    "num_frames": Word("--num-frames", "the number of frames"),
    "num_return_sequences": Word("--num-return-sequences", "the number of answers"),
    "orientation": Word("--orientation", "orientation"),
    "pattern": Word("--pattern", "pattern"),
    "prefill_chunk": Word("--prefill-chunk", "the tokens that are prefilled together"),
    "prompt_tokens": Word("--prompt-tokens", "the length of the text"),
    "providers": Word("--provider", "providers"),
    "reasoning": Word("--reasoning", "reasoning"),
    "repeats": Word("--repeats", "repetitions"),
    "repetition_penalty": Word("--repetition-penalty", "repetition penalty"),
    "schema": Word("--schema", "schema"),
    "seed": Word("--seed", "seed"),
    "start": Word("--start", "start"),
    "stop": Word("--stop", "stop"),
    "system": Word("--system", "system"),
    "temperature": Word("--temperature", "temperature"),
    "threads": Word("--threads", "threads"),
    "tiles": Word("--tiles", "tiles"),
    "top_k": Word("--top-k", "the number of tokens to draw from"),
    "top_p": Word("--top-p", "the probability to draw from"),
    "verify": Word("--verify", "verification"),
    "video": Word("--video", "video"),
    "vision": Word("--vision", "vision"),
    "warmup": Word("--warmup", "warmup"),
    "weights": Word("--weights", "weights"),
}

ALL_OPTIONS = frozenset(word.option for word in WORDS.values())

_VALUE = r"""=(?P<value>'[^']*'|"[^"]*"|\[[^\]]*\]|\([^)]*\)|[^\s,;:.)]+(?:\.\d+)?)"""
_WITH_VALUE = re.compile(rf"(?<![\w.-])(?P<name>{'|'.join(WORDS)}){_VALUE}")
_SNAKE_CASE = re.compile(rf"(?<![\w.'\"-])(?P<name>{'|'.join(w for w in WORDS if '_' in w)})(?![\w('\"])")
# An English word is an argument's name where a sentence says what the argument must be.
_ENGLISH = "|".join(word for word in WORDS if "_" not in word)
_SUBJECT = re.compile(
    rf"(?:^|(?<=\. ))(?P<names>(?:{_ENGLISH})(?:(?:, | and )(?:{_ENGLISH}))*)"
    r"(?= (?:must|were given|cannot be|ends|is for|need))"
)
_LONGEST_WORD = 300
_NAME = re.compile(rf"\b(?:{_ENGLISH})\b")


def for_command(message: str, options: Collection[str]) -> str:
    """A message for a command that has these options (``--cache-tokens``, ...)."""

    def name_of(name: str) -> str:
        word = WORDS[name]
        return word.option if word.option in options else word.plain

    def with_value(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        word = WORDS[name]
        value = re.sub(r"['\"\[\]()]", "", value)
        if value == "True":
            return name_of(name)
        return f"{word.option} {value}" if word.option in options else f"{word.plain} {value}"

    message = _WITH_VALUE.sub(with_value, message)
    message = _SUBJECT.sub(lambda found: _NAME.sub(lambda one: name_of(one[0]), found["names"]), message)
    return _SNAKE_CASE.sub(lambda found: name_of(found["name"]), message)


def one_line(message: str) -> str:
    """A message as one line for a terminal, whatever names and values it quotes."""
    printable = "".join(c if c.isprintable() or c.isspace() else "?" for c in message)
    words = (
        word if len(word) <= _LONGEST_WORD else f"{word[:100]}...{word[-40:]}" for word in printable.split()
    )
    return " ".join(words)


def options_of(command: Any) -> set[str]:
    """The options of one of Typer's commands."""
    return {option for parameter in command.params for option in parameter.opts}
