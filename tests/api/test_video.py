"""Which frames of a video are looked at, reading them from files, and what the model is asked."""

from __future__ import annotations

import math
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

import internvl_rt as ivl
from clips import number_of, numbered_frame, write_clip
from internvl_rt.errors import ImageError, InternVLError, PromptError
from internvl_rt.images.video_decoder import RefusedError, VideoFile

av = pytest.importorskip("av")

QUESTION = "What happens?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames at 25 a second, a key frame every 30 and frames between them that refer to later ones."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 100, g=30, bf=3, threads=1)


def numbers(frames: ivl.VideoFrames) -> list[int]:
    return [number_of(np.asarray(frame)) for frame in frames.frames]


@pytest.mark.parametrize(
    ("frames", "segments", "rate", "part", "expected"),
    [
        (100, 8, 25.0, {}, [6, 18, 31, 43, 56, 68, 80, 93]),
        (300, 8, 30.0, {}, [18, 55, 93, 130, 168, 205, 242, 280]),
        (300, 4, 30.0, {"start": 2, "end": 6}, [75, 105, 135, 165]),
        (5, 8, 25.0, {}, [0, 0, 1, 2, 2, 2, 3, 4]),
        (1, 3, 25.0, {}, [0, 0, 0]),
        (100, 1, 25.0, {}, [49]),
        (100, 2, 25.0, {"start": 3.9, "end": 100}, [98, 98]),
        (100, 2, 25.0, {"start": 99}, [99, 99]),
    ],
)
def test_the_authors_rule(
    frames: int, segments: int, rate: float, part: dict[str, float], expected: list[int]
) -> None:
    assert ivl.frame_indices(frames, segments, frame_rate=rate, **part) == expected


def authors_rule(frames: int, segments: int) -> list[int]:
    """As the model cards write it, with numpy."""
    end = frames - 1
    size = float(end - 0) / segments
    return [int(0 + (size / 2) + np.round(size * index)) for index in range(segments)]


def test_the_rule_for_every_small_video() -> None:
    for frames in range(1, 130):
        for segments in (1, 2, 3, 4, 8, 16, 32):
            found = ivl.frame_indices(frames, segments)
            assert found == [min(index, frames - 1) for index in authors_rule(frames, segments)]
            assert found == sorted(found)


