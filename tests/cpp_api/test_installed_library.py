"""The library as a C++ application has it: installed, found by CMake, without Python in the process.

Its answers are held to those of the Python package, which runs the same core over bindings of its own.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import internvl_rt as ivl
from cpp_builds import ROOT, build_preset, run
from internvl_rt.tabletop import checkpoint_folder, draw, make_scene

WIDTH, HEIGHT = 480, 360
ARM = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu")
QUESTION = "What is on the table?"
BOX = "Please provide the bounding box coordinate of the region this sentence describes: <ref>red ball</ref>"

needs_arm = pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64")),
    reason="needs g++-aarch64-linux-gnu and qemu-user",
)


def install(preset: str, prefix: Path) -> Path:
    run("cmake", "--install", build_preset(preset), "--prefix", prefix)
    return prefix


def build(source: str, folder: Path, prefix: Path, *options: str) -> Path:
    """Builds programs in a folder of their own, against what is installed."""
    run("cmake", "-S", ROOT / source, "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}", *options)
    run("cmake", "--build", folder)
    return folder


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the preset `library` installs, from the build of the unit tests: nothing is compiled twice."""
    return install("release", tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tabletop") / "bundle"
    ivl.export(checkpoint_folder(), folder, weights="bf16", vision="bf16", progress=False)
    return folder


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[ivl.Model]:
    with ivl.load(bundle, threads=2, cache_tokens=2048) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two scenes as raw RGB; the same with another ending as PPM."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for seed in (3, 4):
        scene = make_scene(np.random.default_rng(seed), width=WIDTH, height=HEIGHT, objects=3)
        picture = draw(scene).convert("RGB")
        paths.append(folder / f"{seed}.rgb")
        paths[-1].write_bytes(picture.tobytes())
        picture.save(paths[-1].with_suffix(".ppm"))
    return paths


def opened(path: Path) -> Image.Image:
    return Image.frombytes("RGB", (WIDTH, HEIGHT), path.read_bytes())


def line_of(name: str, answer: ivl.Answer) -> str:
    usage = answer.usage
    counts = (
        usage.tiles,
        usage.tiles_wanted,
        usage.image_tokens,
        usage.prompt_tokens,
        usage.new_tokens,
        usage.forced_tokens,
        usage.dropped_turns,
    )
    ids = "".join(f"{token} " for token in answer.token_ids)
    return "\t".join(
        [name, answer.text, answer.finish_reason, " ".join(map(str, counts)), ids, answer.grounding_text]
    )


def session_lines(model: ivl.Model, first: Image.Image, second: Image.Image) -> list[str]:
    """The conversations among the calls."""
    lines = []

    def add(name: str, answer: ivl.Answer) -> None:
        lines.append(line_of(name, answer))
        lines.append(f"{answer.usage.reused_tokens} {answer.usage.cached_tiles}")

    # A salt that the model has not seen: the program's model is new, and has nothing to reuse.
    salt = secrets.token_hex()
    brief: dict[str, Any] = {"max_new_tokens": 12, "cache_salt": salt}
    session = model.session(system="You see tables.")
    add("session: a picture", session.ask(QUESTION, [first], max_tiles=2, **brief))
    add("session: a text", session.ask("And what else?", **brief))
    branch = session.fork()
    items = [{"type": "image", "image": second}, {"type": "text", "text": "What is different?"}]
    add("session: two tiles", session.ask([{"role": "user", "content": items}], max_tiles=1, **brief))
    choices = ["yes", "no", "perhaps"]
    add("session: a branch", branch.ask("Is there a ball?", choices=choices, cache_salt=salt))
    add("session: drawn", session.ask("And where?", do_sample=True, temperature=1.5, seed=7, **brief))
    text = model.session()
    for _ in range(8):
        answer = text.ask("What?" + " ball" * 250, max_new_tokens=6, ignore_stop_tokens=True)
        lines.append(line_of("session: long", answer))
    return lines


def expected_lines(model: ivl.Model, first: Image.Image, second: Image.Image) -> list[str]:
    """What tests/cpp_api/calls.cpp prints, asked in Python."""
    asked: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("chat", QUESTION, [first], {}),
        ("tiles", QUESTION, [first], {"max_new_tokens": 32, "max_tiles": 6}),
        ("high", QUESTION, [first], {"max_new_tokens": 8, "detail": "high"}),
        ("text", "Hello", None, {"max_new_tokens": 12}),
        ("two", "<image>\n<image>\nWhat is different?", [first, second], {"max_new_tokens": 24}),
        ("one place", "What?", [first, second], {"max_new_tokens": 8, "max_tiles": 2, "as_one": True}),
        (
            "history",
            "And what else?",
            [first],
            {
                "max_new_tokens": 24,
                "history": [("<image>\nWhat is on the table?", "A red ball.")],
                "system": "You see tables.",
            },
        ),
        (
            "messages",
            [
                {"role": "system", "content": [{"type": "text", "text": "You see tables."}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": first, "detail": "low"},
                        {"type": "image", "image": second},
                        {"type": "text", "text": "What is different?"},
                    ],
                },
            ],
            None,
            {"max_new_tokens": 24},
        ),
        ("choices", "Is there a ball?", [first], {"choices": ["yes", "no", "perhaps"]}),
        ("stop", QUESTION, [first], {"stop": ["and", "a"]}),
        ("grounding", BOX, [first], {"keep_special_tokens": "grounding"}),
    ]
    lines = [
        line_of(name, model.chat(question, images, **arguments))
        for name, question, images, arguments in asked
    ]
    several = model.chat(
        QUESTION,
        [first],
        num_return_sequences=3,
        max_new_tokens=12,
        do_sample=True,
        temperature=1.5,
        top_p=0.95,
        repetition_penalty=1.1,
        seed=7,
    )
    lines += [line_of("several", answer) for answer in several]
    lines += session_lines(model, first, second)
    return [*lines, line_of("after all", model.chat(QUESTION, [first]))]


