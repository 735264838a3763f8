"""How large the KV cache is: chosen from the model and the memory at hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import internvl_rt as ivl
from bundle.tiny import tiny_manifest
from internvl_rt import _core
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.manifest import WEIGHTS_FILE, FileEntry, Manifest
from internvl_rt.errors import DeviceError
from internvl_rt.export.family import FAMILY
from internvl_rt.model.cache_size import check_memory, default_cache_tokens, kv_bytes_per_token
from internvl_rt.model.inspection import inspect_bundle

GB = 10**9


def manifest_of(name: str, weights_gb: float) -> Manifest:
    weights = FileEntry(bytes=int(weights_gb * GB), sha256="")
    return dataclasses.replace(tiny_manifest(), llm=FAMILY[name].llm, files={WEIGHTS_FILE: weights})


@pytest.mark.parametrize(
    ("name", "weights_gb", "usable_gb", "expected"),
    [
        # 12 kB a token: the trained length of 32768 is 0.4 GB.
        ("InternVL2_5-1B", 0.9, 8, 32768),
        ("InternVL2_5-1B", 0.9, 2, 21504),
        ("InternVL2_5-1B", 0.9, 1, 4096),
        # 131 kB a token.
        ("InternVL2_5-8B", 5, 64, 32768),
        ("InternVL2_5-8B", 5, 16, 20480),
        ("InternVL2_5-8B", 16, 16, 4096),
        # Trained for 40960, and for 131072.
        ("InternVL3_5-1B", 1, 64, 32768),
        ("InternVL2-4B", 3, 64, 32768),
        ("InternVL2-4B", 3, 16, 8192),
    ],
)
def test_the_default_follows_the_model_and_the_memory(
    name: str, weights_gb: float, usable_gb: float, expected: int
) -> None:
    manifest = manifest_of(name, weights_gb)
    usable = int(usable_gb * GB)
    found = default_cache_tokens(manifest, "float16", usable)
    assert found == expected
    taken = found * kv_bytes_per_token(manifest.llm, "float16")
    assert found == 4096 or taken <= (usable - weights_gb * GB) / 4


def test_the_default_where_nothing_is_known_of_the_memory() -> None:
    assert default_cache_tokens(manifest_of("InternVL2_5-1B", 1), "float16", None) == 8192
    assert default_cache_tokens(manifest_of("InternVL2_5-1B", 1), None, 64 * GB) == 8192
    assert default_cache_tokens(tiny_manifest(), "float16", None) == 512


def test_a_cache_that_the_memory_does_not_hold_says_what_is_missing_and_what_fits() -> None:
    llm = FAMILY["InternVL2_5-8B"].llm
    per_token = kv_bytes_per_token(llm, "float16")
    check_memory(llm, "float16", 10_000, int(10_000 * per_token * 16 / 15) + 1)
    with pytest.raises(
        DeviceError, match=r"of 100000 tokens takes 12\.21 GiB.* 3\.48 GiB are missing"
    ) as caught:
        check_memory(llm, "float16", 100_000, 10 * GB)
    fits = int(str(caught.value).split("cache_tokens=")[1].split(" ")[0])
    check_memory(llm, "float16", fits, 10 * GB)
    with pytest.raises(DeviceError):
        check_memory(llm, "float16", fits + _core.CACHE_BLOCK, 10 * GB)
    with pytest.raises(DeviceError, match="Close other programs"):
        check_memory(llm, "float16", 64, 1_000_000)
    check_memory(llm, "float16", 100_000, None)


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_load_refuses_a_cache_that_the_machine_does_not_hold(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr(_core, "usable_memory", lambda: 10_000_000)
    with pytest.raises(DeviceError, match="are missing"):
        ivl.load(tiny_bundle, engine=engine, cache_tokens=1 << 20)
    with ivl.load(tiny_bundle, engine=engine) as model:
        assert model.cache_tokens == 512


def test_what_is_loaded_is_told(roomy_bundle: Path) -> None:
    with ivl.load(roomy_bundle) as model:
        assert (model.cache_tokens, model.context_tokens) == (4096, 4096)
        assert "cache_tokens=4096, context_tokens=4096" in repr(model)
        assert inspect_bundle(open_bundle(roomy_bundle)).context_tokens == 4096
    with ivl.load(roomy_bundle, max_context=8000) as model:
        assert model.context_tokens == 8000 <= model.cache_tokens