def test_frames_of_a_file(clip: Path) -> None:
    for source in (clip, str(clip), clip.read_bytes()):
        found = ivl.sample_video(source)
        assert found.indices == (6, 18, 31, 43, 56, 68, 80, 93)
        assert numbers(found) == list(found.indices)
        assert found.frame_rate == 25
        assert found.times is not None
        assert found.times[0] == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.avi", "mpeg4", {"g": 12}),
        ("a.mkv", "libx264", {"g": 250, "bf": 3}),
        ("a.mp4", "libx264", {"g": 1}),
        ("a.mp4", "libx264", {"g": 20, "bf": 4, "x264-params": "open-gop=1"}),
        ("a.webm", "libvpx-vp9", {"g": 40, "deadline": "realtime", "cpu-used": 8}),
        ("a.h264", "libx264", {"g": 30, "bf": 2}),
    ],
)
def test_every_frame_that_is_asked_for_is_the_one_that_comes(
    tmp_path: Path, name: str, codec: str, options: dict[str, Any]
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = write_clip(tmp_path / name, 60, codec=codec, **options)
    for count in (1, 3, 8, 60):
        found = ivl.sample_video(path, num_frames=count)
        assert numbers(found) == list(found.indices) == ivl.frame_indices(60, count)


def test_a_part_and_frames_by_the_second(clip: Path) -> None:
    part = ivl.sample_video(clip, num_frames=4, start=1, end=3)
    assert numbers(part) == list(part.indices) == ivl.frame_indices(100, 4, frame_rate=25, start=1, end=3)
    assert 25 <= part.indices[0] < part.indices[-1] <= 75
    assert len(ivl.sample_video(clip, frames_per_second=2).frames) == 8
    assert len(ivl.sample_video(clip, frames_per_second=2, start=1, end=3).frames) == 4
    assert len(ivl.sample_video(clip, frames_per_second=5, num_frames=6).frames) == 6
    assert len(ivl.sample_video(clip, frames_per_second=0.01).frames) == 1


def test_only_what_is_needed_is_decoded(clip: Path) -> None:
    found = ivl.sample_video(clip, num_frames=3)
    assert found.decode_ms > 0
    # Duplicates are decoded once, and are the same array.
    few = ivl.sample_video(clip, num_frames=3, start=1, end=1.04)
    assert len({id(frame) for frame in few.frames}) == len(set(few.indices)) < 3
    with clip.open("rb") as opened:
        file = VideoFile(av, opened)
        decoded = []
        pixels = file._pixels
        file._pixels = lambda frame: decoded.append(frame.pts) or pixels(frame)  # type: ignore[method-assign, func-returns-value]
        plan = file.plan()
        assert [index for index, _ in file.frames(plan, [3, 50, 90])] == [3, 50, 90]
    assert decoded == [plan[3], plan[50], plan[90]]


def test_a_list_of_frames() -> None:
    frames = [numbered_frame(number) for number in range(100)]
    every = ivl.sample_video(frames[:5])
    assert (numbers(every), every.times) == ([0, 1, 2, 3, 4], None)
    assert numbers(ivl.sample_video(frames, num_frames=8)) == [6, 18, 31, 43, 56, 68, 80, 93]
    timed = ivl.sample_video(tuple(frames), frames_per_second=1, frame_rate=25)
    assert timed.indices == tuple(ivl.frame_indices(100, 4))
    assert timed.times is not None


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, 8), (5, 8), (16, 8), (17, 8), (100, 8), (5000, 4), (333, 1)]
)
def test_an_iterator_is_held_in_bounded_memory(count: int, wanted: int) -> None:
    buffer = numbered_frame(0)
    seen: list[int] = []

    def camera() -> Iterator[npt.NDArray[np.uint8]]:
        for number in range(count):
            seen.append(number)
            buffer[:] = numbered_frame(number % 256)  # the same memory every time
            yield buffer

    found = ivl.sample_video(camera(), num_frames=wanted)
    assert seen == list(range(count))
    assert numbers(found) == [index % 256 for index in found.indices]
    for index, ideal in zip(found.indices, ivl.frame_indices(count, wanted), strict=True):
        assert abs(index - ideal) <= max(0.5, count / wanted / 2)


def test_a_part_of_an_iterator_is_not_read_beyond_its_end() -> None:
    frames = (numbered_frame(number % 256) for number in range(10**9))
    found = ivl.sample_video(frames, num_frames=4, start=2, end=6, frame_rate=10)
    assert all(20 <= index <= 60 for index in found.indices)
    assert next(frames) is not None


def test_a_video_that_was_filmed_upright(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "phone.mp4", 5)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    matrix = (0, 0x10000, 0, 0xFFFF0000, 0, 0, 0, 0, 0x40000000)  # players turn it clockwise
    content[at : at + 36] = b"".join(value.to_bytes(4, "big") for value in matrix)
    (frame,) = ivl.sample_video(bytes(content), num_frames=1).frames
    turned = np.asarray(frame)
    assert turned.shape == (128, 64, 3)
    assert number_of(np.ascontiguousarray(np.rot90(turned))) == 2


def test_files_that_are_no_video(clip: Path, tmp_path: Path) -> None:
    content = clip.read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "notes.mp4").write_text("notes")
    for source in (
        tmp_path / "empty.mp4",
        tmp_path / "cut.mp4",
        tmp_path / "notes.mp4",
        tmp_path / "nothing.mp4",
        tmp_path,
        b"",
        b"junk" * 100,
        "a\0b.mp4",
    ):
        with pytest.raises(ImageError, match=r"cannot be read as a video|expected a video file"):
            ivl.sample_video(source)
    with pytest.raises(ImageError, match="on the network"):
        ivl.sample_video("https://example.org/a.mp4")


