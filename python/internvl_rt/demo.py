"""The demo: a bundle and a picture that are there without any download."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from PIL import Image

from internvl_rt import __version__
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import BundleError
from internvl_rt.tabletop import checkpoint_folder, draw, make_scene

QUESTIONS = (
    "What objects are on the table, from left to right?",
    "What does the label say?",
    "Where is the red ball?",
)
TRAINED_NOTE = "A small model, trained on drawn table tops alone, looks at one that it has not seen."
RANDOM_NOTE = (
    "This model's weights are random: its words mean nothing. They show that picture, prompt and answer "
    "pass through every stage on this machine. For real answers: internvl-rt export CHECKPOINT OUT"
)


def is_trained() -> bool:
    """Whether the table-top checkpoint is part of this installation; otherwise the weights are random."""
    return _checkpoint() is not None


def note() -> str:
    """What has to be said before anybody reads the answers."""
    return TRAINED_NOTE if is_trained() else RANDOM_NOTE


def demo_bundle() -> Path:
    """The folder of the demo's bundle, which is made when it is not there yet.

    It lies in the user's cache folder, under this package's version, and takes a few megabytes.

    Raises:
        BundleError: if it cannot be written.
    """
    checkpoint = _checkpoint()
    folder = cache_folder() / f"demo-{__version__}-{'random' if checkpoint is None else 'tabletop'}"
    try:
        open_bundle(folder)
    except BundleError:
        # Not there, or damaged: it holds nothing that could not be made again.
        folder.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint is None:
            _write_random(folder)
        else:
            from internvl_rt.export import export

            export(checkpoint, folder, weights="bf16", overwrite=True, progress=False)
    return folder


def cache_folder() -> Path:
    """``internvl_rt`` in the user's cache folder, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "internvl_rt"


def demo_picture() -> Image.Image:
    """A table top with a red ball, a blue cube, a green cup and a label; one that training held out."""
    kinds = (("red", "ball"), ("blue", "cube"), ("green", "cup"))
    rng = np.random.default_rng(3)
    scene = make_scene(rng, width=480, height=480, objects=3, label_lengths=(4,), held_out=True, kinds=kinds)
    return draw(scene)


def _checkpoint() -> Path | None:
    try:
        return checkpoint_folder()
    except FileNotFoundError:
        return None


def _write_random(folder: Path) -> None:
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
    write_synthetic(manifest, folder, tokenizer=tokenizer, overwrite=True, progress=False)
