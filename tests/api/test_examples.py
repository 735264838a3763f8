"""The examples run as they are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clips import write_clip

TESTED = {
    "best_of.py",
    "camera_loop.py",
    "chat.py",
    "locate.py",
    "several_answers.py",
    "several_pictures.py",
    "structured.py",
    "video.py",
    "vote.py",
}
EXAMPLES = Path(__file__).parents[2] / "examples/python"


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chat(tiny_bundle: Path, photo_file: Path) -> None:
    out = run("chat.py", tiny_bundle, photo_file, "First?", "Second?", "--max-new-tokens", 5)
    assert "tiles, encoded in" in out
    assert out.index("> First?") < out.index("> Second?")


def test_camera_loop_on_drawn_frames(tiny_bundle: Path) -> None:
    out = run("camera_loop.py", tiny_bundle, "--answers", 3, "--rate", 100)
    assert out.count("vision") == 3
    assert "3 answers, p50" in out


def test_camera_loop_on_a_folder(tiny_bundle: Path, photo_bytes: bytes, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(photo_bytes)
    assert "2 answers, p50" in run("camera_loop.py", tiny_bundle, "--frames", tmp_path, "--answers", 2)


def test_camera_loop_goes_on_after_broken_frames(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"half a fr")
    out = run("camera_loop.py", tiny_bundle, "--frames", tmp_path, "--answers", 3, "--rate", 100)
    assert out.count("frame skipped: ") == 3


def failed(name: str, *arguments: object) -> str:
    """What an example that fails says; it fails in time, and does not wait for ever."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_camera_loop_ends_when_its_camera_does(tiny_bundle: Path, tmp_path: Path) -> None:
    said = failed("camera_loop.py", tiny_bundle, "--frames", tmp_path / "unplugged")
    assert said.startswith("the camera failed: ")
    assert "No such file" in said
    assert "holds no .jpg or .png file" in failed("camera_loop.py", tiny_bundle, "--frames", tmp_path)
    (tmp_path / "1.png").mkdir()
    assert "Is a directory" in failed("camera_loop.py", tiny_bundle, "--frames", tmp_path)


def test_a_camera_hands_over_the_newest_frame_and_then_its_end() -> None:
    spec = importlib.util.spec_from_file_location("camera_loop", EXAMPLES / "camera_loop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handed_over = threading.Event()

    def frames() -> Iterator[bytes]:
        yield b"first"
        yield b"second"
        handed_over.set()
        raise RuntimeError("the lens fell off")

    camera = module.Camera(frames(), rate=1e9)
    assert handed_over.wait(30)
    assert (camera.newest(), camera.dropped) == (b"second", 1)
    with pytest.raises(RuntimeError, match="the lens fell off"):
        camera.newest()
    ended = module.Camera(iter([b"only"]), rate=1e9)
    assert ended.newest() == b"only"
    assert ended.newest() is None


def test_locate(tiny_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.png"
    said = run("locate.py", tiny_bundle, photo_file, "cup", "box", "--out", out, "--max-new-tokens", 5)
    assert "cup: " in said
    assert "box: " in said
    assert out.read_bytes().startswith(b"\x89PNG")


def test_video(tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    clip = write_clip(tmp_path / "clip.mp4", 50)
    said = run("video.py", tiny_bundle, clip, "What?", "--num-frames", 2, "--start", 1, "--max-new-tokens", 5)
    assert said.startswith("frames at 1.24 s, 1.72 s\n> What?\n")


def test_structured(tiny_bundle: Path, photo_file: Path) -> None:
    pytest.importorskip("llguidance")
    said = run("structured.py", tiny_bundle, photo_file, "--max-new-tokens", 200)
    assert said.splitlines()[-1] in ("yes", "no", "unclear")


def test_several_pictures(tiny_bundle: Path, photo_file: Path) -> None:
    said = run(
        "several_pictures.py",
        tiny_bundle,
        "Hi",
        photo_file,
        photo_file,
        "--detail",
        "low",
        "--max-new-tokens",
        3,
    )
    assert "each for itself: 2 tiles" in said
    assert "in one place: 2 tiles" in said


def test_several_answers(tiny_bundle: Path, photo_file: Path) -> None:
    options = ("-n", 3, "--seed", 1, "--max-new-tokens", 3)
    said = run("several_answers.py", tiny_bundle, photo_file, "Hi", *options)
    assert [f"\n{i}. " in "\n" + said for i in (1, 2, 3, 4)] == [True, True, True, False]


def test_vote(tiny_bundle: Path, photo_file: Path) -> None:
    options = ("-n", 3, "--seed", 1, "--max-new-tokens", 4)
    said = run("vote.py", tiny_bundle, photo_file, "What?", *options, "--direct")
    assert "answer: " in said
    assert sum(int(line.split(" x ")[0]) for line in said.splitlines() if " x " in line) <= 3


@pytest.mark.parametrize("critic", [False, True])
def test_best_of(roomy_bundle: Path, photo_file: Path, critic: bool) -> None:
    options = ("-n", 2, "--max-new-tokens", 4, *(("--critic", roomy_bundle) if critic else ()))
    said = run("best_of.py", roomy_bundle, photo_file, "What?", *options)
    assert said.splitlines()[-1].startswith("scores: ")


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == TESTED
