"""Messages name what can be typed: the options of the command that shows them, and no argument of the API."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import internvl_rt as ivl
from internvl_rt.answers.settings import GenerationSettings
from internvl_rt.bench.report import BenchOptions
from internvl_rt.cli import app
from internvl_rt.cli.wording import WORDS, for_command, options_of
from internvl_rt.model.asking import AskArguments

PACKAGE = Path(inspect.getfile(ivl)).parent
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OF_THE_API_ALONE = {
    # No command has anything that could make one of these the matter.
    "history", "ignore_stop_tokens", "keep_special_tokens", "progress", "allow_paths", "max_pixels",
    "max_wait_s", "cache_salt", "prefix_cache_tokens", "images", "image", "question", "phrase", "extract",
    "score", "path", "frame_rate", "tile_size",
}  # fmt: skip
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def api_words() -> set[str]:
    """The arguments of the API that a message may name."""
    calls = (ivl.load, ivl.sample_video, ivl.Model.vote, ivl.Model.best_of, ivl.Model.encode, ivl.tile_image)
    words = {name for call in calls for name in inspect.signature(call).parameters}
    words |= {field.name for field in dataclasses.fields(GenerationSettings)}
    words |= {field.name for field in dataclasses.fields(BenchOptions)}
    words |= {*AskArguments.__annotations__, "num_return_sequences"}
    return words - {"self", "arguments"}


def messages() -> Iterator[tuple[str, str]]:
    """Every text in the package's sources that may be shown, with where it stands: no docstrings, no code.

    A value that is put into one is shown as ``0``.
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        if "cli" in path.relative_to(PACKAGE).parts:
            continue
        tree = ast.parse(path.read_text())
        inner = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if id(node) in inner or id(node) in docstrings:
                continue
            text = ""
            if isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            if text.count(" ") > 1:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text


def test_there_are_messages() -> None:
    texts = [text for _, text in messages()]
    assert len(texts) > 200
    assert any("larger cache_tokens" in text for text in texts)


def test_every_argument_that_a_message_names_has_a_word() -> None:
    """With an underscore it can be nothing but an argument's name."""
    known = {word for word in api_words() if "_" in word} - OF_THE_API_ALONE
    named = re.compile(rf"(?<![\w.])(?:{'|'.join(sorted(known))})(?!\w)")
    missing = {
        (word, place) for place, text in messages() for word in named.findall(text) if word not in WORDS
    }
    assert missing == set()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_command_shows_an_argument_or_an_option_that_it_has_not(name: str) -> None:
    options = options_of(COMMANDS[name])
    arguments = re.compile(rf"(?<![\w.'\"-])({'|'.join(word for word in WORDS if '_' in word)})(?![\w('\"])")
    for place, text in messages():
        shown = for_command(text, options)
        assert not arguments.search(shown), (place, shown)
        for option in set(OPTION.findall(shown)) - set(OPTION.findall(text)):
            assert option in options, (place, shown)


def test_an_option_that_a_message_spells_out_is_one_of_the_command_that_it_names() -> None:
    """Messages of the package itself name options only beside their command: an export, or a build."""
    every = set().union(*map(options_of, COMMANDS.values()))
    for place, text in messages():
        for option in OPTION.findall(text):
            if re.search(r"pip|sudo|cmake|apt|hf download", text):
                continue
            assert option in every, (place, text)
            assert re.search(r"[Ee]xport|build|INTERNVL_RT|bench", text), (place, text)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_command_s_help_names_its_own_options(name: str) -> None:
    command = COMMANDS[name]
    options = options_of(command)
    texts = [command.help, *(parameter.help or "" for parameter in command.params)]
    for text in texts:
        for option in OPTION.findall(text):
            assert option in options, text


def test_every_word_is_an_option_of_some_command() -> None:
    every = set().union(*map(options_of, COMMANDS.values()))
    unknown = {word.option for word in WORDS.values()} - every
    assert unknown == {"--min-tiles", "--verify"} - every


@pytest.mark.parametrize(
    ("message", "name", "shown"),
    [
        ("cache_tokens must be 1", "chat", "--cache-tokens must be 1"),
        ("Use device='auto' or device='cpu'.", "chat", "Use --device auto or --device cpu."),
        ("n must be an integer from 1 to 9", "vote", "--number must be an integer from 1 to 9"),
        ("Set do_sample=True.", "chat", "Set --sample."),
        ("leave do_sample off", "vote", "leave sampling off"),
        ("lower max_tiles, or", "eval", "lower the number of tiles, or"),
        ("max_tiles=50 and detail='high' both", "locate", "--max-tiles 50 and --detail high both"),
        ("temperature must be above 0, not -1.5", "vote", "--temperature must be above 0, not -1.5"),
        ("schema and pattern were given: one", "chat", "--schema and --pattern were given: one"),
        ("the end of the video", "chat", "the end of the video"),
        (
            "there is no schema in it; the detail counts",
            "chat",
            "there is no schema in it; the detail counts",
        ),
        ("providers=['magic', 'cpu'] are", "chat", "--provider magic, cpu are"),
        ("engine='onnxruntime' was", "doctor", "engine onnxruntime was"),
    ],
)
def test_words(message: str, name: str, shown: str) -> None:
    assert for_command(message, options_of(COMMANDS[name])) == shown