def test_a_playlist_opens_no_other_file(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\nhttp://127.0.0.1:9/{clip.name}\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(ImageError):
        ivl.sample_video(tmp_path / "list.m3u8")


def test_sound_without_pictures(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        for packet in stream.encode(frame):
            container.mux(packet)
    with pytest.raises(ImageError, match="has no video stream"):
        ivl.sample_video(path)


def test_a_video_whose_end_is_missing_gives_what_is_there(clip: Path, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "whole.mkv", 100, g=10)
    content = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    found = ivl.sample_video(tmp_path / "cut.mkv", num_frames=4)
    assert numbers(found) == list(found.indices)
    assert found.indices[-1] < 80


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_frames": 0}, "num_frames must be"),
        ({"num_frames": 2.0}, "num_frames must be"),
        ({"num_frames": True}, "num_frames must be"),
        ({"num_frames": 1025}, "num_frames must be"),
        ({"frames_per_second": 0}, "frames_per_second must be a number above 0"),
        ({"frames_per_second": float("nan")}, "frames_per_second must be"),
        ({"start": -1}, "start must be a number of at least 0"),
        ({"end": "x"}, "end must be"),
        ({"start": 3, "end": 3}, "the part from 3 s to 3 s is empty"),
        ({"start": 4}, "lies behind the video's end at 4.00 s"),
    ],
)
def test_numbers_that_do_not_fit(clip: Path, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(PromptError, match=says):
        ivl.sample_video(clip, **arguments)


def test_frames_that_do_not_fit(clip: Path) -> None:
    frame = numbered_frame(0)
    for source, says in (
        ([], "an empty list"),
        (iter(()), "without a frame"),
        (7, "is a int"),
        (frame, "a ndarray"),
    ):
        with pytest.raises(ImageError, match=says):
            ivl.sample_video(source)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="give the frame_rate"):
        ivl.sample_video([frame], start=1)
    with pytest.raises(PromptError, match="frame_rate must be"):
        ivl.sample_video([frame], frame_rate=0)
    with pytest.raises(PromptError, match="chosen already"):
        ivl.sample_video(ivl.sample_video(clip), num_frames=3)
    with pytest.raises(PromptError, match="Give num_frames"):
        ivl.sample_video([frame] * 1025)


