"""Pictures: how many tiles they get, what is encoded, what is used again, and what is no picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recorded_requests.pictures import blank, pattern, png, png_that_claims
from recorded_requests.stage import Filled, Request, Stage, call, encoded, iterated

ASKED: dict[str, Any] = {"question": "What?", "system": "", "max_new_tokens": 3}
SIZES = ((1, 1), (56, 56), (60, 50), (150, 90), (560, 224), (40, 400), (400, 40), (300, 300), (7, 900))
SMALL, PHOTO, WIDE = pattern(60, 50), pattern(150, 90, 2), pattern(560, 224, 3)


def counted(method: str, *arguments: Any, **named: Any) -> Any:
    """A call, and how many tiles the engine was given."""

    def run(stage: Stage) -> Any:
        answer = stage.call(method, *arguments, **named)
        return {"reply": answer, "encoded": stage.engine.encoded}

    return run


def tiles() -> Iterator[Request]:
    for width, height in SIZES:
        for budget in ({}, {"max_tiles": 4}, {"detail": "low"}, {"detail": "high"}):
            run = call("encode", pattern(width, height), **budget)
            yield Request(f"bytes: encode {width}x{height}, {budget}", "bytes", run)
    for most in (1, 2, 3, 6, 12, 13, 40):
        run = call("chat", images=[WIDE], max_tiles=most, **ASKED)
        yield Request(f"bytes: at most {most} tiles", "bytes", run)
    for number in (1, 2, 3, 5, 7, 13):
        for detail in ("auto", "high"):
            for name, picture in (("", PHOTO), ("wide ", WIDE)):
                run = call("chat", images=[picture] * number, detail=detail, **ASKED)
                yield Request(f"bytes: {number} {name}pictures, {detail}", "bytes", run)
    for name, images, arguments in (
        ("equal tiles", [blank(300, 300)], {"max_tiles": 9}),
        ("a picture twice", [PHOTO, PHOTO], {"max_tiles": 4}),
        ("blank pictures", [blank(150, 150), blank(60, 50)], {"max_tiles": 4}),
        ("pictures that differ", [PHOTO, WIDE], {"max_tiles": 4}),
        ("as one", [PHOTO, WIDE, PHOTO], {"max_tiles": 4, "as_one": True}),
    ):
        run = counted("chat", images=images, **arguments, **ASKED)
        yield Request(f"bytes: {name}", "bytes", run)
    items = [
        {"type": "image", "image": WIDE, "detail": "low"},
        {"type": "image", "image": WIDE, "detail": "high"},
        {"type": "image_url", "image_url": None, "image": WIDE},
        {"type": "text", "text": "?"},
    ]
    for name, arguments in (("", {}), (", all low", {"detail": "low"}), (", 2 tiles", {"max_tiles": 2})):
        asked = {**ASKED, "question": [{"role": "user", "content": items}], "system": ""}
        run = call("chat", **asked, **arguments)
        yield Request(f"bytes: details of items{name}", "bytes", run)
    for model in ("bytes", "internvl-hf", "turned"):
        for orientation in (1, 3, 6, 8):
            run = call("chat", images=[png(PHOTO, orientation)], max_tiles=2, **ASKED)
            yield Request(f"{model}: EXIF {orientation}", model, run)
        run = call("chat", images=[png(PHOTO, 6)], max_tiles=2, orientation="stored", **ASKED)
        yield Request(f"{model}: as it is stored", model, run)
        run = call("chat", images=[png(PHOTO, 6), PHOTO], max_tiles=2, orientation="exif", **ASKED)
        yield Request(f"{model}: turned", model, run)

    def progress(number: int) -> Any:
        def run(stage: Stage) -> Any:
            told: list[list[int]] = []
            stage.call(
                "chat",
                images=[pattern(150, 90, seed) for seed in range(number)],
                max_tiles=4,
                progress=lambda done, of: told.append([done, of]),
                **ASKED,
            )
            return {"first": told[0], "last": told[-1], "rises": told == sorted(told)}

        return run

    for number in (1, 3):
        yield Request(f"bytes: progress of {number} pictures", "bytes", progress(number))


def features() -> Iterator[Request]:
    first, second = encoded(PHOTO, max_tiles=2), encoded(SMALL, max_tiles=1)
    for name, images, arguments in (
        ("features", [first], {}),
        ("features without a list", first, {}),
        ("features twice", [first, first], {}),
        ("features and a picture", [first, SMALL], {"max_tiles": 1}),
        ("two features as one", [first, second], {"as_one": True}),
        ("features in any detail", [first], {"detail": "low"}),
        ("features of features", encoded(encoded(PHOTO, max_tiles=1)), {}),
    ):
        run = counted("chat", images=images, **arguments, **ASKED)
        yield Request(f"bytes: {name}", "bytes", run)
    yield Request("bytes: locate", "bytes", call("locate", "cup", first, system="", max_new_tokens=4))
    run = call("vote", "What?", [first], n=2, reasoning=None, seed=1, system="", max_new_tokens=4)
    yield Request("bytes: vote", "bytes", run)

    def many_questions(stage: Stage) -> Any:
        picture = stage.call("encode", PHOTO, max_tiles=2)
        asked = {**ASKED, "images": [picture]}
        answers = [
            stage.call("chat", **{**asked, "question": question}) for question in ("What?", "Where?", "What?")
        ]
        return {"answers": answers, "encoded": stage.engine.encoded}

    yield Request("bytes: many questions about a picture", "bytes", many_questions)

    def by_hand(stage: Stage) -> Any:
        pictures = [stage.call("encode", PHOTO, max_tiles=2), stage.call("encode", SMALL, max_tiles=1)]
        prompt = stage.call("render", "What?", pictures, system="")
        answer = stage.call("generate", prompt.input_ids, pictures, max_new_tokens=3)
        chat = stage.call("chat", images=pictures, **ASKED)
        rows = np.concatenate([picture.rows for picture in pictures])
        arrays = stage.call("generate", prompt.input_ids, rows, max_new_tokens=3)
        return {
            "generate": answer,
            "chat": chat,
            "arrays": arrays,
            "logits": stage.call("logits", prompt.input_ids, pictures),
        }

    yield Request("bytes: by hand", "bytes", by_hand)
    foreign = Filled(lambda stage: stage.models.loaded("own system")[0].encode(SMALL, max_tiles=1))
    for method, arguments in (
        ("chat", {"images": [foreign], **ASKED}),
        ("encode", {"image": foreign}),
        ("generate", {"input_ids": [65], "image_features": foreign}),
        ("logits", {"input_ids": [65], "image_features": [foreign]}),
    ):
        yield Request(f"bytes: {method}, features of another bundle", "bytes", call(method, **arguments))
    same = Filled(lambda stage: stage.models.loaded("short")[0].encode(SMALL, max_tiles=1))
    run = call("chat", images=[same], **ASKED)
    yield Request("bytes: features of the same bundle", "bytes", run)


def bad_pictures() -> Iterator[Request]:
    grey = np.zeros((10, 10), np.uint8)
    pictures: dict[str, Any] = {
        "none": None,
        "number": 7,
        "object": {"path": "a.jpg"},
        "rows": [[[0, 0, 0]]],
        "names": [["a.jpg", "b.jpg"]],
        "bytes of nothing": b"",
        "bytes of no picture": bytes(100),
        "text in a file": b"these are notes",
        "grey": grey,
        "camera frame": np.zeros((72, 64), np.uint8),
        "alpha": np.zeros((10, 10, 4), np.uint8),
        "channels first": np.zeros((3, 64, 64), np.uint8),
        "one channel": np.zeros((10, 10, 1), np.uint8),
        "YUYV": np.zeros((10, 10, 2), np.uint8),
        "several": np.zeros((2, 10, 10, 3), np.uint8),
        "floats to 1": np.ones((4, 4, 3), np.float32),
        "floats to 255": np.full((4, 4, 3), 255.0, np.float32),
        "negative floats": np.full((4, 4, 3), -1.0, np.float32),
        "not numbers": np.full((4, 4, 3), np.nan, np.float32),
        "16 bits": np.full((4, 4, 3), 999, np.uint16),
        "booleans": np.zeros((4, 4, 3), np.bool_),
        "objects": np.full((4, 4, 3), None),
        "no rows": np.zeros((0, 10, 3), np.uint8),
        "no columns": np.zeros((10, 0, 3), np.uint8),
        "too long": np.zeros((1, (1 << 20) + 1, 3), np.uint8),
        "network": "https://example.org/a.jpg",
        "path of the network": Path("https://example.org/a.jpg"),
        "file that is not there": "/nowhere/a.png",
        "data without base64": "data:image/png,abc",
        "base64": "data:image/png;base64,A",
        "of 50000 by 50000": png_that_claims(50_000, 50_000),
        "of a million by 1": png_that_claims((1 << 20) + 1, 1),
        "of half a file": png(PHOTO)[:500],
        "iterator": iterated([]),
    }
    for name, picture in pictures.items():
        images = picture if name == "iterator" or isinstance(picture, np.ndarray) else [picture]
        yield Request(f"bytes: chat, {name}", "bytes", call("chat", images=images, **ASKED))
        if name in ("none", "grey", "bytes of nothing", "network", "no rows", "file that is not there"):
            yield Request(f"bytes: encode, {name}", "bytes", call("encode", picture))
            yield Request(f"bytes: stream, {name}", "bytes", call("stream", images=[picture], **ASKED))
    run = call("chat", images=[SMALL, None], **ASKED)
    yield Request("bytes: chat, none behind a picture", "bytes", run)
    for name, picture in (("path", "a.png"), ("Path", Path("a.png")), ("URL", "file:///tmp/a.png")):
        yield Request(f"no paths: {name}", "no paths", call("chat", images=[picture], **ASKED))
        yield Request(f"no paths: encode, {name}", "no paths", call("encode", picture))
    for name, picture in (("array", pattern(300, 100)), ("file", png(pattern(300, 100)))):
        yield Request(f"no paths: large {name}", "no paths", call("encode", picture))
    for name, value in (
        ("doubles", np.zeros((1, 3, 56, 56))),
        ("bytes", np.zeros((1, 3, 56, 56), np.uint8)),
        ("one tile", np.zeros((3, 56, 56), np.float32)),
        ("another size", np.zeros((1, 3, 28, 56), np.float32)),
        ("no tiles", np.zeros((0, 3, 56, 56), np.float32)),
        ("infinity", np.full((1, 3, 56, 56), np.inf, np.float32)),
        ("none", None),
        ("tiles", np.zeros((2, 3, 56, 56), np.float32)),
    ):
        yield Request(f"bytes: encode_pixels, {name}", "bytes", call("encode_pixels", value))


def flash() -> Iterator[Request]:
    for width, height in ((60, 50), (150, 90), (300, 300), (560, 224)):
        for most in (1, 4, 12):
            run = call("encode", pattern(width, height, 5), max_tiles=most)
            yield Request(f"flash: encode {width}x{height} in {most}", "flash", run)
    pictures = [pattern(300, 300, 5), pattern(60, 50), pattern(560, 224, 4)]
    for name, arguments in (
        ("a picture", {"images": pictures[:1]}),
        ("pictures", {"images": pictures}),
        ("as one", {"images": pictures, "as_one": True}),
        ("features", {"images": [encoded(pictures[0], max_tiles=4), pictures[1]]}),
        ("a picture twice", {"images": [pictures[0]] * 2}),
    ):
        run = counted("chat", **arguments, max_tiles=4, **ASKED)
        yield Request(f"flash: {name}", "flash", run)
    run = call("vote", "What?", pictures[:1], n=3, reasoning=None, seed=1, system="", max_new_tokens=4)
    yield Request("flash: vote", "flash", run)
    run = call("stream", "What happens?", video=[pattern(56, 56, i) for i in range(3)], max_new_tokens=3)
    yield Request("flash: a video", "flash", run)
