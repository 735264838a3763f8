"""What frame_tolerance saves and costs, on held-out table-top questions as a noisy camera sees them.

Before every question the camera has seen the same table: as it is (still), or without one of its objects
(changed). Sensor noise is drawn anew for every frame. Told are the tiles that were not encoded again and the
answers that are right, for every tolerance.

    python benchmarks/frame_tolerance.py [--every 4] [--noise 2.0] [--tolerances 0 4 8 16 32] [--threads 2]
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import internvl_rt as ivl
from internvl_rt.tabletop import Scene, answers_of, checkpoint_folder, draw, held_out_questions, is_right
from internvl_rt.tabletop.held_out import MAX_TILES

KINDS = ("objects", "count", "label", "box")


def frame(scene: Scene, noise: float, seed: tuple[int, ...]) -> Image.Image:
    """The scene as a camera sees it."""
    exact = np.asarray(draw(scene).convert("RGB"), np.float32)
    seen = exact + np.random.default_rng(seed).normal(0.0, noise, exact.shape)
    return Image.fromarray(np.clip(np.rint(seen), 0, 255).astype(np.uint8))


def measure(folder: Path, tolerance: int, changed: bool, options: argparse.Namespace) -> tuple[int, int, int]:
    """Right answers, tiles that were known, and all tiles."""
    right = known = tiles = 0
    questions = [one for one in held_out_questions() if one.kind in KINDS][:: options.every]
    with ivl.load(folder, threads=options.threads, frame_tolerance=tolerance) as model:
        usages = []
        ask = answers_of(model)
        for number, question in enumerate(questions):
            (scene,) = question.scenes
            before = scene
            if changed and scene.objects:
                before = dataclasses.replace(scene, objects=scene.objects[:-1])
            model.encode(frame(before, options.noise, (number, 0)), max_tiles=MAX_TILES)
            now = frame(scene, options.noise, (number, 1))
            usages.append(model.chat("?", [now], max_tiles=MAX_TILES, max_new_tokens=1).usage)
            right += is_right(question, ask(question.text, [now]))
        known = sum(usage.cached_tiles for usage in usages)
        tiles = sum(usage.tiles for usage in usages)
    return right, known, tiles


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--noise", type=float, default=2.0, help="standard deviation of a value, of 255")
    parser.add_argument("--tolerances", type=int, nargs="+", default=[0, 4, 8, 16, 32])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    asked = len([one for one in held_out_questions() if one.kind in KINDS][:: options.every])
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        ivl.export(checkpoint_folder(), bundle, weights="bf16", vision="bf16", progress=False)
        for changed in (False, True):
            for tolerance in options.tolerances:
                right, known, tiles = measure(bundle, tolerance, changed, options)
                print(
                    f"{'changed' if changed else 'still'}, tolerance {tolerance}: {right} of {asked} right, "
                    f"{known} of {tiles} tiles known",
                    flush=True,
                )


if __name__ == "__main__":
    main()
