"""A robot's loop: a question about every frame, the newest frame first, and the latency at the end.

    python examples/camera_loop.py BUNDLE --frames FOLDER --question "Is the path free?"

Without --frames the frames are drawn. A camera does not wait for a model: the thread below hands over
frames at a fixed rate, and what was not looked at when the next one comes is dropped.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import internvl_rt as ivl


def frames_of(folder: Path) -> Iterator[bytes]:
    """The pictures of a folder, by name, over and over, as bytes of their files."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"{folder} holds no .jpg or .png file")
    while True:
        for path in paths:
            yield path.read_bytes()


def drawn_frames() -> Iterator[np.ndarray]:
    """A red square that wanders over a grey floor: uint8 [480, 640, 3], RGB."""
    for step in range(1_000_000):
        frame = np.full((480, 640, 3), 120, np.uint8)
        left = (step * 12) % 560
        frame[200:280, left : left + 80] = (200, 40, 40)
        yield frame


class Camera:
    """Hands over the newest frame at a fixed rate, in a thread of its own."""

    def __init__(self, frames: Iterator[bytes] | Iterator[np.ndarray], rate: float) -> None:
        self._frames = frames
        self._period = 1.0 / rate
        self._newest: queue.Queue[bytes | np.ndarray] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self.dropped = 0
        threading.Thread(target=self._run, daemon=True).start()

    def newest(self) -> bytes | np.ndarray:
        """Waits for a frame that was not seen yet."""
        return self._newest.get()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()

    def _run(self) -> None:
        for frame in self._frames:
            try:
                self._newest.put_nowait(frame)
            except queue.Full:
                try:
                    self._newest.get_nowait()
                    self.dropped += 1
                except queue.Empty:
                    pass
                self._newest.put(frame)
            if self._stopped.wait(self._period):
                return


def main() -> None:
    """Asks until the number of answers is reached or Ctrl-C is pressed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("--frames", type=Path, help="a folder of pictures")
    parser.add_argument("--question", default="Where is the red square? Answer with one word.")
    parser.add_argument("--answers", type=int, default=20, help="stop after so many")
    parser.add_argument("--rate", type=float, default=10.0, help="frames a second")
    parser.add_argument("--max-tiles", type=int, default=1, help="more see finer detail and take longer")
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--engine", default="native")
    arguments = parser.parse_args()

    latencies: list[float] = []
    failed = 0
    with ivl.load(arguments.bundle, engine=arguments.engine) as model:
        camera = Camera(frames_of(arguments.frames) if arguments.frames else drawn_frames(), arguments.rate)
        try:
            while len(latencies) + failed < arguments.answers:
                frame = camera.newest()
                begun = time.perf_counter()
                try:
                    answer = model.chat(
                        arguments.question,
                        images=[frame],
                        max_tiles=arguments.max_tiles,
                        max_new_tokens=arguments.max_new_tokens,
                    )
                except ivl.ImageError as error:
                    # A broken frame is no reason to stop looking: the model is as good as before.
                    failed += 1
                    print(f"frame skipped: {error}")
                    continue
                latencies.append((time.perf_counter() - begun) * 1000)
                stages = answer.timings
                print(
                    f"{latencies[-1]:7.0f} ms (vision {stages.vit + stages.projector:.0f}, "
                    f"prefill {stages.prefill:.0f}, token {stages.per_token:.1f})  {answer.text}"
                )
        except KeyboardInterrupt:
            pass
        finally:
            camera.stop()
    if latencies:
        p50, p95 = np.percentile(latencies, [50, 95])
        print(
            f"{len(latencies)} answers, p50 {p50:.0f} ms, p95 {p95:.0f} ms; {camera.dropped} frames were too "
            f"late to be looked at, {failed} could not be decoded"
        )


if __name__ == "__main__":
    main()