@pytest.fixture(scope="module")
def programs(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("tests/cpp_api", tmp_path_factory.mktemp("programs"), prefix)


@pytest.fixture(scope="module")
def examples(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("examples/cpp", tmp_path_factory.mktemp("examples"), prefix)


@pytest.mark.cpp
@pytest.mark.parametrize("program", ["calls", "calls_static"])
def test_answers_are_those_of_python(
    programs: Path, program: str, bundle: Path, model: ivl.Model, pictures: list[Path]
) -> None:
    done = run(programs / program, bundle, pictures[0], str(WIDTH), str(HEIGHT), pictures[1])
    assert done.stdout.splitlines() == expected_lines(model, opened(pictures[0]), opened(pictures[1]))


@pytest.mark.cpp
def test_one_model_serves_many_threads(programs: Path, bundle: Path, pictures: list[Path]) -> None:
    run(programs / "threads", bundle, pictures[0], str(WIDTH), str(HEIGHT))


@pytest.mark.sanitizers
def test_many_threads_under_sanitizers(tmp_path: Path, bundle: Path, pictures: list[Path]) -> None:
    prefix = install("library-tsan", tmp_path / "installed")
    flags = "-DCMAKE_CXX_FLAGS=-fsanitize=thread -O1 -g1"
    programs = build(
        "tests/cpp_api", tmp_path / "programs", prefix, flags, "-DCMAKE_C_FLAGS=-fsanitize=thread"
    )
    for program in ("threads", "calls"):
        done = run(programs / program, bundle, pictures[0], str(WIDTH), str(HEIGHT), pictures[1])
        assert "ThreadSanitizer" not in done.stderr


@pytest.mark.cpp
def test_what_c_sees(programs: Path, bundle: Path) -> None:
    run(programs / "c_calls", bundle)


@pytest.mark.cpp
def test_nothing_leaves_the_library_but_its_functions(prefix: Path, programs: Path) -> None:
    library = prefix / "lib" / "libinternvl.so.0"
    found = run("nm", "-D", "--defined-only", library).stdout.split("\n")
    exported = {line.split()[-1] for line in found if line}
    header = (ROOT / "include/internvl/c.h").read_text(encoding="utf-8")
    declared = {
        word.split("(")[0]
        for statement in header.split("INTERNVL_API ")[1:]
        for word in statement.split()
        if word.startswith("internvl_") and "(" in word
    }
    assert exported == declared
    assert len(declared) > 20
    dynamic = run("readelf", "-d", library).stdout
    assert "libinternvl.so.0" in next(line for line in dynamic.splitlines() if "SONAME" in line)
    assert "libinternvl.so.0" in run("ldd", programs / "calls").stdout
    for program in ("calls", "calls_static"):
        assert "python" not in run("ldd", programs / program).stdout
    assert "libinternvl" not in run("ldd", programs / "calls_static").stdout


@pytest.mark.cpp
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="needs pkg-config")
def test_pkg_config_finds_it(prefix: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(prefix, moved, symlinks=True)

    def asked(*what: str) -> list[str]:
        variable = f"PKG_CONFIG_PATH={moved}/lib/pkgconfig"
        return run("env", variable, "pkg-config", *what, "internvl").stdout.split()

    assert asked("--modversion") == [ivl.__version__]
    flags = asked("--cflags", "--libs")
    run(
        "c++",
        "-std=c++20",
        ROOT / "examples/cpp/chat.cpp",
        "-o",
        tmp_path / "chat",
        *flags,
        f"-Wl,-rpath,{moved}/lib",
    )
    assert "usage" in run(tmp_path / "chat", fails=True).stderr


@pytest.mark.cpp
def test_the_example_of_a_chat(examples: Path, bundle: Path, pictures: list[Path], model: ivl.Model) -> None:
    done = run(examples / "chat", bundle, BOX, pictures[0].with_suffix(".ppm"))
    answer = model.chat(BOX, [opened(pictures[0])], max_new_tokens=200)
    assert done.stdout == answer.text + "\n"
    assert f"{answer.usage.new_tokens} tokens in" in done.stderr
    assert "/nowhere" in run(examples / "chat", "/nowhere", "Hi", fails=True).stderr


def nv12_of(rgb: npt.NDArray[np.uint8]) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """A frame of a picture [height, width, 3], and what it shows: BT.601 in limited range by fp64."""
    planes = rgb.astype(np.float64)
    luma = planes @ (0.299, 0.587, 0.114)
    blue = (planes[..., 2] - luma) / (2 * (1 - 0.114)) * 224 / 255 + 128
    red = (planes[..., 0] - luma) / (2 * (1 - 0.299)) * 224 / 255 + 128
    y = np.rint(luma * 219 / 255 + 16).astype(np.uint8)
    halves = [np.rint(one.reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))) for one in (blue, red)]
    chroma = np.stack(halves, -1).astype(np.uint8)
    shown_y = (y.astype(np.float64) - 16) * 255 / 219
    u, v = ((chroma[..., i].astype(np.float64) - 128).repeat(2, 0).repeat(2, 1) * 255 / 224 for i in (0, 1))
    r, b = shown_y + 2 * (1 - 0.299) * v, shown_y + 2 * (1 - 0.114) * u
    g = (shown_y - 0.299 * r - 0.114 * b) / 0.587
    shown = np.rint(np.clip(np.stack([r, g, b], -1), 0, 255)).astype(np.uint8)
    return y.tobytes() + chroma.tobytes(), shown


