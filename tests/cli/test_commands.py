"""Every command of the command line, on tiny bundles."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clips import write_clip
from commands import Run, in_new_process
from internvl_rt import _core
from watched_engine import watching


def test_help_names_every_command(run: Run) -> None:
    text = run("--help").out
    for command in ("export", "chat", "bench", "inspect", "doctor", "demo"):
        assert command in text
        assert run(command, "--help").out


def test_version(run: Run) -> None:
    assert run("--version").out.startswith("internvl-rt 0.")


def test_the_command_line_as_a_module() -> None:
    done = in_new_process(["--version"])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_chat_answers(run: Run, tiny_bundle: Path, photo_file: Path, engine: str) -> None:
    arguments = ("chat", tiny_bundle, "What?", "-i", photo_file, "--engine", engine, "--max-new-tokens", 6)
    plain = run(*arguments)
    document = run(*arguments, "--json").document
    assert plain.out.strip() == document["text"]
    assert "tiles" in plain.err
    assert 0 < document["usage"]["new_tokens"] == len(document["token_ids"]) <= 6
    assert document["timings"]["vit"] > 0
    assert document["finish_reason"] in ("length", "stop")
    assert document["image_sizes"] == [[150, 90]]


def test_chat_samples(run: Run, tiny_bundle: Path) -> None:
    options = ("--sample", "--temperature", 2, "--top-p", 0.9, "--top-k", 0, "--max-new-tokens", 8, "--json")
    first, again, other = (
        run("chat", tiny_bundle, "Hello", *options, "--seed", seed).document["token_ids"]
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("option", [("--temperature", 2), ("--top-p", 1), ("--top-k", 0)])
def test_options_of_sampling_mean_sampling(run: Run, tiny_bundle: Path, option: tuple[Any, ...]) -> None:
    def ids(*options: object) -> Any:
        arguments = ("chat", tiny_bundle, "Hello", "--max-new-tokens", 8, "--json", *options)
        return run(*arguments).document["token_ids"]

    likeliest = ids()
    seeds = (1, 2, 3)
    drawn = [ids(*option, "--seed", seed) for seed in seeds]
    assert drawn == [ids("--sample", *option, "--seed", seed) for seed in seeds]
    assert any(one != likeliest for one in drawn)
    assert ids("--seed", 1) == ids("--sample", "--seed", 1)
    for zero in (("--temperature", 0), ("--sample", "--temperature", "0.0", "--top-k", 5, "--seed", 1)):
        assert ids(*zero) == likeliest


def test_no_temperature_makes_no_different_answers(run: Run, tiny_bundle: Path) -> None:
    for arguments in (("chat", "-n", 2), ("vote",), ("best-of", "--critic", tiny_bundle)):
        done = run(arguments[0], tiny_bundle, "Hi", *arguments[1:], "--temperature", 0, status=2)
        assert "--temperature 0" in done.err
        assert "Give one above 0" in done.err


def test_an_empty_question(run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, *rest in (("chat",), ("vote",), ("best-of", "--critic", tiny_bundle)):
        for question in ("", "  \n"):
            assert "the question is empty" in run(command, tiny_bundle, question, *rest, status=2).err
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" \n")))
        assert "the question is empty" in run(command, tiny_bundle, "-", *rest, status=2).err
    assert "the question is empty" in run("demo", "", status=2).err
    assert "a phrase that names something" in run("locate", tiny_bundle, "", "-i", "x.png", status=1).err


def test_a_question_through_standard_input(
    run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(data: bytes, status: int = 0) -> Any:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("chat", tiny_bundle, "-", "--max-new-tokens", 4, "--json", status=status)

    right = run("chat", tiny_bundle, "Wie groß?\nSag es.", "--max-new-tokens", 4, "--json").document
    for data in ("Wie groß?\nSag es.".encode(), "Wie groß?\nSag es.\n".encode("utf-8-sig")):
        assert asked(data).document["token_ids"] == right["token_ids"]
    assert "not UTF-8 text (byte 2)" in asked(b"ab\xff", status=1).err
    assert "more than 1 MB" in asked(b"a" * 1_000_001, status=1).err


def test_a_picture_through_standard_input(
    run: Run, tiny_bundle: Path, photo_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def given(*arguments: object, status: int = 0, data: bytes = b"") -> Any:
        content = data or photo_file.read_bytes()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return run(*arguments, status=status)

    about = ("chat", tiny_bundle, "What?", "--max-new-tokens", 4, "--json")
    assert (
        given(*about, "-i", "-").document["token_ids"] == run(*about, "-i", photo_file).document["token_ids"]
    )
    both = given(*about, "-i", photo_file, "-i", "-").document
    assert len(both["image_sizes"]) == 2
    find = ("locate", tiny_bundle, "cup", "--max-new-tokens", 4, "--json", "-i", "-")
    assert given(*find, "--draw", tmp_path / "d.png").document["answer"]["image_sizes"] == [[150, 90]]
    vote = ("vote", tiny_bundle, "What?", "-n", 2, "--choice", "a", "--max-tiles", 1, "--json", "-i", "-")
    assert given(*vote).document["samples"][0]["usage"]["tiles"] == 1
    assert "not both" in given("chat", tiny_bundle, "-", "-i", "-", status=2).err
    assert "once" in given(*about, "-i", "-", "-i", "-", status=2).err
    assert "a conversation reads standard input" in given("chat", tiny_bundle, "-i", "-", status=2).err
    assert given(*about, "-i", "-", status=1, data=b"no picture").err.count("\n") == 1


def test_commands_of_a_conversation(
    run: Run, tiny_bundle: Path, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from internvl_rt.cli import conversation

    asked: list[str] = []
    ask = conversation.Talk.ask

    def remembered(self: conversation.Talk, question: str, write: Any) -> Any:
        asked.append(question)
        return ask(self, question, write)

    monkeypatch.setattr(conversation.Talk, "ask", remembered)
    monkeypatch.setenv("HOME", str(photo_file.parent))
    lines = [
        "/help",
        "/hlep me",
        "/image",
        f"/image ~/{photo_file.name}",
        f'/image "{photo_file}"',
        "/image ~nobody-of-that-name/a.png",
        "//etc/passwd is what?",
        "/",
        "/exit",
        "Never?",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    done = run("chat", tiny_bundle, "--max-new-tokens", 2, "--max-tiles", 1, "--system", "")
    assert asked == ["/etc/passwd is what?"]
    for word in ("/image FILE", "/new", "/quit", "//"):
        assert word in done.err
    assert "there is no command /hlep; /help lists them" in done.err
    assert "/image needs the name of a file" in done.err
    assert done.err.count("1 tile in") == 2
    assert "~nobody-of-that-name/a.png does not exist" in done.err


def test_a_conversation_names_options(run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("long " * 400))
    done = run("chat", tiny_bundle, "--cache-tokens", 64)
    assert "--cache-tokens" in done.err
    assert "cache_tokens" not in done.err


def test_chat_answers_several_times(run: Run, tiny_bundle: Path, photo_file: Path) -> None:
    options = ("--sample", "--temperature", 2, "--seed", 3, "--max-new-tokens", 6, "--system", "")
    arguments = ("chat", tiny_bundle, "Hello", "-i", photo_file, "--detail", "low", *options)
    alone = run(*arguments, "--json").document
    several = run(*arguments, "-n", 3, "--json").document
    assert len(several) == 3
    both = run(*arguments, "-i", photo_file, "--as-one", "--json").document
    assert (both["usage"]["tiles"], len(both["image_sizes"])) == (2, 2)
    assert several[0]["token_ids"] == alone["token_ids"] != several[1]["token_ids"]
    assert alone["usage"]["tiles"] == 1
    plain = run(*arguments, "--num-return-sequences", 3)
    assert [line[:3] for line in plain.out.splitlines() if line.startswith("[")] == ["[1]", "[2]", "[3]"]
    assert several[2]["text"] in plain.out
    assert plain.err.count("new tokens") == 3


def test_a_conversation(
    run: Run, tiny_bundle: Path, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "First?",
        "",
        f"/image {photo_file}",
        "Second?",
        "/image nothing.png",
        "Third?",
        "/new",
        "First?",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    done = run("chat", tiny_bundle, "--max-new-tokens", 4, "--max-tiles", 1, "--system", "")
    answers = done.out.splitlines()
    assert answers[0] == answers[-1], "/new starts over"
    assert "nothing.png does not exist" in done.err
    assert f"[{photo_file}: 1 tile " in done.err
    used = [line for line in done.err.splitlines() if "prompt tokens" in line]
    assert [line.split(", ")[0] for line in used] == ["[0 tiles", "[1 tile", "[1 tile", "[0 tiles"]


def test_a_conversation_says_what_chat_says(
    run: Run, tiny_bundle: Path, photo_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import internvl_rt as ivl

    monkeypatch.setattr(sys, "stdin", io.StringIO("First?\nSecond?\n/quit\nNever?"))
    done = run("chat", tiny_bundle, "-i", photo_file, "--max-new-tokens", 8, "--max-tiles", 1)
    with ivl.load(tiny_bundle) as model:
        settings: dict[str, Any] = {"max_tiles": 1, "max_new_tokens": 8}
        first = model.chat("First?", [photo_file], **settings).text
        history = [("<image>\nFirst?", first)]
        second = model.chat("Second?", [photo_file], history=history, **settings).text
    assert done.out == f"{first}\n{second}\n"


def test_chat_about_a_video(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    clip = write_clip(tmp_path / "clip.mp4", 50)
    arguments = ("chat", tiny_bundle, "What?", "--video", clip, "--max-new-tokens", 3, "--system", "")
    for options, frames in (
        ((), 8),
        (("--num-frames", 3), 3),
        (("--fps", 2, "--start", 0.5, "--end", 1.5), 2),
    ):
        document = run(*arguments, *options, "--json").document
        assert (document["usage"]["tiles"], len(document["image_sizes"])) == (frames, frames)
    assert "lies behind the video's end" in run(*arguments, "--start", 9, status=1).err


def test_chat_with_a_form(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("llguidance")
    arguments = ("chat", tiny_bundle, "What?", "--system", "")
    assert run(*arguments, "--choice", "red", "--choice", "blue").out.strip() in ("red", "blue")
    assert len(run(*arguments, "--pattern", "[0-9]{4}").out.strip()) == 4
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}')
    assert len(json.loads(run(*arguments, "--schema", schema).out)) == 2
    schema.write_text("{")
    assert "cannot be read as a JSON schema" in run(*arguments, "--schema", schema, status=1).err
    assert "schema cannot be kept" in run(*arguments, "--pattern", "[", status=1).err.replace(
        "pattern", "schema"
    )


def test_orientation(run: Run, tiny_bundle: Path, photo: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = tmp_path / "lying.jpg"
    photo.save(lying, exif=exif)
    for given, size in (((), (150, 90)), (("--orientation", "exif"), (90, 150))):
        asked = ("--image", lying, "--max-new-tokens", 2, "--json", *given)
        assert run("chat", tiny_bundle, "Hi", *asked).document["image_sizes"] == [list(size)]
        found = run("locate", tiny_bundle, "cup", *asked, "--draw", tmp_path / "found.png").document
        assert found["answer"]["image_sizes"] == [list(size)]
        with Image.open(tmp_path / "found.png") as drawn:
            assert drawn.size == size
        voted = run("vote", tiny_bundle, "Hi", "-n", 1, "--reasoning", "none", *asked).document
        assert voted["samples"][0]["image_sizes"] == [list(size)]
    assert "orientation" in run("chat", tiny_bundle, "Hi", "--orientation", "up", status=2).err


def test_locate(run: Run, tiny_bundle: Path, photo_file: Path, tmp_path: Path) -> None:
    arguments = (
        "locate",
        tiny_bundle,
        "red cube",
        "-i",
        photo_file,
        "--detail",
        "low",
        "--max-new-tokens",
        6,
    )
    document = run(*arguments, "--json").document
    assert document["phrase"] == "red cube"
    assert document["boxes"] == []
    assert document["answer"]["image_sizes"] == [[150, 90]]
    plain = run(*arguments, "--draw", tmp_path / "found.png")
    assert plain.out.startswith("no box in the answer: ")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    assert "cannot be saved" in run(*arguments, "--draw", tmp_path / "found.nothing", status=1).err


def test_vote(run: Run, tiny_bundle: Path, photo_file: Path) -> None:
    pytest.importorskip("llguidance")
    about = (tiny_bundle, "How many?", "-i", photo_file, "--detail", "low", "--seed", 1)
    form = ("-n", 5, "--choice", "1", "--choice", "2", "--temperature", 9)
    document = run("vote", *about, *form, "--json").document
    assert set(document["counts"]) <= {"1", "2"}
    assert sum(document["counts"].values()) == len(document["samples"]) == 5
    assert document["answer"] == next(iter(document["counts"]))
    plain = run("vote", *about, *form)
    assert plain.out.strip() == document["answer"]
    assert f"of 5: {document['answer']}" in plain.err
    assert "leaves no room" in run("vote", *about, *form, "--reasoning", "open", status=1).err


def test_a_vote_without_an_answer(run: Run, roomy_bundle: Path) -> None:
    arguments = ("vote", roomy_bundle, "How?", "-n", 2, "--reasoning", "open", "--max-new-tokens", 1)
    plain = run(*arguments, status=1)
    assert plain.out == ""
    assert "none of the 2 samples ends with an answer" in plain.err
    document = run(*arguments, "--json", status=1).document
    assert (document["answer"], document["counts"], len(document["samples"])) == (None, {}, 2)


def test_best_of(run: Run, roomy_bundle: Path, photo_file: Path) -> None:
    about = (roomy_bundle, "How many?", "-i", photo_file, "--detail", "low", "-n", 3, "--seed", 1)
    arguments = ("best-of", *about, "--critic", roomy_bundle, "--max-new-tokens", 12)
    document = run(*arguments, "--json").document
    assert len(document["samples"]) == len(document["scores"]) == 3
    assert document["scores"][document["index"]] == max(document["scores"])
    assert document["answer"] == document["samples"][document["index"]]["text"]
    plain = run(*arguments)
    assert plain.out.strip() == document["answer"].strip()
    assert plain.err.count("[answer ") == 3


def test_inspect(run: Run, tiny_bundle: Path) -> None:
    text = run("inspect", tiny_bundle).out
    for word in ("InternVL2_5-1B", "qwen2", "fp32", "KV cache", "internvl2_5"):
        assert word in text
    document = run("inspect", tiny_bundle, "--json", "--context", 100, "--verify").document
    # 2 layers, keys and values, 2 heads of 16, 4 bytes each.
    assert document["kv_bytes_per_token"] == 2 * 2 * 2 * 16 * 4
    assert document["cache_bytes"] == 100 * document["kv_bytes_per_token"]
    assert document["weights_verified"] is True
    smaller = {
        kind: run("inspect", tiny_bundle, "--json", "--cache-type", kind).document["kv_bytes_per_token"]
        for kind in ("float16", "int8")
    }
    assert smaller == {"float16": 2 * 2 * 2 * 16 * 2, "int8": 2 * 2 * 2 * (16 + 4)}
    assert "--cache-type" in run("inspect", tiny_bundle, "--cache-type", "int4", status=1).err
    stored = sum(part["bytes"] for part in document["parts"])
    assert 0 < stored <= document["weights_bytes"] == (tiny_bundle / "weights.safetensors").stat().st_size
    assert document["weights_bytes"] - stored < 16384, "header and padding are all that is not a part"
    assert document["manifest"]["llm"]["vocab_size"] == 331
    # 17 tokens of 64 channels: the residual stream, its normalised copy and what attention makes of that; and
    # 16 patches of 14x14 RGB.
    assert document["batch_tiles"] == 64
    assert document["activation_bytes"] == 64 * (3 * 17 * 64 + 16 * 3 * 14 * 14) * 4


def test_doctor(run: Run) -> None:
    document = run("doctor", "--json").document
    assert document["healthy"] is True
    assert document["cores"] >= 1
    assert document["instruction_set"] in document["instruction_sets"]
    providers = {provider["key"]: provider for provider in document["providers"]}
    assert providers["cpu"]["usable"] is True
    assert all(provider["usable"] or "install" in provider["reason"] for provider in providers.values())
    assert document["memory_bytes"] > document["available_bytes"] > 0
    text = run("doctor").out
    assert "ONNX Runtime" in text
    assert "tensorrt-rtx" in text
    if document["tensorrt"] is None:
        assert "tensorrt" in document["tensorrt_missing"]
    assert document["cpu"][:10] in text


def test_export_names_the_dialects(run: Run, tmp_path: Path) -> None:
    found = run(
        "export", tmp_path / "in", tmp_path / "out", "--dialect", "ort", "--dialect", "ort2", status=1
    )
    assert "--dialect ort2 is not one of onnx24, onnx24-fp16, onnx24-bf16, ort, ort-fp16, trt10" in found.err


def test_build_without_tensorrt(run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = run("build", tiny_bundle, status=1)
    assert "TensorRT's Python package does not load" in found.err
    assert "install" in found.err
    assert run("build", tiny_bundle, "--compute", "fp64", status=2).err


def test_build_tells_the_folder_as_json(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from internvl_rt.engines.tensorrt import build, nvidia

    def built(*arguments: Any, say: Any, **options: Any) -> Path:
        say("building vit")
        return tmp_path

    monkeypatch.setattr(nvidia, "TensorRtBuilder", object)
    monkeypatch.setattr(build, "build_engines", built)
    done = run("build", tiny_bundle, "--json")
    assert done.document == {"engines": str(tmp_path)}
    assert done.err == "building vit\n"
    plain = run("build", tiny_bundle)
    assert (plain.out, plain.err) == ("building vit\n", "")


@pytest.mark.parametrize("unit", ["absent", "refused", "usable"])
def test_doctor_says_where_the_system_refuses_amx(
    run: Run, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    from internvl_rt import _core

    monkeypatch.setattr(_core, "tile_unit", lambda: unit)
    notes = [found["text"] for found in run("doctor", "--json").document["findings"]]
    assert any("AMX" in note and "AVX-512 instead" in note for note in notes) == (unit == "refused")


def test_doctor_on_a_machine_that_lacks_something(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    from internvl_rt.engines import doctor

    def version(name: str) -> str:
        if name in ("sentencepiece", "matplotlib"):
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    document = run("doctor", "--json", status=1).document
    assert {finding["level"] for finding in document["findings"]} >= {"problem", "note"}
    assert any("pip install sentencepiece" in finding["text"] for finding in document["findings"])
    assert any("internvl-rt[plot]" in finding["text"] for finding in document["findings"])


SHORT = (
    "--repeats",
    2,
    "--warmup",
    0,
    "--new-tokens",
    4,
    "--prompt-tokens",
    40,
    "--cache-fill",
    0,
    "--cache-fill",
    64,
)


def test_bench(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    plot = tmp_path / "bench.png"
    engines = ("--engine", "native", "--engine", "onnxruntime")
    done = run("bench", tiny_bundle, *SHORT, *engines, "--image-size", "320x200", "--json", "--plot", plot)
    document = done.document
    assert [engine["engine"] for engine in document["engines"]] == ["native", "onnxruntime"]
    for engine in document["engines"]:
        stages = {stage["name"]: stage for stage in engine["stages"]}
        assert list(stages) == [
            "decode_image",
            "tile",
            "vit",
            "vit per tile",
            "projector",
            "prefill",
            "first_token",
            "per_token",
            "total",
            "prefill 40 text tokens",
            "decode at 0 tokens",
            "decode at 64 tokens",
        ]
        for stage in stages.values():
            assert 0 < stage["min"] <= stage["p50"] <= stage["p95"] <= stage["p99"] <= stage["max"]
        assert stages["total"]["repeats"] == 2
        assert stages["decode at 0 tokens"]["repeats"] == 3
        assert stages["vit per tile"]["p50"] == pytest.approx(stages["vit"]["p50"] / engine["tiles"])
        speed = stages["prefill 40 text tokens"]
        assert speed["tokens_per_second"] == pytest.approx(40_000 / speed["p50"])
        assert engine["memory"]["peak"] > 10_000_000
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("chat", ("Hi",)),
        ("vote", ("Hi", "-n", 2, "--reasoning", "none")),
        ("locate", ("cup", "-i")),
        ("bench", SHORT),
    ],
)
def test_the_type_of_the_cache(
    run: Run, tiny_bundle: Path, photo_file: Path, command: str, options: Sequence[Any]
) -> None:
    if options[-1] == "-i":
        options = (*options, photo_file, "--max-tiles", 1)
    if command != "bench":
        options = (*options, "--max-new-tokens", 2)
    run(command, tiny_bundle, *options, "--cache-type", "int8")
    wrong = run(command, tiny_bundle, *options, "--cache-type", "int4", status=1)
    assert "--cache-type must be one of float32, float16, bfloat16, int8, not 'int4'" in wrong.err
    other = run(command, tiny_bundle, *options, "--cache-type", "int8", "--engine", "onnxruntime", status=1)
    assert "stores its KV cache in one way" in other.err


def test_bench_as_a_table(run: Run, tiny_bundle: Path, photo_file: Path) -> None:
    text = run("bench", tiny_bundle, *SHORT, "-i", photo_file, "--max-tiles", 1).out
    for word in ("vit per tile", "p99", "peak memory", "decode at 64 tokens", "1 tiles"):
        assert word in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--repeats", 0), "--repeats must be at least 1"),
        (("--image-size", "99999x99999"), "200000000 pixels at most"),
        (("--prompt-tokens", 100_000), "lower --prompt-tokens and --cache-fill, or raise --cache-tokens"),
        (("--engine", "magic"), "this release has the engines"),
        (("--cache-tokens", 0), "--cache-tokens must be an integer from 1"),
        ((*SHORT, "--threads", 0), "--threads must be an integer from 1"),
        (("--image", "nothing.jpg"), "nothing.jpg does not exist"),
        (("--plot", "picture.bmp2"), "name ends in one of"),
        (("--plot", "/nowhere/at/all.png"), "there is no folder"),
        ((*SHORT, "--max-tiles", 0), "tiles"),
    ],
)
def test_bench_with_bad_options(run: Run, tiny_bundle: Path, options: Sequence[Any], says: str) -> None:
    done = run("bench", tiny_bundle, *options, "--json", status=1)
    assert says in done.err
    assert done.out == ""


def test_bench_without_matplotlib(run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert (
        "pip install 'internvl-rt[plot]'"
        in run("bench", tiny_bundle, *SHORT, "--plot", "a.png", status=1).err
    )


def test_eval(run: Run, tiny_bundle: Path) -> None:
    document = run("eval", tiny_bundle, "--every", 100, "--json").document
    assert document["asked"] == 5
    assert 0 <= document["right"] <= 5
    assert len(document["mistakes"]) == 5 - document["right"]
    assert "all" in run("eval", tiny_bundle, "--every", 250, "--engine", "onnxruntime").out


def test_demo(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from internvl_rt.tabletop import demo

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawn = tmp_path / "boxes.png"
    first = run("demo", "--json", "--out", drawn).document
    asked = {answer["question"]: answer["text"] for answer in first["answers"]}
    things = asked[demo.QUESTIONS[0]].split(", ")
    assert sorted(things) == ["blue cube", "green cup", "red ball"]
    assert asked["How many objects are on the table?"] == f"{', '.join(things)}: 3"
    assert list(asked)[3:] == [f"Where is the {thing}?" for thing in things]
    assert [box["label"] for box in first["boxes"]] == things
    with Image.open(drawn) as picture:
        assert picture.size == demo.demo_picture().size
        assert picture.tobytes() != demo.demo_picture().tobytes()
    folder = next((tmp_path / "internvl_rt").iterdir())
    made = (folder / "manifest.json").stat().st_mtime_ns

    own = tmp_path / "own.jpg"
    demo.demo_picture().resize((700, 600)).save(own)
    again = run("demo", "Where is the red ball?", "--image", own, "--engine", "onnxruntime", "--out", drawn)
    assert again.out.startswith("> Where is the red ball?\nred ball[[")
    assert "vit" in again.out
    assert f"1 boxes drawn: {drawn}" in again.out
    with Image.open(drawn) as picture:
        assert picture.size == (700, 600)
    assert (folder / "manifest.json").stat().st_mtime_ns == made, "it was kept"

    (folder / "vit.onnx").write_bytes(b"damaged")
    repaired = run("demo", "--json", "--out", drawn).document
    assert repaired["answers"][0]["token_ids"] == first["answers"][0]["token_ids"]


@pytest.mark.parametrize("place", ["no folder", "not absolute", "no user", "full"])
def test_demo_without_a_cache_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    import tempfile

    (tmp_path / "file").write_text("no folder")
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    if place == "not absolute":
        monkeypatch.setenv("XDG_CACHE_HOME", "file")
    if place == "no user":

        def unknown() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", unknown)
    if place == "full":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        from internvl_rt import export as exporting
        from internvl_rt.errors import BundleError

        write = exporting.export

        def full(checkpoint: Path, out: Path, **options: Any) -> Any:
            if (tmp_path / "cache") in out.parents:
                raise BundleError("the disk is full.")
            return write(checkpoint, out, **options)

        monkeypatch.setattr(exporting, "export", full)
    done = run("demo", "Where is the red ball?", "--out", tmp_path / "boxes.png")
    assert "1 boxes drawn" in done.out
    assert "Set XDG_CACHE_HOME to a folder that can be written to." in done.err
    assert list((tmp_path / "temporary").iterdir()) == [], "it is gone"
    assert run("eval", "--every", 500, "--json").document["asked"] == 1

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    nowhere = run("demo", "Hi", "--out", tmp_path / "boxes.png", status=1)
    assert "XDG_CACHE_HOME" in nowhere.err.splitlines()[-1]


def test_demo_says_what_is_wrong_with_its_files(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "nowhere.jpg" in run("demo", "--image", tmp_path / "nowhere.jpg", status=1).err
    missing = tmp_path / "missing" / "boxes.png"
    assert "--out" in run("demo", "Hello", "--out", missing, status=1).err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("chat", "/nowhere", "Hello"), "there is no such folder"),
        (("inspect", "/nowhere"), "internvl-rt export"),
        (("bench", "/nowhere"), "there is no such folder"),
        (("export", "/nowhere", "/tmp/unused-bundle"), "/nowhere"),
        (("chat", "/dev/null", "Hello"), "is not a folder"),
        (("export", "--synthetic", "InternVL9-1B", "/tmp/unused-bundle"), "InternVL9-1B"),
    ],
)
def test_errors_are_one_line_on_stderr(run: Run, arguments: Sequence[str], says: str) -> None:
    done = run(*arguments, status=1)
    assert done.out == ""
    assert done.err.count("\n") == 1
    assert done.err.startswith("internvl-rt: ")
    assert says in done.err


def test_exporting_a_bundle_says_that_it_is_one(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    done = run("export", tiny_bundle, tmp_path / "out", status=1)
    assert "is a bundle already" in done.err
    assert not (tmp_path / "out").exists()


def test_a_bad_picture_is_one_line_on_stderr(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("notes")
    done = run("chat", tiny_bundle, "What?", "-i", tmp_path / "notes.jpg", "--json", status=1)
    assert (done.out, done.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat",),
        ("chat", "bundle", "Hello", "--max-new-tokens", "many"),
        ("chat", "bundle", "--json"),
        ("chat", "bundle", "-n", 2),
        ("chat", "bundle", "--video", "a.mp4"),
        ("chat", "bundle", "Hello", "--num-frames", 2),
        ("chat", "bundle", "Hello", "--detail", "best"),
        ("export",),
        ("export", "only-one"),
        ("export", "--synthetic", "InternVL2_5-1B"),
        ("export", "--synthetic", "InternVL2_5-1B", "a", "b"),
        ("bench", "bundle", "--image-size", "big"),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_with_2(run: Run, arguments: Sequence[str]) -> None:
    assert run(*arguments, status=2).out == ""


def test_a_seed_that_is_none(run: Run, tmp_path: Path) -> None:
    arguments = ("export", "--synthetic", "InternVL2_5-1B", tmp_path / "out", "--seed", -1)
    assert "seed must be an integer of 0 or more" in run(*arguments, status=1).err


def test_export_a_synthetic_bundle(
    run: Run, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command passes on what it was given; the exporter has tests of its own, at sizes that fit here."""
    from internvl_rt.export import synthetic

    given: list[Any] = []

    def exported(*arguments: Any, **options: Any) -> Path:
        given.append((arguments, options))
        return tiny_bundle

    monkeypatch.setattr(synthetic, "export_synthetic", exported)
    told = run(
        "export",
        "--synthetic",
        "InternVL2_5-1B",
        tmp_path,
        "--weights",
        "int4",
        "--vision",
        "bf16",
        "--overwrite",
    )
    ((arguments, options),) = given
    assert arguments == ("InternVL2_5-1B", tmp_path)
    assert (options["weights"], options["vision"], options["overwrite"]) == ("int4", "bf16", True)
    assert f"chat {tiny_bundle}" in told.out


