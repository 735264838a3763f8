"""The demo: a trained model and a picture that are there without any download."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from internvl_rt import __version__
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.errors import BundleError, InternVLError
from internvl_rt.tabletop import checkpoint_folder, draw, make_scene

NOTE = (
    "A small model, trained on drawn table tops alone. For real photographs: "
    "internvl-rt export CHECKPOINT OUT, with a checkpoint of the InternVL family."
)
QUESTIONS = (
    "What objects are on the table, from left to right?",
    "How many objects are on the table?",
    "What does the label say?",
)
MOST_LOCATED = 3


@contextmanager
def demo_bundle(warn: Callable[[str], None]) -> Iterator[Path]:
    """The folder of the demo's bundle, which is exported when it is not there yet.

    It lies in the user's cache folder, under this package's version, and takes a few megabytes. Where that
    cannot be written, it lies in a temporary folder, and ``warn`` is told what to set.

    Raises:
        BundleError: if it cannot be written there either.
    """
    try:
        folder = cache_folder() / f"demo-{__version__}"
        bundle = _made(folder)
    except (OSError, InternVLError) as error:
        reason = getattr(error, "strerror", None) or error
        with _temporary_folder(str(reason)) as folder:
            warn(
                f"the cache folder cannot be used ({reason}), so the demo's model is made again every time. "
                "Set XDG_CACHE_HOME to a folder that can be written to."
            )
            yield _made(folder / "demo")
    else:
        yield bundle


def _made(folder: Path) -> Path:
    from internvl_rt.export import export

    try:
        open_bundle(folder)
    except BundleError:
        # Not there, or damaged: it holds nothing that could not be made again.
        folder.parent.mkdir(parents=True, exist_ok=True)
        export(checkpoint_folder(), folder, weights="bf16", overwrite=True, progress=False)
    return folder


@contextmanager
def _temporary_folder(reason: str) -> Iterator[Path]:
    try:
        made = tempfile.TemporaryDirectory(prefix="internvl-rt-demo-", ignore_cleanup_errors=True)
    except OSError as error:
        raise BundleError(
            f"the demo's model has no place: the cache folder cannot be used ({reason}), and no temporary "
            f"folder can be made ({error.strerror}). Set XDG_CACHE_HOME to a folder that can be written to."
        ) from error
    with made as folder:
        yield Path(folder)


def cache_folder() -> Path:
    """``internvl_rt`` in the user's cache folder, by the XDG rules.

    Raises:
        BundleError: if nothing says where that is.
    """
    # The rules ignore a path that is not absolute.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():
        return base / "internvl_rt"
    try:
        return Path.home() / ".cache" / "internvl_rt"
    except RuntimeError as error:
        raise BundleError("this user has no home folder") from error


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