@pytest.mark.cpp
def test_the_example_of_a_camera(
    examples: Path, bundle: Path, pictures: list[Path], model: ivl.Model, tmp_path: Path
) -> None:
    seen = [np.asarray(opened(path)) for path in pictures]
    encoded = [nv12_of(rgb) for rgb in seen]
    frames = {
        "rgb": (b"".join(rgb.tobytes() for rgb in seen), seen),
        "bgr": (b"".join(rgb[..., ::-1].tobytes() for rgb in seen), seen),
        "nv12": (b"".join(frame for frame, _ in encoded), [shown for _, shown in encoded]),
    }
    for name, (data, shown) in frames.items():
        file = tmp_path / f"frames.{name}"
        file.write_bytes(data)
        size = f"{WIDTH}x{HEIGHT}"
        done = run(examples / "camera_loop", bundle, BOX, file, "--size", size, "--format", name)
        answers = [model.chat(BOX, [rgb], max_tiles=1, max_new_tokens=32) for rgb in shown]
        assert done.stdout.splitlines() == [answer.text for answer in answers]
    done = run(examples / "camera_loop", bundle, "?", file, "--format", "mjpeg", fails=True)
    assert "no format mjpeg" in done.stderr


@pytest.mark.cpp
def test_the_program_of_the_readme(prefix: Path, bundle: Path, tmp_path: Path, model: ivl.Model) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    program = readme.split("```cpp\n")[1].split("```")[0]
    assert "internvl::Model::load" in program
    (tmp_path / "readme.cpp").write_text(program.replace('"out/"', f'"{bundle}"'), encoding="utf-8")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(readme LANGUAGES CXX)\nset(CMAKE_CXX_STANDARD 20)\n"
        "find_package(internvl REQUIRED)\nadd_executable(readme readme.cpp)\n"
        "target_link_libraries(readme PRIVATE internvl::internvl)\n",
        encoding="utf-8",
    )
    # Y, U and V of 128 are a gray of 130.
    gray = np.full((480, 640, 3), 130, np.uint8)
    answers = [
        model.chat("What is on the table?", [gray], max_new_tokens=32, max_tiles=6),
        model.chat("Describe the picture.", [gray]),
        model.chat("Is the path free?", [gray], choices=["yes", "no"]),
    ]
    done = run(build(str(tmp_path), tmp_path / "build", prefix) / "readme")
    first, rest = done.stdout.split(" ms\n")
    assert first.startswith(answers[0].text + ", ")
    assert rest == answers[1].text + answers[2].text


