"""Every request of the record is answered as it was."""

from __future__ import annotations

import difflib
import importlib.util
import json
import re
from collections.abc import Iterator, Sequence

import pytest

from recorded_requests.bundles import Models
from recorded_requests.cases import CLASSES
from recorded_requests.lines import FOLDER, read
from recorded_requests.stage import Reply, Request, replied


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def record() -> dict[str, dict[str, Reply]]:
    return {name: read(name) for name in CLASSES}


@pytest.fixture(scope="module")
def reusing(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models that keep what they have computed for one request for those that follow."""
    return Models(tmp_path_factory.mktemp("reusing"), reuses=True)


REUSED = "reused_tokens|cached_tiles|encoded"


def without_reuse(reply: Reply | None) -> str:
    """A reply but for how much of it an earlier request had computed."""
    text = json.dumps(reply, ensure_ascii=False, sort_keys=True)
    return re.sub(rf', "(?:{REUSED})": \d+|"(?:{REUSED})": \d+(?:, )?', "", text)


COUNTED = ("tiles", "cancel", "failures", "cache", "together")
"""Their replies tell which calls the engine had, and what they left in the cache."""


def requests(without: Sequence[str] = ()) -> Iterator[object]:
    for name, cases in CLASSES.items():
        if name in without:
            continue
        for request in cases:
            yield pytest.param(name, request, id=f"{name}: {request.name}")


def lines(reply: Reply | None) -> list[str]:
    return json.dumps(reply, ensure_ascii=False, sort_keys=True, indent=1).split("\n")


@pytest.mark.parametrize(("name", "request_"), list(requests()))
def test_replay(models: Models, record: dict[str, dict[str, Reply]], name: str, request_: Request) -> None:
    if request_.needs is not None and importlib.util.find_spec(request_.needs) is None:
        pytest.skip(f"{request_.needs} is not installed")
    recorded, found = record[name].get(request_.name), replied(models, request_)
    if found != recorded:
        difference = difflib.unified_diff(lines(recorded), lines(found), "recorded", "now", n=2, lineterm="")
        pytest.fail("\n".join(difference), pytrace=False)


@pytest.mark.parametrize(("name", "request_"), list(requests(without=COUNTED)))
def test_replay_with_reuse(
    reusing: Models, record: dict[str, dict[str, Reply]], name: str, request_: Request
) -> None:
    if request_.needs is not None and importlib.util.find_spec(request_.needs) is None:
        pytest.skip(f"{request_.needs} is not installed")
    recorded, found = record[name].get(request_.name), replied(reusing, request_)
    assert without_reuse(found) == without_reuse(recorded)


def test_the_record_is_of_these_requests(record: dict[str, dict[str, Reply]]) -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(CLASSES)
    for name, cases in CLASSES.items():
        assert list(record[name]) == [request.name for request in cases]
    assert sum(map(len, CLASSES.values())) >= 500
