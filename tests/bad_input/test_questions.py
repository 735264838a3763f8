"""Questions, pictures and arguments that do not fit: a typed error, and a model that is as it was."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt import (
    BundleError,
    CacheFullError,
    CheckpointError,
    DeviceError,
    ImageError,
    InternVLError,
    PromptError,
)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


def truncated_jpeg() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()[: len(file.getvalue()) // 2]


@pytest.fixture
def unharmed(model: ivl.Model, photo: Image.Image) -> Iterator[ivl.Model]:
    """The model; after the test it answers as it always did and none of its cache is lost."""
    yield model
    answer = model.chat("What?", [photo], max_tiles=1, max_new_tokens=8, ignore_stop_tokens=True)
    assert ANSWERS.setdefault(model.engine, answer.token_ids) == answer.token_ids
    # Two prompts that take the whole cache together: were one token of it held, they would not fit.
    engine = model._engine
    assert engine.cache.tokens == 2 * model.context_tokens
    sequences = [engine.new_sequence() for _ in range(2)]
    try:
        for sequence in sequences:
            engine.prefill(sequence, np.zeros((model.context_tokens, 64), np.float32))
    finally:
        for sequence in sequences:
            engine.drop(sequence)


ANSWERS: dict[str, tuple[int, ...]] = {}
"""What the models answered the first time, by engine."""


BAD_IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a text file named .jpg": (lambda tmp: _written(tmp / "notes.jpg", b"these are notes"), "not an image"),
    "a truncated jpeg": (lambda tmp: truncated_jpeg(), "truncated"),
    "a picture of 50,000 x 50,000": (lambda tmp: png_of(50_000, 50_000), "million"),
    "a picture of 0 x 10": (lambda tmp: png_of(0, 10), "0x10|not an image|cannot be decoded"),
    "an array without rows": (lambda tmp: np.zeros((0, 10, 3), np.uint8), "at least one pixel"),
    "an array without columns": (lambda tmp: np.zeros((10, 0, 3), np.uint8), "at least one pixel"),
    "a grey array": (lambda tmp: np.zeros((10, 10), np.uint8), r"\[height, width, 3\]"),
    "an array of floats": (lambda tmp: np.zeros((10, 10, 3), np.float32), "uint8"),
    "an array with alpha": (lambda tmp: np.zeros((10, 10, 4), np.uint8), r"\[height, width, 3\]"),
    "several arrays in one": (lambda tmp: np.zeros((2, 10, 10, 3), np.uint8), r"\[height, width, 3\]"),
    "an array of objects": (lambda tmp: np.full((4, 4, 3), None), "uint8"),
    "no bytes": (lambda tmp: b"", "empty"),
    "bytes of nothing": (lambda tmp: b"\x00" * 100, "not an image"),
    "a file that is not there": (lambda tmp: tmp / "nothing.png", "does not exist"),
    "a folder": (lambda tmp: tmp, "folder"),
    "a number": (lambda tmp: 7, "int"),
    "nothing": (lambda tmp: None, "is None"),
    "a dictionary": (lambda tmp: {"path": "a.jpg"}, "dict"),
}


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images(unharmed: ivl.Model, tmp_path: Path, name: str) -> None:
    make, says = BAD_IMAGES[name]
    for call in (lambda i: unharmed.chat("What?", [i]), unharmed.encode, ivl.tile_image):
        with pytest.raises(ImageError, match=says):
            call(make(tmp_path))


@pytest.mark.parametrize("max_tiles", [0, -3, 100_000, 2.5, "many", 2**70])
def test_bad_numbers_of_tiles(unharmed: ivl.Model, photo: Image.Image, max_tiles: Any) -> None:
    for call in (
        lambda: unharmed.chat("What?", [photo], max_tiles=max_tiles),
        lambda: unharmed.encode(photo, max_tiles=max_tiles),
        lambda: unharmed.render("What?", [photo], max_tiles=max_tiles),
    ):
        with pytest.raises(ImageError, match="tiles"):
            call()


@pytest.mark.parametrize("threads", ["x", 2.5, True, 0, -1, 2**40, [2]])
def test_bad_numbers_of_threads_for_tiling(photo: Image.Image, threads: Any) -> None:
    with pytest.raises(ImageError, match="threads must be"):
        ivl.tile_image(photo, threads=threads)


@pytest.mark.parametrize(
    ("question", "images", "says"),
    [
        ("<image> and <image>", 1, "2 image places; 1 image given. Give 2 images"),
        ("<image>", 0, "1 image place; 0 images given"),
        ("<image>", 2, "Mark the place of every image"),
        ([{"role": "user", "content": [{"type": "image"}]}], 0, "0 images given"),
        ([{"role": "user", "content": [{"type": "video"}]}], 0, "expected 'text', 'image' or 'image_url'"),
        ([{"role": "user", "content": 3}], 0, "a string or a list of items"),
        ([{"role": "assistant", "content": "Hello"}], 0, "'user' was expected"),
        ([], 0, "the question to answer"),
        (["hello"], 0, "an object with 'role' and 'content'"),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "https://e.org/a.jpg"}}],
                }
            ],
            0,
            "Download it",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "base64": "!!"}]}],
            0,
            "base64 data is malformed",
        ),
        (7, 0, "a question is a string or a list of messages"),
        (None, 0, "a question is a string or a list of messages"),
        (b"bytes", 0, "a question is a string or a list of messages"),
    ],
)
def test_bad_questions(
    unharmed: ivl.Model, photo: Image.Image, question: Any, images: int, says: str
) -> None:
    with pytest.raises(PromptError, match=re.escape(says)):
        unharmed.chat(question, [photo] * images)


def test_bad_history_and_system(unharmed: ivl.Model) -> None:
    for arguments in (
        {"history": "before"},
        {"history": [("only a question",)]},
        {"history": [("q", 3)]},
        {"history": 5},
        {"system": 5},
    ):
        with pytest.raises(PromptError):
            unharmed.chat("Hello", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": -5},
        {"temperature": -1},
        {"top_p": 2},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"stop": [""]},
        {"seed": -1},
    ],
)
def test_bad_settings(unharmed: ivl.Model, settings: dict[str, Any]) -> None:
    for call in (unharmed.chat, unharmed.stream):
        with pytest.raises(PromptError, match=next(iter(settings))):
            call("Hello", **settings)
    with pytest.raises(PromptError, match=next(iter(settings))):
        unharmed.generate([65], **settings)


def test_a_prompt_longer_than_the_context(unharmed: ivl.Model, photo: Image.Image) -> None:
    with pytest.raises(
        PromptError, match=r"has \d+ tokens.*context of 512\. What helps: shorten the text\.$"
    ):
        unharmed.chat("x" * 5000)
    with pytest.raises(
        PromptError, match=r"84 of them are for 21 tiles of 3 pictures\. What helps: lower max_tiles"
    ):
        unharmed.chat("?" * 400, [photo] * 3, max_tiles=12)
    with pytest.raises(PromptError, match="has 512 tokens"):
        unharmed.generate(np.full(512, 65))
    # One token less leaves room for one token of an answer.
    answer = unharmed.generate(np.full(511, 65), ignore_stop_tokens=True)
    assert (len(answer.token_ids), answer.finish_reason) == (1, "length")


def test_features_of_another_model(unharmed: ivl.Model, other_bundle: Path, photo: Image.Image) -> None:
    with ivl.load(other_bundle, engine=unharmed.engine) as other:
        foreign = other.encode(photo, max_tiles=1)
    for call in (
        lambda: unharmed.chat("What?", [foreign]),
        lambda: unharmed.encode(foreign),
        lambda: unharmed.generate([65], foreign),
        lambda: unharmed.logits([65], [foreign]),
    ):
        with pytest.raises(ImageError, match="another bundle"):
            call()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 3, 56, 56), np.float64),
        np.zeros((1, 3, 56, 56), np.uint8),
        np.zeros((3, 56, 56), np.float32),
        np.zeros((1, 3, 28, 56), np.float32),
        np.zeros((1, 1, 56, 56), np.float32),
        np.zeros((0, 3, 56, 56), np.float32),
        np.full((1, 3, 56, 56), np.nan, np.float32),
        np.full((2, 3, 56, 56), np.inf, np.float32),
        np.float32(0),
        None,
        "pixels",
    ],
    ids=lambda value: f"{getattr(value, 'dtype', value)}{list(np.shape(value))}",
)
def test_bad_pixel_values(unharmed: ivl.Model, pixels: Any) -> None:
    with pytest.raises(ImageError, match="pixel_values"):
        unharmed.encode_pixels(pixels)


@pytest.mark.parametrize(
    "ids",
    [[], [[1, 2]], [1.5], ["a"], [-1], [331], [2**40], None, "text", [True], [2**70], [[1], [2, 3]]],
    ids=str,
)
def test_bad_input_ids(unharmed: ivl.Model, ids: Any) -> None:
    for call in (unharmed.logits, unharmed.generate):
        with pytest.raises(PromptError, match="input_ids"):
            call(ids)


def test_bad_image_features(unharmed: ivl.Model) -> None:
    context_id = unharmed.manifest.prompt.image_context_id
    good = np.zeros((1, 4, 64), np.float32)
    for ids, features in (
        ([context_id] * 4, None),
        ([context_id] * 3, good),
        ([context_id] * 5, good),
        ([65], good),
        ([context_id] * 4, good.astype(np.float64)),
        ([context_id] * 4, np.zeros((4, 63), np.float32)),
        ([context_id] * 4, np.zeros(64, np.float32)),
        ([context_id] * 4, np.full((4, 64), np.nan, np.float32)),
        ([context_id] * 4, "features"),
        ([context_id] * 4, [None]),
    ):
        for call in (unharmed.logits, unharmed.generate):
            with pytest.raises(PromptError):
                call(ids, features)


def test_many_failures_in_a_row_leave_the_cache_as_it_was(unharmed: ivl.Model) -> None:
    for _ in range(40):
        with pytest.raises(PromptError):
            unharmed.generate([unharmed.manifest.prompt.image_context_id] * 400, None)
        with pytest.raises(ImageError):
            unharmed.chat("What?", [b"junk"])
        with pytest.raises(CacheFullError, match="cache_tokens=1152 or more"):
            unharmed.logits([65] * 1152)
    streams = [unharmed.stream("y" * 300, system="", ignore_stop_tokens=True) for _ in range(9)]
    for stream in streams:  # those that are not read give way
        next(stream)
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_a_call_that_finds_no_room_in_time(tiny_bundle: Path, engine: str) -> None:
    with ivl.load(
        tiny_bundle, engine=engine, cache_tokens=512, max_wait_s=0.02, prefix_cache_tokens=0
    ) as model:
        with model._scheduler.reserve(500):
            for call in (
                lambda: model.chat("y" * 300, system=""),
                lambda: next(model.stream("y" * 300, system="")),
                lambda: model.generate([65] * 300),
                lambda: model.logits([65] * 300),
            ):
                with pytest.raises(CacheFullError, match=r"this call waited 0\.0 s"):
                    call()
        assert model.chat("y" * 300, system="", max_new_tokens=1).usage.new_tokens == 1
        assert model._engine.free_tokens == 512


@pytest.mark.parametrize("path", [None, 3, b"out"])
def test_a_bundle_or_checkpoint_that_is_no_path(path: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="a str or a Path; found"):
        ivl.load(path)
    with pytest.raises(CheckpointError, match="a str or a Path; found"):
        ivl.export(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"engine": "tensorrt"}, DeviceError, "tensorrt"),
        ({"engine": "magic"}, DeviceError, "engine='native'"),
        ({"device": "cuda"}, DeviceError, "'auto' and 'cpu'"),
        ({"device": "npu:3"}, DeviceError, "'auto' and 'cpu'"),
        ({"device": "cpu", "engine": "tensorrt"}, DeviceError, "TensorRT computes on an NVIDIA GPU"),
        ({"threads": 0}, PromptError, "threads"),
        ({"threads": -1}, PromptError, "threads"),
        ({"threads": "all"}, PromptError, "threads"),
        ({"cache_tokens": 0}, PromptError, "cache_tokens"),
        ({"cache_tokens": 2**40}, PromptError, "cache_tokens"),
        ({"cache_tokens": True}, PromptError, "cache_tokens"),
        ({"max_context": 0}, PromptError, "max_context"),
        ({"max_context": 1025}, PromptError, "contexts of up to 1024"),
        ({"max_context": 600, "cache_tokens": 599}, PromptError, "cache_tokens=600 or more"),
        ({"max_wait_s": -1}, PromptError, "max_wait_s"),
        ({"max_wait_s": "long"}, PromptError, "max_wait_s"),
        ({"max_wait_s": float("nan")}, PromptError, "max_wait_s"),
    ],
)
def test_bad_arguments_of_load(
    tiny_bundle: Path, arguments: dict[str, Any], kind: type[InternVLError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        ivl.load(tiny_bundle, **arguments)
