"""The demo: a trained model and a picture that are there without any download."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from internvl_rt import __version__
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import BundleError
from internvl_rt.tabletop import checkpoint_folder, draw, make_scene

NOTE = (
    "A small model, trained on drawn table tops alone. For pictures of the world: "
    "internvl-rt export CHECKPOINT OUT, with a checkpoint of the InternVL family."
)
QUESTIONS = (
    "What objects are on the table, from left to right?",
    "How many objects are on the table?",
    "What does the label say?",
)
MOST_LOCATED = 3


def demo_bundle() -> Path:
    """The folder of the demo's bundle, which is exported when it is not there yet.

    It lies in the user's cache folder, under this package's version, and takes a few megabytes.

    Raises:
        BundleError: if it cannot be written.
    """
    from internvl_rt.export import export

    folder = cache_folder() / f"demo-{__version__}"
    try:
        open_bundle(folder)
    except BundleError:
        # Not there, or damaged: it holds nothing that could not be made again.
        folder.parent.mkdir(parents=True, exist_ok=True)
        export(checkpoint_folder(), folder, weights="bf16", overwrite=True, progress=False)
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


def where_questions(objects_answer: str) -> Iterator[str]:
    """Asks for the place of what the answer to the first question names, each thing once."""
    names = dict.fromkeys(name.strip() for name in objects_answer.split(","))
    for name in list(names)[:MOST_LOCATED]:
        if name and name != "nothing":
            yield f"Where is the {name}?"
