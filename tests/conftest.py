"""What several test folders share: tiny bundles made by the exporter, models on every engine, pictures."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from bundle.tiny import write_tiny

# A shell starts background jobs with interrupts ignored, and Python leaves them so: the tests that interrupt
# an answer or an export would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

ENGINES = ("native", "onnxruntime")

CACHE_TOKENS = 1024
"""Twice the tiny model's positions: several answers at once, and still easy to fill."""


NOTHING_KEPT: dict[str, int] = {"tile_cache_bytes": 0, "prefix_cache_tokens": 0}
"""Options of ``load``: what a test counts and measures does not depend on the calls before."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets the C++ tests begin: compiling them takes longer than all others of a process together."""
    items.sort(key=lambda item: item.get_closest_marker("cpp") is None)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with fp32 weights and graphs. Not to be written to."""
    return write_tiny(tmp_path_factory.mktemp("tiny") / "bundle", graphs=True)


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same shapes with other weights."""
    return write_tiny(tmp_path_factory.mktemp("other") / "bundle", graphs=True, seed=1)


@pytest.fixture(scope="session")
def roomy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a context of 4096 tokens, for long prompts."""
    return write_tiny(tmp_path_factory.mktemp("roomy") / "bundle", graphs=True, positions=4096)


@pytest.fixture(scope="session")
def native_model(tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(tiny_bundle, engine="native", cache_tokens=CACHE_TOKENS, **NOTHING_KEPT) as model:
        yield model


@pytest.fixture(scope="session")
def onnx_model(tiny_bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(tiny_bundle, engine="onnxruntime", cache_tokens=CACHE_TOKENS, **NOTHING_KEPT) as model:
        yield model


@pytest.fixture(params=ENGINES)
def model(request: pytest.FixtureRequest) -> ivl.Model:
    """The tiny model on each engine in turn; shared by all tests, which is a test in itself.

    It keeps nothing of earlier calls.
    """
    loaded = request.getfixturevalue("native_model" if request.param == "native" else "onnx_model")
    assert isinstance(loaded, ivl.Model)
    return loaded


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A picture of 150x90 pixels, which is five tiles (2x2 and a thumbnail) of the tiny model at most 4."""
    rng = np.random.default_rng(7)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 15, 3), dtype=np.uint8))
    return coarse.resize((150, 90), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def photo_bytes(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    photo.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def photo_file(photo_bytes: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    path.write_bytes(photo_bytes)
    return path
