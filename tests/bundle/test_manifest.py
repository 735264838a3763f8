"""The exporter writes manifests in Python, the core reads them in C++: both know the same fields."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from bundle.tiny import tiny_manifest
from internvl_rt import _core
from internvl_rt.bundle.manifest import Experts, FileEntry, Flash, Manifest, Rope, manifest_from
from internvl_rt.bundle.tensors import vit_layer
from internvl_rt.errors import BundleError
from internvl_rt.export.family import FAMILY
from internvl_rt.export.synthetic import synthetic_manifest

WHERE = "/some/folder/manifest.json"


def with_everything() -> Manifest:
    """A manifest in which no part is left out."""
    manifest = tiny_manifest("int4", "int8")
    fc1 = vit_layer(0, "fc1.weight")
    rope = Rope(1e4, "longrope", 1.0, 512, (1.0,) * 8, (2.0,) * 8, 128, 1.19)
    return dataclasses.replace(
        manifest,
        flash=Flash(4, 16, 0.3, 0.5),
        llm=dataclasses.replace(manifest.llm, rope=rope, experts=Experts(8, 2, True)),
        prompt=dataclasses.replace(
            manifest.prompt, system_message="Sei höflich.", bos_id=1, prefix_ids=(2,), task_ids=(3, 4)
        ),
        precision=dataclasses.replace(
            manifest.precision, exceptions={vit_layer(1, "fc2.weight"): "bf16"}, input_scales={fc1: 0.25}
        ),
        files={"weights.safetensors": FileEntry(7, "0" * 64)},
    )


MANIFESTS = {
    "everything": with_everything,
    **{name: lambda name=name: synthetic_manifest(name, weights="int4", vision="int8") for name in FAMILY},
}


def fields_in(hint: Any, value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path and the type of every field of a dataclass, and of those inside."""
    for name, inner in get_type_hints(hint).items():
        found = getattr(value, name)
        yield (*path, name), inner
        if dataclasses.is_dataclass(found):
            yield from fields_in(type(found), found, (*path, name))


def wrong_values(hint: Any) -> list[Any]:
    """Values of other types than a field's, and some of its own that no field takes."""
    origin, arguments = get_origin(hint), get_args(hint)
    if type(None) in arguments:
        return [value for value in wrong_values(arguments[0]) if value is not None]
    if hint is int:
        return [None, True, 1.5, "1", [], {}, -(10**30), 10**4000]
    if hint is float:
        return [None, True, "1", [], {}, 1e300, -1e300, 10**4000]
    if hint is bool:
        return [None, 1, 0.0, "true", [], {}]
    if hint is str:
        return [None, True, 1, [], {}, "x" * 70000]
    if origin is Literal:
        return [None, True, 1, [], {}, "", "FP32"]
    if origin is tuple:
        return [None, True, 1, "1", {}, [None], ["1"], [True], [1e300], [10**4000]]
    if origin is dict:
        return [None, 1, "1", [], {"a": None}, {"a": True}, {"a": "nonsense"}]
    assert dataclasses.is_dataclass(hint)
    return [None, 1, "1", [], [{}], {}]


def refusal(document: Any) -> str:
    with pytest.raises(BundleError) as caught:
        _core.Manifest(json.dumps(document), WHERE)
    message = str(caught.value)
    assert message.startswith(WHERE)
    assert "xport" in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", MANIFESTS)
def test_what_one_writes_the_other_reads(name: str) -> None:
    manifest = MANIFESTS[name]()
    manifest.checked()
    text = manifest.to_json()
    _core.Manifest(text, WHERE)
    assert manifest_from(text) == manifest


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_field_is_asked_for_and_checked(name: str) -> None:
    manifest = MANIFESTS[name]()
    document = json.loads(manifest.to_json())
    paths = dict(fields_in(Manifest, manifest))
    assert len(paths) > 60
    for path, hint in paths.items():
        changed = copy.deepcopy(document)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        dotted = ".".join(path)
        before = inner.pop(path[-1])
        assert f"the field {dotted} is missing" in refusal(changed)
        for wrong in wrong_values(hint):
            inner[path[-1]] = wrong
            assert dotted in refusal(changed), wrong
        inner[path[-1]] = before
        inner["surprise"] = 1
        assert f"unknown field {'.'.join((*path[:-1], 'surprise'))}" in refusal(changed)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sha256": "0" * 64}, r"files\['vit\.onnx'\]\.bytes is missing"),
        ({"bytes": 1}, r"files\['vit\.onnx'\]\.sha256 is missing"),
        ({"bytes": 1.0, "sha256": "0" * 64}, r"files\['vit\.onnx'\]\.bytes is '1\.0'"),
        ({"bytes": 2**42 + 1, "sha256": "0" * 64}, r"files\['vit\.onnx'\]\.bytes is '4398046511105'"),
        ({"bytes": 1, "sha256": "A" * 64}, r"files\['vit\.onnx'\]\.sha256 is 'A+'"),
        ({"bytes": 1, "sha256": "0" * 64, "name": "x"}, r"unknown field files\['vit\.onnx'\]\.name"),
        (5, r"files\['vit\.onnx'\] is '5'; it must be an object"),
    ],
)
def test_entries_of_files(entry: Any, message: str) -> None:
    document = json.loads(tiny_manifest().to_json())
    document["files"] = {"vit.onnx": entry}
    with pytest.raises(BundleError, match=message):
        _core.Manifest(json.dumps(document), WHERE)


def test_a_manifest_that_the_exporter_made_is_refused_by_name() -> None:
    manifest = tiny_manifest()
    for changed, message in (
        (dataclasses.replace(manifest, name="a\ud800"), "in name, a pair of surrogates"),
        (dataclasses.replace(manifest, name="x" * 70000), "name is 'xxx"),
        (
            dataclasses.replace(manifest, vision=dataclasses.replace(manifest.vision, norm_eps=float("nan"))),
            "in vision.norm_eps, a value was expected, not 'NaN",
        ),
        (dataclasses.replace(manifest, llm=dataclasses.replace(manifest.llm, layers=0)), "llm.layers is '0'"),
    ):
        with pytest.raises(BundleError, match=r"^/a/folder: ") as caught:
            changed.checked("/a/folder")
        assert message in str(caught.value)
