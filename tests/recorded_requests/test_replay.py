"""Every request of the record is answered as it was."""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Iterator

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


def requests() -> Iterator[object]:
    for name, cases in CLASSES.items():
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


def test_the_record_is_of_these_requests(record: dict[str, dict[str, Reply]]) -> None:
    assert {path.stem for path in FOLDER.glob("*.jsonl")} == set(CLASSES)
    for name, cases in CLASSES.items():
        assert list(record[name]) == [request.name for request in cases]
    assert sum(map(len, CLASSES.values())) >= 500
