"""The demo: a bundle and a picture that are there without any download."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from PIL import Image, ImageDraw

from internvl_rt import __version__
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import BundleError

QUESTIONS = ("What is on the table?", "What colour is the ball?")
NOTE = (
    "This model's weights are random: its words mean nothing. They show that picture, prompt and answer "
    "pass through every stage on this machine. For real answers: internvl-rt export CHECKPOINT OUT"
)


def demo_bundle() -> Path:
    """The folder of the demo's bundle, which is made when it is not there yet.

    It lies in the user's cache folder, under this package's version, and takes a few megabytes.

    Raises:
        BundleError: if it cannot be written.
    """
    folder = cache_folder() / f"demo-{__version__}"
    try:
        open_bundle(folder)
    except BundleError:
        # Not there, or damaged: it holds nothing that could not be made again.
        _write_bundle(folder)
    return folder


def cache_folder() -> Path:
    """``internvl_rt`` in the user's cache folder, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "internvl_rt"


def demo_picture() -> Image.Image:
    """A table with a red ball, a blue box and a green cup; 640x480 pixels."""
    picture = Image.new("RGB", (640, 480), (206, 214, 222))
    draw = ImageDraw.Draw(picture)
    draw.polygon([(0, 480), (70, 250), (570, 250), (640, 480)], fill=(166, 124, 82))
    draw.ellipse((120, 260, 230, 370), fill=(204, 44, 40))
    draw.rectangle((290, 230, 400, 340), fill=(44, 84, 196))
    draw.polygon([(460, 260), (560, 260), (540, 380), (480, 380)], fill=(46, 150, 70))
    return picture


def _write_bundle(folder: Path) -> None:
    from internvl_rt.export.synthetic import synthetic_manifest, write_synthetic
    from internvl_rt.export.tokenizers import prompt_facts, synthetic_tokenizer

    # The shapes of InternVL2.5-1B at widths that answer in a second.
    full = synthetic_manifest("InternVL2_5-1B", weights="int8", layers=2)
    tokenizer = synthetic_tokenizer("qwen2_5", 4096)
    manifest = dataclasses.replace(
        full,
        name="demo (random weights)",
        vision=dataclasses.replace(full.vision, hidden_size=128, heads=4, intermediate_size=256),
        llm=dataclasses.replace(
            full.llm,
            hidden_size=128,
            heads=4,
            kv_heads=2,
            head_dim=32,
            intermediate_size=256,
            vocab_size=4096,
        ),
        tiling=dataclasses.replace(full.tiling, max_tiles=4),
        prompt=prompt_facts(tokenizer, full.prompt.template, None),
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_synthetic(manifest, folder, tokenizer=tokenizer, overwrite=True, progress=False)
