"""A robot's loop: a question about every frame, the newest frame first, and the latency at the end.

    python examples/python/camera_loop.py BUNDLE --frames FOLDER --question "Is the path free?"

Without --frames the frames are drawn. A camera does not wait for a model: the thread below hands over
frames at a fixed rate, and what was not looked at when the next one comes is dropped.
"""

from __future__ import annotations

import argparse
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
        raise FileNotFoundError(f"{folder} holds no .jpg or .png file")
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


def frames_a_second(text: str) -> float:
    """A number above 0."""
    rate = float(text)
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError("expected a number above 0")
    return rate


class Camera:
    """Hands over the newest frame at a fixed rate, from a thread of its own."""

    def __init__(self, frames: Iterator[bytes] | Iterator[np.ndarray], rate: float) -> None:
        self._frames = frames
        self._period = 1.0 / rate
        self._changed = threading.Condition()
        self._newest: bytes | np.ndarray | None = None
        self._ended = False
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        self.dropped = 0
        threading.Thread(target=self._run, daemon=True).start()

    def newest(self) -> bytes | np.ndarray | None:
        """Waits for a frame that was not seen yet; None when there are no more.

        What ended the thread, a cable that was pulled out, is raised here: nobody waits for a camera that is
        gone.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            frame, self._newest = self._newest, None
            if frame is None and self._failure is not None:
                raise self._failure
            return frame

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = frame
                    self._changed.notify()
                if self._stopped.wait(self._period):
                    break
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


def main() -> None:
    """Asks until the number of answers is reached or Ctrl-C is pressed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the folder that `internvl-rt export` wrote")
    parser.add_argument("--frames", type=Path, help="a folder of pictures")
    parser.add_argument("--question", default="Where is the red square? Answer with one word.")
    parser.add_argument("--answers", type=int, default=20, help="stop after so many")
    parser.add_argument("--rate", type=frames_a_second, default=10.0, help="frames a second")
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
                if frame is None:
                    print("the camera has no more frames")
                    break
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
        except OSError as error:
            raise SystemExit(f"the camera failed: {error}") from error
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