def test_without_pyav_a_file_says_how_to_get_it_and_lists_work() -> None:
    code = (
        "import sys; sys.modules['av'] = None\n"
        "import numpy, internvl_rt as ivl\n"
        "frames = ivl.sample_video([numpy.zeros((8, 8, 3), 'uint8')] * 9, num_frames=3)\n"
        "assert len(frames.frames) == 3\n"
        "try: ivl.sample_video('clip.mp4')\n"
        "except ivl.InternVLError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'internvl-rt[video]'" in done.stdout


def test_a_question_about_a_video(model: ivl.Model, clip: Path) -> None:
    asked: dict[str, Any] = {"system": "", "max_new_tokens": 8}
    answer = model.chat(QUESTION, video=clip, num_frames=4, **asked)
    frames = ivl.sample_video(clip, num_frames=4)
    assert frames.prompt == "Frame1: <image>\nFrame2: <image>\nFrame3: <image>\nFrame4: <image>\n"
    by_hand = model.chat(frames.prompt + QUESTION, list(frames.frames), max_tiles=1, **asked)
    assert answer.token_ids == by_hand.token_ids
    assert (answer.usage.tiles, answer.image_sizes) == (4, ((128, 64),) * 4)
    assert answer.timings.decode_image > 0
    assert answer.timings.first_token >= answer.timings.decode_image
    for video in (frames, list(frames.frames)):
        assert model.chat(QUESTION, video=video, **asked).token_ids == answer.token_ids
    assert model.chat(frames.prompt + QUESTION, video=frames, **asked).token_ids == answer.token_ids
    stream = model.stream(QUESTION, video=frames, **asked)
    assert list(stream)[-1].result.token_ids == answer.token_ids  # type: ignore[union-attr]
    assert model.render(QUESTION, video=frames, system="").text == (
        model.render(frames.prompt + QUESTION, list(frames.frames), max_tiles=1, system="").text
    )


def test_a_second_turn_about_a_video(model: ivl.Model, clip: Path) -> None:
    frames = ivl.sample_video(clip, num_frames=3)
    history = [(frames.prompt + QUESTION, "Stripes.")]
    answer = model.chat(
        "Which?", list(frames.frames), history=history, max_tiles=1, system="", max_new_tokens=4
    )
    assert answer.usage.tiles == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_frames": 3}, "num_frames=3 was given, and no video"),
        ({"video": [numbered_frame(0)], "images": [numbered_frame(0)]}, "images and a video were given"),
        ({"video": [numbered_frame(0)], "num_frames": 0}, "num_frames must be"),
    ],
)
def test_videos_that_do_not_fit_the_question(
    native_model: ivl.Model, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(PromptError, match=says):
        native_model.chat(QUESTION, **arguments)


def test_a_video_beside_messages(native_model: ivl.Model) -> None:
    with pytest.raises(PromptError, match="a question about a video is a text"):
        native_model.chat([{"role": "user", "content": "Hi"}], video=[numbered_frame(0)])
    with pytest.raises(PromptError, match="2 image places; 1 image given"):
        native_model.chat("<image><image>", video=[numbered_frame(0)])


def test_a_playlist_in_a_file_or_in_bytes_is_none(clip: Path, tmp_path: Path) -> None:
    for name, content in playlists(clip).items():
        (tmp_path / name).write_bytes(content)
        for source in (content, tmp_path / name):
            with pytest.raises(ImageError, match="cannot be read as a video"):
                ivl.sample_video(source)


def playlists(clip: Path) -> dict[str, bytes]:
    """Files that hold no picture and name where pictures are: in the network, and in files that are there."""
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:4,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT4S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" '
        'bandwidth="1000"><BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )
    made = {
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "address.m3u8": hls.format("http://127.0.0.1:9/a.ts"),
        "file.m3u8": hls.format(clip),
        "url.m3u8": hls.format(clip.as_uri()),
        "list.ffconcat": f"ffconcat version 1.0\nfile '{clip}'\n",
        "list.txt": f"file '{clip}'\n",
        "address.ffconcat": "ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.mp4'\n",
        "manifest.mpd": dash.format("http://127.0.0.1:9/a.mp4"),
        "file.mpd": dash.format(clip),
        "list.asx": f'<asx version="3.0"><entry><ref href="{clip}"/></entry></asx>',
        "list.ref": "[Reference]\nRef1=http://127.0.0.1:9/a.asf\n",
        "smil.smil": f'<smil><body><video src="{clip}"/></body></smil>',
        "rtsp.txt": "rtsptextrtsp://127.0.0.1:9/a",
        "list.pls": f"[playlist]\nFile1={clip}\n",
        "filter.lavfi": f"movie={clip}",
    }
    return {name: content.encode() for name, content in made.items()}


WATCHED = """
import os, socket, sys
opened = []
def watch(event, arguments):
    if event == "open" and str(arguments[0]) == os.environ["CLIP"]: opened.append(arguments[0])
    if event.startswith("socket"): opened.append(event)
sys.addaudithook(watch)
import psutil, internvl_rt as ivl
def sockets():
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try: names = os.listdir(f"/proc/{process.pid}/fd")
        except OSError: continue
        for name in names:
            try: found.append(os.readlink(f"/proc/{process.pid}/fd/{name}"))
            except OSError: pass
    return [link for link in found if link.startswith("socket") or link == os.environ["CLIP"]]
import threading, time
seen, done = set(), threading.Event()
def look():
    while not done.is_set(): seen.update(sockets()); time.sleep(0.001)
thread = threading.Thread(target=look); before = set(sockets()); thread.start()
for path in sys.argv[1:]:
    for source in (path, open(path, "rb").read()):
        try: ivl.sample_video(source); print("read", path)
        except ivl.ImageError: pass
done.set(); thread.join()
print(sorted(seen - before), opened)
"""


def test_no_socket_and_no_other_file_is_opened(clip: Path, tmp_path: Path) -> None:
    """Whatever a video names. FFmpeg waits up to a minute for packets that never come."""
    paths = []
    for name, content in playlists(clip).items():
        (tmp_path / name).write_bytes(content)
        paths.append(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, paths)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        env={**os.environ, "CLIP": str(clip)},
    )
    assert done.stdout == "[] []\n"