@pytest.mark.cpp
def test_the_package_carries_the_library(
    tmp_path: Path, bundle: Path, pictures: list[Path], model: ivl.Model
) -> None:
    if Path(ivl.__file__).is_relative_to(ROOT / "python"):
        with pytest.raises(ivl.InternVLError, match=r"has no C\+\+ library\. Install"):
            ivl.cmake_dir()
        pytest.skip("this is the package's source, not installed from a wheel")
    found = ivl.cmake_dir()
    programs = build("examples/cpp", tmp_path / "examples", tmp_path, f"-Dinternvl_DIR={found}")
    linked = run("ldd", programs / "chat").stdout
    assert str(Path(ivl.__file__).parent) in linked
    assert "python3" not in linked.replace(str(Path(ivl.__file__).parent), "")
    done = run(programs / "chat", bundle, BOX, pictures[0].with_suffix(".ppm"))
    assert done.stdout == model.chat(BOX, [opened(pictures[0])], max_new_tokens=200).text + "\n"


@pytest.mark.sanitizers
@needs_arm
def test_installed_library_on_arm(
    tmp_path: Path, bundle: Path, model: ivl.Model, pictures: list[Path]
) -> None:
    prefix = install("library-aarch64", tmp_path / "installed")
    toolchain = f"-DCMAKE_TOOLCHAIN_FILE={ROOT}/cmake/aarch64-linux-gnu.cmake"
    # The toolchain looks for packages below the target's root alone.
    found = f"-Dinternvl_DIR={prefix}/lib/cmake/internvl"
    examples = build("examples/cpp", tmp_path / "examples", prefix, toolchain, found)
    done = run(*ARM, examples / "chat", bundle, BOX, pictures[0].with_suffix(".ppm"))
    assert done.stdout == model.chat(BOX, [opened(pictures[0])], max_new_tokens=200).text + "\n"
    frames = tmp_path / "frames.rgb"
    frames.write_bytes(b"".join(path.read_bytes() for path in pictures))
    size = f"{WIDTH}x{HEIGHT}"
    done = run(*ARM, examples / "camera_loop", bundle, BOX, frames, "--size", size, "--format", "rgb")
    answers = [model.chat(BOX, [opened(path)], max_tiles=1, max_new_tokens=32) for path in pictures]
    assert done.stdout.splitlines() == [answer.text for answer in answers]
