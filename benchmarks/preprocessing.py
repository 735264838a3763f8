"""From a decoded picture to pixel_values: internvl_rt against Pillow and NumPy, alternating in one run.

Pillow and NumPy do what the authors' code does: convert, resize, crop, thumbnail, stack, divide by 255,
normalise, channels first, float32. Results are compared for equality before anything is timed.

    python benchmarks/preprocessing.py [--rounds 15] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import skimage
from PIL import Image
from rich.console import Console
from rich.table import Table

from internvl_rt import _core
from internvl_rt.bundle.manifest import Tiling
from internvl_rt.images import tile_pixel_values

CASES = ((448, 448, 12), (1280, 720, 12), (1920, 1080, 12), (3840, 2160, 12), (3840, 2160, 40))
THREADS = (1, 2)
SIZE = 448
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)

Float32Array = npt.NDArray[np.float32]


def pillow_and_numpy(image: Image.Image, grid: tuple[int, int]) -> Float32Array:
    """The authors' pipeline. The grid is given: choosing it takes no time worth measuring."""
    image = image.convert("RGB")
    columns, rows = grid
    resized = image.resize((SIZE * columns, SIZE * rows))
    tiles = []
    for tile in range(columns * rows):
        left, top = tile % columns * SIZE, tile // columns * SIZE
        tiles.append(resized.crop((left, top, left + SIZE, top + SIZE)))
    if len(tiles) > 1:
        tiles.append(image.resize((SIZE, SIZE)))
    values = np.stack([np.asarray(tile) for tile in tiles]).astype(np.float32)
    values /= np.float32(255)
    values -= MEAN
    values /= STD
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def milliseconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def measure(width: int, height: int, max_tiles: int, rounds: int) -> dict[str, Any]:
    photograph = Image.open(Path(skimage.__file__).parent / "data" / "coffee.png").convert("RGB")
    image = photograph.resize((width, height))
    rgb = np.asarray(image)
    rules = Tiling(tile_size=SIZE, min_tiles=1, max_tiles=max_tiles, thumbnail=True, dynamic=True)
    ours, grid = tile_pixel_values(rgb, rules)
    if not np.array_equal(ours, pillow_and_numpy(image, grid)):
        raise SystemExit(f"{width}x{height}: the results differ, so their times say nothing")
    calls: dict[str, Callable[[], Any]] = {"pillow_numpy": lambda: pillow_and_numpy(image, grid)}
    for threads in THREADS:
        calls[f"internvl_rt_{threads}"] = lambda threads=threads: tile_pixel_values(
            rgb, rules, threads=threads
        )
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
    median = {name: statistics.median(series) for name, series in times.items()}
    least = {name: min(series) for name, series in times.items()}
    return {
        "width": width,
        "height": height,
        "max_tiles": max_tiles,
        "tiles": len(ours),
        "median_ms": median,
        "least_ms": least,
        "speedup_of_medians": {name: median["pillow_numpy"] / median[name] for name in calls},
        "speedup_of_least": {name: least["pillow_numpy"] / least[name] for name in calls},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cases = [measure(*case, arguments.rounds) for case in CASES]
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": _core.usable_cores(),
        "load": os.getloadavg()[0],
        "instruction_set": _core.instruction_set(),
        "pillow": PIL.__version__,
        "numpy": np.__version__,
    }
    if arguments.json:
        print(json.dumps({"machine": machine, "cases": cases}, indent=2))
        return
    table = Table(title="Decoded picture to pixel_values, ms: median (least)")
    for column in ("picture", "max", "tiles", "Pillow + NumPy", *(f"ours, threads={n}" for n in THREADS)):
        table.add_column(column, justify="right")
    for case in cases:
        row = [f"{case['width']}x{case['height']}", str(case["max_tiles"]), str(case["tiles"])]
        for name, median in case["median_ms"].items():
            cell = f"{median:.1f} ({case['least_ms'][name]:.1f})"
            if name != "pillow_numpy":
                cell += f"  {case['speedup_of_medians'][name]:.1f}x"
            row.append(cell)
        table.add_row(*row)
    Console().print(table)
    Console().print(", ".join(f"{name} {value}" for name, value in machine.items()))


if __name__ == "__main__":
    main()