def test_references_of_a_mov_file_are_not_followed(tmp_path: Path) -> None:
    """A track whose data lies in another file, as editing programs write it, has no frame here."""
    whole = write_clip(tmp_path / "whole.mov", 10, g=1).read_bytes()
    at = whole.index(b"dref") - 4
    entry = b"url " + bytes([0, 0, 0, 0]) + (tmp_path / "whole.mov").as_uri().encode() + b"\0"
    reference = (len(entry) + 4).to_bytes(4, "big") + entry
    changed = bytearray(whole)
    changed[at + 28 - 4 : at + 28] = bytes(4)  # not in this file
    changed[at + 16 : at + 28] = reference[:12]
    media = changed.index(b"mdat")
    size = int.from_bytes(changed[media - 4 : media], "big")
    changed[media + 4 : media - 4 + size] = bytes(size - 8)
    with pytest.raises(ImageError):
        ivl.sample_video(bytes(changed))


def test_an_image_sequence_is_not_looked_for(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(3):
        Image.fromarray(numbered_frame(i)).save(tmp_path / f"{i:03d}.png")
    for name in ("%03d.png", "*.png"):
        with pytest.raises(ImageError, match="does not exist"):
            ivl.sample_video(tmp_path / name)


CONTAINERS = (
    ("a.mp4", "libx264"),
    ("a.mkv", "libx264"),
    ("a.avi", "mpeg4"),
    ("a.ts", "mpeg2video"),
    ("a.flv", "flv"),
)


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_damaged_files_are_image_errors(tmp_path: Path, name: str, codec: str) -> None:
    whole = write_clip(tmp_path / name, 12, codec=codec, g=4).read_bytes()
    rng = random.Random(name)
    read = refused = 0
    for attempt in range(16):
        content = bytearray(whole)
        if attempt % 4 == 0:
            del content[rng.randrange(len(content)) :]
        for _ in range(rng.choice((0, 1, 4, 30)) if attempt % 4 == 0 else rng.choice((1, 4, 30))):
            if content:
                # Mostly in the headers, at one of the two ends.
                edge = rng.choice((rng.randrange(len(content)), rng.randrange(min(600, len(content)))))
                place = rng.choice((edge, len(content) - 1 - edge))
                content[place] = rng.choice((0, 0xFF, 0x7F, rng.randrange(256)))
        try:
            found = ivl.sample_video(bytes(content), num_frames=3)
            assert len(found.frames) == 3
            read += 1
        except (ImageError, PromptError):
            refused += 1
    assert read + refused == 16
    assert read > 1
    assert refused > 1


def test_a_codec_that_is_not_known(clip: Path) -> None:
    content = clip.read_bytes().replace(b"avc1", b"zzzz")
    with pytest.raises(
        ImageError, match=r"coded in a way that this PyAV does not decode|cannot be read as a video"
    ):
        ivl.sample_video(content)


def slow_to_seek(clip: Path) -> bytes:
    """A small file that keeps FFmpeg for minutes inside of one call: a million frames of a byte."""
    content = bytearray(clip.read_bytes())
    for box, offset, numbers in (("stsz", 8, (1, 10**6)), ("stsc", 16, (10**6,)), ("stts", 12, (10**6,))):
        at = content.index(box.encode()) + offset
        content[at : at + 4 * len(numbers)] = struct.pack(f">{len(numbers)}I", *numbers)
    return bytes(content)


def test_reading_ends_when_the_time_is_over(tmp_path: Path) -> None:
    """Wherever it is: here inside of a call of FFmpeg that does not ask whether it should go on."""
    clip = write_clip(tmp_path / "clip.mp4", 20, g=5)
    hostile = tmp_path / "hostile.mp4"
    hostile.write_bytes(slow_to_seek(clip))
    for source in (hostile, hostile.read_bytes()):
        before = set(psutil.Process().children())
        with pytest.raises(ImageError, match=r"took longer than 2 s and was given up\. Give sample_video"):
            ivl.sample_video(source, num_frames=3, timeout=2)
        assert set(psutil.Process().children()) <= before, "nothing goes on decoding"
    for timeout in (600, math.inf):
        assert len(ivl.sample_video(clip, timeout=timeout).frames) == 8
    for wrong in (0, -1, "long", math.nan):
        with pytest.raises(PromptError, match="timeout must be"):
            ivl.sample_video(clip, timeout=wrong)  # type: ignore[arg-type]


def test_a_decoder_that_crashes_is_an_image_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: "/bin/false")
    with pytest.raises(ImageError, match="the process that decodes it ended with 1"):
        ivl.sample_video(clip)
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: "/nowhere/python")
    with pytest.raises(InternVLError, match=r"no process can be started .*set_executable"):
        ivl.sample_video(clip)
    monkeypatch.setattr("multiprocessing.spawn.get_executable", lambda: None)
    with pytest.raises(InternVLError, match="does not know where one is"):
        ivl.sample_video(clip)