@pytest.fixture
def interrupted_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C comes in the second step of the first answer, which goes on until the interrupt is handled."""
    handled, steps = threading.Event(), iter(range(10**6))
    abandon = _core.Request.abandon

    def decode(call: Callable[..., Any], *given: Any) -> Any:
        if next(steps) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            assert handled.wait(30)
        return call(*given)

    def end(request: _core.Request) -> None:
        handled.set()
        abandon(request)

    monkeypatch.setattr(_core.Request, "abandon", end)
    with watching(decode=decode):
        yield


@pytest.mark.parametrize("arguments", [(), ("--json",), ("-n", 2, "--sample")], ids=str)
def test_ctrl_c_during_an_answer(
    run: Run, tiny_bundle: Path, interrupted_once: None, arguments: Sequence[object]
) -> None:
    done = run("chat", tiny_bundle, "Hello", *arguments, status=130)
    assert "prompt tokens" not in done.err
    assert len(done.out.strip()) <= (0 if arguments else 2), "the first two tokens may have been written"


def test_ctrl_c_in_a_conversation_ends_the_answer_alone(
    run: Run, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, interrupted_once: None
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("First?\nSecond?\n"))
    done = run("chat", tiny_bundle, "--max-new-tokens", 4)
    assert done.err.count("prompt tokens") == 1, (
        "the second question was answered, and the first was forgotten"
    )


def test_an_answer_on_a_terminal_that_lacks_its_characters(tiny_bundle: Path) -> None:
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = in_new_process(["chat", tiny_bundle, "Hello", "--max-new-tokens", 64], env=ascii_only)
    assert done.returncode == 0, done.stderr
    assert "?" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize("kind", ["pipe", "device", "sparse", "folder"])
def test_a_file_that_never_ends_is_not_read(
    run: Run, tiny_bundle: Path, photo_file: Path, tmp_path: Path, kind: str
) -> None:
    named = tmp_path / "named"
    if kind == "pipe":
        os.mkfifo(named)
    elif kind == "device":
        named = Path("/dev/zero")
    elif kind == "folder":
        named.mkdir()
    else:
        with named.open("wb") as file:
            file.truncate(1 << 40)
    about = (tiny_bundle, "Hi", "--max-new-tokens", 1)
    for command, option in (("chat", "--schema"), ("vote", "--schema")):
        done = run(command, *about, option, named, status=1)
        assert str(named) in done.err
        assert "a JSON schema" in done.err
    done = run("bench", tiny_bundle, *SHORT, "--image", named, status=1)
    assert str(named) in done.err


def test_a_schema_that_is_too_deep(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    assert (
        "is nested too deeply"
        in run("chat", tiny_bundle, "Hi", "--schema", tmp_path / "deep.json", status=1).err
    )
