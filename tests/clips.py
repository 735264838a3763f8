"""Videos whose frames tell their number, as eight black or white stripes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 128, 64


def numbered_frame(number: int) -> npt.NDArray[np.uint8]:
    """uint8 [64, 128, 3]; stripe b is white where bit b of the number is set."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(8):
        frame[:, bit * 16 : bit * 16 + 16] = 255 * (number >> bit & 1)
    return frame


def number_of(frame: npt.NDArray[np.uint8]) -> int:
    """The number of a frame, though it was compressed."""
    assert frame.shape == (HEIGHT, WIDTH, 3)
    return sum(1 << bit for bit in range(8) if frame[16:48, bit * 16 + 4 : bit * 16 + 12].mean() > 128)


def write_clip(path: Path, frames: int, *, codec: str = "libx264", rate: int = 25, **options: Any) -> Path:
    """A video of numbered frames; ``options`` are the encoder's."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={k: str(v) for k, v in options.items()})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path