def test_nothing_of_the_folder_is_imported(clip: Path, tmp_path: Path) -> None:
    for name in ("random", "json", "numpy", "av", "array", "bisect", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close(); raise SystemExit(3)\n")
    code = (
        "import sys; sys.path.pop(0); import internvl_rt as ivl; print(ivl.sample_video(sys.argv[1]).indices)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(clip)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("(6, 18")
    assert not (tmp_path / "ran").exists()


def test_an_interrupt_ends_the_process(tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.mp4"
    hostile.write_bytes(slow_to_seek(write_clip(tmp_path / "clip.mp4", 20, g=5)))
    code = "import sys, internvl_rt as ivl; print('begun', flush=True); ivl.sample_video(sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(hostile)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as caller:
        assert caller.stdout is not None
        caller.stdout.readline()
        while not (children := psutil.Process(caller.pid).children()):
            time.sleep(0.01)
        caller.send_signal(signal.SIGINT)
        _, errors = caller.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_frames_that_take_too_much_memory(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("internvl_rt.images.video.MAX_FRAMES_BYTES", 128 * 64 * 3 * 5)
    assert len(ivl.sample_video(clip, num_frames=5).frames) == 5
    with pytest.raises(ImageError, match=r"6 frames of 128x64 take 0\.0 GB; .* Take fewer frames"):
        ivl.sample_video(clip, num_frames=6)


def test_frames_that_are_too_large(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("internvl_rt.images.video_decoder.MAX_FRAME_PIXELS", 128 * 64 - 1)
    with clip.open("rb") as opened, pytest.raises((RefusedError, av.error.FFmpegError)):
        VideoFile(av, opened).plan()


def test_a_video_that_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, says in (
        (tmp_path / "pipe.mp4", "a named pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(ImageError, match=f"is {says}; expected a video file"):
            ivl.sample_video(path)


def test_a_video_by_its_url(clip: Path) -> None:
    assert ivl.sample_video(clip.as_uri()).indices == ivl.sample_video(clip).indices
    for source in (clip, str(clip), clip.as_uri(), [str(clip)], iter([clip])):
        with pytest.raises(ImageError, match="allow_paths=False"):
            ivl.sample_video(source, allow_paths=False)
    assert ivl.sample_video(clip.read_bytes(), allow_paths=False).indices
