"""A bundle with altered bytes or fields opens, or is refused with a BundleError and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.tiny import write_tiny
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import MANIFEST_FILE, WEIGHTS_FILE, read_manifest
from internvl_rt.bundle.tensors import read_places
from internvl_rt.errors import BundleError

SECONDS = 4.0
"""For each of the two loops over altered bytes."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("fuzz") / "bundle", "int4")


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def use(folder: Path) -> bool:
    """Opens a bundle and reads every tensor as an engine would. False if it was refused."""
    try:
        opened = open_bundle(folder)
    except BundleError:
        return False
    data = np.memmap(opened.weights, np.uint8, "r")
    for place in opened.places.values():
        assert 0 <= place.begin <= place.end <= data.size
        _ = data[place.begin : place.end]
    return True


def mutations(whole: bytes, seed: int) -> Iterator[bytes]:
    """Bytes flipped, replaced, removed, inserted and repeated, for a bounded time."""
    rng = random.Random(seed)
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 8, 100))
            kind = rng.randrange(6)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and at < len(data):
                data[at] = rng.randrange(256)
            elif kind == 2:
                del data[at : at + length]
            elif kind == 3:
                data[at:at] = rng.choice((b"[", b'{"a":', b"-", b"9", b"1e9", b"null", b'"', b"\0", b"\xff"))
            elif kind == 4:
                data[at:at] = data[at : at + length]
            else:
                del data[at:]
        yield bytes(data)


def test_altered_manifests(copied: Path) -> None:
    path = copied / MANIFEST_FILE
    outcomes = set()
    for data in mutations(path.read_bytes(), 1):
        path.write_bytes(data)
        outcomes.add(use(copied))
    assert False in outcomes


def test_altered_weight_headers(copied: Path) -> None:
    """The manifest's size of the file is kept true, so that the header's own checks are what is tested."""
    manifest = read_manifest(copied)
    path = copied / WEIGHTS_FILE
    whole = path.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    header, data = whole[:length].rstrip(b" "), whole[length:]
    refused = 0
    for altered in mutations(header, 2):
        path.write_bytes(altered.ljust(length) + data)
        try:
            places = read_places(copied, manifest)
        except BundleError:
            refused += 1
            continue
        size = path.stat().st_size
        assert all(0 <= p.begin <= p.end <= size for p in places.values())
    assert refused > 100


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 100, 4095, 4096, 5000, -1])
def test_truncated_weights_with_a_manifest_that_agrees(copied: Path, cut: int) -> None:
    path = copied / WEIGHTS_FILE
    content = path.read_bytes()[:cut]
    path.write_bytes(content)
    document = json.loads((copied / MANIFEST_FILE).read_text())
    document["files"][WEIGHTS_FILE] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copied / MANIFEST_FILE).write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        open_bundle(copied)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 1, -1, 2, 3, 2**31, 2**63, 10**20, 10**400])
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.lists(st.integers() | st.text(max_size=3), max_size=4)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=3)
)


def places_in(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value of a JSON document."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places_in(value, (*path, key))
    elif isinstance(document, list):
        for i, value in enumerate(document):
            yield from places_in(value, (*path, i))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_replaced_manifest_fields(copied: Path, bundle: Path, data: st.DataObject) -> None:
    document = json.loads((bundle / MANIFEST_FILE).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places_in(document))))
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        action = data.draw(st.sampled_from(("replace", "remove", "rename")))
        if action == "replace":
            inner[path[-1]] = data.draw(VALUES)
        elif action == "remove":
            del inner[path[-1]]
        elif isinstance(inner, dict):
            inner[data.draw(st.text(max_size=8))] = inner.pop(path[-1])
    try:
        text = json.dumps(document)
    except ValueError:  # more digits than Python prints
        return
    (copied / MANIFEST_FILE).write_text(text)
    if use(copied):
        manifest = read_manifest(copied)
        assert dataclasses.replace(manifest) == manifest


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_replaced_header_fields(copied: Path, bundle: Path, data: st.DataObject) -> None:
    manifest = read_manifest(bundle)
    whole = (bundle / WEIGHTS_FILE).read_bytes()
    length = int.from_bytes(whole[:8], "little")
    document = json.loads(whole[8 : 8 + length])
    path = data.draw(st.sampled_from([p for p in places_in(document) if p[0] != "__metadata__"]))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    before = inner[path[-1]]
    inner[path[-1]] = data.draw(VALUES)
    changed = inner[path[-1]] != before or type(inner[path[-1]]) is not type(before)
    try:
        text = json.dumps(document).encode()
    except ValueError:
        return
    (copied / WEIGHTS_FILE).write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    if changed:
        with pytest.raises(BundleError):
            read_places(copied, manifest)
    else:
        read_places(copied, manifest)
