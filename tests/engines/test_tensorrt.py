"""The tensorrt engine without a GPU: a device of plain memory on which ONNX Runtime runs the same graphs.

What is not held by these tests is ``nvidia.py``, which talks to TensorRT and CUDA.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

import internvl_rt as ivl
from bundle.tiny import tiny_manifest, write_tiny
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.graph_ports import LOGITS, ROWS, cache_ports
from internvl_rt.bundle.graph_sets import Compute
from internvl_rt.bundle.manifest import WEIGHTS_FILE, Experts, Flash
from internvl_rt.engines.native import NativeEngine
from internvl_rt.engines.tensorrt import build
from internvl_rt.engines.tensorrt import toolkit as toolkits
from internvl_rt.engines.tensorrt.build import engine_profiles, estimate
from internvl_rt.engines.tensorrt.device import Binding
from internvl_rt.engines.tensorrt.engine import TensorRtEngine
from internvl_rt.engines.tensorrt.profiles import LOGIT_ROWS, Limits, Profile, default_limits, profiles_of
from internvl_rt.engines.tensorrt.store import PLAN_FILE, built_plans, find_engines, plan_of, store_of
from internvl_rt.engines.tensorrt.toolkit import Toolkit, board, how_to_install, version_of
from internvl_rt.errors import (
    CacheFullError,
    DeviceError,
    ImageError,
    InternVLError,
    PromptError,
)
from internvl_rt.export.graphs import write_graphs
from internvl_rt.export.synthetic import synthetic_manifest, write_synthetic
from internvl_rt.files.work_folder import work_folder

build_engines = functools.partial(build.build_engines, write_graphs=write_graphs)

Floats = npt.NDArray[np.float32]

LIMITS = Limits(tiles=2, prefill_chunk=48, decode_batch=1, cache_tokens=192)
ORIN = Toolkit("10.3.0.30", "Orin", (8, 7), 64 << 30)
DESKTOP = Toolkit("10.16.1.11", "NVIDIA GeForce RTX 4090", (8, 9), 24 << 30)
HIDDEN = 64


class FakeBuilder:
    """Keeps the graph as the engine."""

    def __init__(self, toolkit: Toolkit, fail_at: int = -1, error: type[BaseException] = DeviceError) -> None:
        self.toolkit = toolkit
        self.built: list[tuple[str, tuple[Profile, ...], bytes]] = []
        self._fail_at, self._error = fail_at, error

    def build(
        self, graph: Path, profiles: tuple[Profile, ...], timing_cache: bytes, workspace_bytes: int
    ) -> tuple[bytes, bytes]:
        assert workspace_bytes > 0
        assert (graph.parent / WEIGHTS_FILE).is_file()
        if len(self.built) == self._fail_at:
            raise self._error("stopped")
        self.built.append((graph.name, profiles, timing_cache))
        names = [port.name for port in onnx.load(graph, load_external_data=False).graph.input]
        for profile in profiles:
            assert sorted(profile) == sorted(names), "every input of the graph has a profile"
        return graph.read_bytes(), timing_cache + b"."


class FakeProgram:
    """Runs a graph on arrays over the device's memory."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._inputs = {port.name: port for port in session.get_inputs()}

    def run(self, profile: int, bindings: Mapping[str, Binding]) -> None:
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        types |= {"tensor(bool)": np.bool_, "tensor(int64)": np.int64}
        outputs = {port.name: port for port in self._session.get_outputs()}
        assert set(bindings) == {*self._inputs, *outputs}
        feeds = {
            name: view(bindings[name].address, bindings[name].shape, types[port.type]).copy()
            for name, port in self._inputs.items()
        }
        for name, found in zip(outputs, self._session.run(list(outputs), feeds), strict=True):
            assert found.shape == bindings[name].shape, name
            view(bindings[name].address, found.shape, found.dtype)[...] = found


def view(address: int, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_char * max(size, 1)).from_address(address)
    return np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)


class FakeDevice:
    """The host's memory in the role of a GPU's."""

    def __init__(self, weights: Path) -> None:
        self.memory: dict[int, Any] = {}
        self._weights = weights

    def allocate(self, size: int) -> int:
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def free(self, address: int) -> None:
        del self.memory[address]

    def clear(self, address: int, size: int) -> None:
        assert len(self.memory[address]) == size
        ctypes.memset(address, 0, size)

    def write(self, address: int, array: npt.NDArray[Any]) -> None:
        assert array.nbytes <= len(self.memory[address])
        assert array.flags.c_contiguous
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def read(self, array: npt.NDArray[Any], address: int) -> None:
        assert array.nbytes <= len(self.memory[address])
        assert array.flags.c_contiguous
        ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def copy(self, target: int, source: int, size: int) -> None:
        ctypes.memmove(target, source, size)

    def load(self, engine: bytes) -> FakeProgram:
        options = onnxruntime.SessionOptions()
        folder = str(self._weights.parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return FakeProgram(onnxruntime.InferenceSession(engine, options))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Long enough for dynamic rope to set in, with a second shuffle order in another test."""
    return open_bundle(write_tiny(tmp_path_factory.mktemp("tensorrt") / "bundle"))


def built(bundle: Bundle, toolkit: Toolkit, compute: Compute = "fp32") -> TensorRtEngine:
    build_engines(bundle, FakeBuilder(toolkit), LIMITS, compute=compute)
    plan = plan_of(bundle, toolkit, LIMITS, compute)
    return TensorRtEngine(bundle, cache_tokens=400, device=FakeDevice(bundle.weights), plan=plan)


@pytest.fixture(params=[ORIN, DESKTOP], ids=["copied-cache", "cache-in-place"])
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> TensorRtEngine:
    return built(bundle, request.param)


@pytest.fixture
def native(bundle: Bundle) -> NativeEngine:
    return NativeEngine(bundle, cache_tokens=600, threads=1)


def prompt(n: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((n, HIDDEN), dtype=np.float32)


def close(found: Floats, wanted: Floats) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_two_sequences_as_the_native_engine(engine: TensorRtEngine, native: NativeEngine) -> None:
    mine = [engine.new_sequence() for _ in range(2)]
    theirs = [native.new_sequence() for _ in range(2)]
    for i, n in enumerate((130, 41)):
        close(engine.prefill(mine[i], prompt(n, i), True), native.prefill(theirs[i], prompt(n, i), True))
    for token in range(20, 26):
        close(engine.decode(mine, [token, 9]), native.decode(theirs, [token, 9]))
    # More after an answer, in chunks, with the last logits only.
    close(engine.prefill(mine[1], prompt(100, 7)), native.prefill(theirs[1], prompt(100, 7)))
    assert [engine.length(s) for s in mine] == [136, 147]


def test_runs_as_the_native_engine(engine: TensorRtEngine, native: NativeEngine) -> None:
    mine = [engine.new_sequence() for _ in range(3)]
    theirs = [native.new_sequence() for _ in range(3)]
    for i, n in enumerate((30, 41, 2)):
        engine.prefill(mine[i], prompt(n, i))
        native.prefill(theirs[i], prompt(n, i))
    tokens, counts = list(range(20, 76)), [5, 1, 50]
    close(engine.decode(mine, tokens, counts), native.decode(theirs, tokens, counts))
    close(engine.decode(mine, [1, 2, 3]), native.decode(theirs, [1, 2, 3]))
    assert [engine.length(s) for s in mine] == [36, 43, 53]
    with pytest.raises(CacheFullError, match="built for sequences of 192 tokens"):
        engine.decode(mine[:2], [1] * 158, [1, 157])
    with pytest.raises(PromptError, match="as many as its count says"):
        engine.decode(mine[:2], [1, 2], [2, 1])


def test_a_fork_goes_its_own_way(engine: TensorRtEngine, native: NativeEngine) -> None:
    origin = engine.new_sequence()
    engine.prefill(origin, prompt(30))
    fork = engine.fork(origin)
    same = engine.decode([fork], [3])
    np.testing.assert_array_equal(engine.decode([origin], [3]), same)
    engine.decode([origin], [5])
    found = engine.decode([fork], [4])
    engine.drop(origin)
    again = native.new_sequence()
    native.prefill(again, prompt(30))
    native.decode([again], [3])
    close(found, native.decode([again], [4]))
    assert engine.length(engine.fork(engine.new_sequence())) == 0


def test_a_prefill_that_is_stopped_changes_nothing(engine: TensorRtEngine, native: NativeEngine) -> None:
    sequence, wanted = engine.new_sequence(), native.new_sequence()
    engine.prefill(sequence, prompt(20))
    native.prefill(wanted, prompt(20))

    def stop(done: int) -> None:
        assert done == LIMITS.prefill_chunk
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.prefill(sequence, prompt(100, 5), progress=stop)
    assert engine.length(sequence) == 20
    close(engine.prefill(sequence, prompt(7, 2)), native.prefill(wanted, prompt(7, 2)))


def test_memory_of_dropped_sequences_is_used_again(bundle: Bundle) -> None:
    engine = built(bundle, DESKTOP)
    device = engine._decoder._device
    assert isinstance(device, FakeDevice)
    first = engine.new_sequence()
    poison = prompt(20)
    engine.prefill(first, poison)
    taken = len(device.memory)
    cache = engine._decoder._sequences[first].current
    ctypes.memset(cache, 0xFF, len(device.memory[cache]))  # NaN everywhere
    engine.drop(first)
    second = engine.new_sequence()
    logits = engine.prefill(second, prompt(20, 1))
    assert np.isfinite(logits).all()
    assert len(device.memory) == taken
    engine.close()
    engine.close()
    assert device.memory == {}
    with pytest.raises(InternVLError, match="closed"):
        engine.new_sequence()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_pictures_as_the_native_engine(tmp_path: Path, version: str) -> None:
    """Five tiles in batches of two, with the pixel shuffle inside the projector's graph."""
    manifest = tiny_manifest("fp32", None)
    projector = dataclasses.replace(manifest.projector, pixel_shuffle=version)  # type: ignore[arg-type]
    manifest = dataclasses.replace(manifest, projector=projector)
    made = open_bundle(write_synthetic(manifest, tmp_path / "bundle", tokenizer=None, progress=False))
    pixels = np.random.default_rng(0).standard_normal((5, 3, 56, 56), dtype=np.float32)
    wanted = NativeEngine(made, cache_tokens=1, threads=1).encode_tiles(pixels).features
    for toolkit in (ORIN, DESKTOP):
        told: list[int] = []
        engine = built(made, toolkit)
        close(engine.encode_tiles(pixels, told.append).features, wanted)
        assert told == [2, 4]
        half = built(made, toolkit, "fp16").encode_tiles(pixels).features
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, wanted, rtol=0, atol=1e-2 * np.abs(wanted).max())


def test_a_full_cache_changes_nothing(engine: TensorRtEngine) -> None:
    long, short = engine.new_sequence(), engine.new_sequence()
    engine.prefill(long, prompt(190))
    engine.prefill(short, prompt(190))
    assert engine.free_tokens == 20
    with pytest.raises(CacheFullError, match="built for sequences of 192 tokens"):
        engine.prefill(long, prompt(3))
    with pytest.raises(CacheFullError, match="holds 400 tokens, 20 are free, 21 more"):
        engine.prefill(engine.new_sequence(), prompt(21))
    with pytest.raises(CacheFullError, match="190 more are needed"):
        engine.fork(long)
    engine.decode([long, short], [1, 2])
    assert (engine.length(long), engine.length(short)) == (191, 191)


def test_wrong_arguments(engine: TensorRtEngine) -> None:
    sequence = engine.new_sequence()
    for embeddings in (prompt(0), prompt(3).astype(np.float64), np.zeros((2, 3), np.float32), [[0.0]]):
        with pytest.raises(PromptError, match="embeddings is"):
            engine.prefill(sequence, embeddings)
    for pixels in (np.zeros((0, 3, 56, 56), np.float32), np.zeros((1, 3, 56, 55), np.float32), None):
        with pytest.raises(ImageError, match="pixel_values is"):
            engine.encode_tiles(pixels)
    with pytest.raises(PromptError, match="several different sequences"):
        engine.decode([sequence, sequence], [1, 2])
    with pytest.raises(InternVLError, match="no sequence 99"):
        engine.length(99)


def test_an_answer_through_the_whole_program(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """``load`` with a device that is found, and the newest engines that were built for it."""
    from internvl_rt.engines.tensorrt import nvidia

    class Gpu(FakeDevice):
        toolkit = DESKTOP

        def __init__(self) -> None:
            super().__init__(bundle.weights)

    monkeypatch.setattr(nvidia, "Gpu", Gpu)
    longer = dataclasses.replace(LIMITS, cache_tokens=448)
    build_engines(bundle, FakeBuilder(DESKTOP), longer, compute="fp32", rebuild=True)
    answers = []
    for engine in ("tensorrt", "native"):
        with ivl.load(bundle.folder, engine=engine, cache_tokens=440) as model:
            answers.append(model.chat("What is on the table?", max_new_tokens=12).token_ids)
    assert answers[0] == answers[1]


# Building


def test_profiles_follow_from_the_bundle() -> None:
    manifest = synthetic_manifest("InternVL2_5-1B", weights="int4", vision="bf16")
    limits = default_limits(manifest)
    assert limits == Limits(tiles=13, prefill_chunk=512, decode_batch=1, cache_tokens=8192)
    limits = dataclasses.replace(limits, decode_batch=4)
    (vit,) = profiles_of(manifest, "vit", limits)
    assert vit["pixel_values"].least == (1, 3, 448, 448)
    assert vit["pixel_values"].most == (13, 3, 448, 448)
    prefill, decode = profiles_of(manifest, "llm", limits)
    assert prefill["embeddings"].most == (1, 512, 896)
    assert prefill["mask"].least == (1, 1, 1, 64)
    assert prefill["mask"].most == (1, 1, 512, 8192)
    assert decode["embeddings"].most == (4, 1, 896)
    assert decode["mask"].most == (4, 1, 1, 8192)
    assert prefill[ROWS].most == (LOGIT_ROWS,)
    for profile in (prefill, decode):
        assert len(profile) == 6 + 2 * manifest.llm.layers
        for layer in range(manifest.llm.layers):
            for port, _ in cache_ports(layer):
                shapes = profile[port]
                # TensorRT wants the cache's extent fixed.
                assert {s[1:] for s in (shapes.least, shapes.usual, shapes.most)} == {(2, 8192, 64)}
        for name, shapes in profile.items():
            ranks = zip(shapes.least, shapes.usual, shapes.most, strict=True)
            assert all(a <= b <= c for a, b, c in ranks), name
    assert LOGITS not in prefill
    short = default_limits(tiny_manifest(), cache_tokens=1000, prefill_chunk=10_000)
    assert (short.cache_tokens, short.prefill_chunk) == (512, 512)


def test_every_input_that_decides_is_in_the_key(bundle: Bundle, tmp_path: Path) -> None:
    base = plan_of(bundle, DESKTOP, LIMITS)
    assert base.key == plan_of(bundle, DESKTOP, LIMITS).key
    assert base.key.startswith("sm89-onnx24-bf16-")
    other = open_bundle(write_tiny(tmp_path / "bundle", seed=1))
    plans = [
        base,
        plan_of(bundle, ORIN, LIMITS),
        plan_of(bundle, dataclasses.replace(DESKTOP, tensorrt="10.16.1.12"), LIMITS),
        plan_of(bundle, dataclasses.replace(DESKTOP, gpu="NVIDIA GeForce RTX 4080"), LIMITS),
        plan_of(bundle, DESKTOP, LIMITS, "fp16"),
        plan_of(other, DESKTOP, LIMITS),
        *(
            plan_of(bundle, DESKTOP, dataclasses.replace(LIMITS, **{field.name: 64}))
            for field in dataclasses.fields(Limits)
        ),
    ]
    assert len({plan.key for plan in plans}) == len(plans)


def test_what_was_built_is_found_again(bundle: Bundle) -> None:
    said: list[str] = []
    builder = FakeBuilder(DESKTOP)
    shutil.rmtree(store_of(bundle), ignore_errors=True)
    folder = build_engines(bundle, builder, LIMITS, say=said.append)
    assert folder.parent == store_of(bundle)
    assert "GPU memory and as much of the host's while it builds" in said[0]
    assert sorted(path.name for path in folder.iterdir()) == [
        "llm.engine",
        PLAN_FILE,
        "projector.engine",
        "vit.engine",
    ]
    # What one build measured, the next one begins with.
    assert [timing for _, _, timing in builder.built] == [b"", b".", b".."]
    assert build_engines(bundle, builder, LIMITS) == folder
    assert len(builder.built) == 3
    assert build_engines(bundle, builder, LIMITS, rebuild=True) == folder
    assert len(builder.built) == 6
    smaller = dataclasses.replace(LIMITS, cache_tokens=128)
    build_engines(bundle, builder, smaller)
    assert [plan.limits for plan in built_plans(bundle, DESKTOP)] == [smaller, LIMITS]
    assert built_plans(bundle, ORIN) == ()
    (folder / "llm.engine").unlink()
    assert find_engines(bundle, plan_of(bundle, DESKTOP, LIMITS)) is None
    open_bundle(bundle.folder)  # which is as it was


@pytest.mark.parametrize("error", [DeviceError, KeyboardInterrupt])
@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_an_interrupted_build_leaves_nothing_half_made(
    tmp_path: Path, fail_at: int, error: type[BaseException]
) -> None:
    made = open_bundle(write_tiny(tmp_path / "bundle"))
    with pytest.raises(error):
        build_engines(made, FakeBuilder(ORIN, fail_at, error), LIMITS)
    assert [path.name for path in store_of(made).iterdir()] == (["timing.cache"] if fail_at else [])
    assert built_plans(made, ORIN) == ()
    abandoned = store_of(made) / ".building-abandoned"
    (abandoned / "engines").mkdir(parents=True)
    (abandoned / "engines" / "vit.engine").write_bytes(b"half")
    builder = FakeBuilder(ORIN)
    build_engines(made, builder, LIMITS)
    assert builder.built[0][2] == b"." * fail_at
    assert not abandoned.exists()


def test_a_build_that_runs_is_left_alone(tmp_path: Path) -> None:
    """Whatever number its process has: in a container it is 1, like everybody's."""
    made = open_bundle(write_tiny(tmp_path / "bundle"))
    store = store_of(made)
    store.mkdir()
    with work_folder(store / f".building-{plan_of(made, ORIN, LIMITS).key}") as live:
        (live / "engines").mkdir()
        (live / "engines" / "vit.engine").write_bytes(b"half")
        with pytest.raises(DeviceError, match="another process builds these engines"):
            build_engines(made, FakeBuilder(ORIN), LIMITS)
        folder = build_engines(made, FakeBuilder(ORIN), dataclasses.replace(LIMITS, cache_tokens=128))
        assert (live / "engines" / "vit.engine").read_bytes() == b"half"
        (live / "engines").rename(tmp_path / "done")
    assert sorted(path.name for path in store.iterdir()) == [folder.name, "timing.cache"]


@pytest.mark.parametrize("kind", ["experts", "flash"])
def test_models_that_are_not_built(tmp_path: Path, kind: str) -> None:
    manifest = tiny_manifest("fp32", None)
    if kind == "experts":
        experts = Experts(count=4, chosen=2, normalise=True)
        manifest = dataclasses.replace(manifest, llm=dataclasses.replace(manifest.llm, experts=experts))
    else:
        manifest = dataclasses.replace(manifest, flash=Flash(4, 4, 0.5, 0.0))
    made = open_bundle(write_synthetic(manifest, tmp_path / "bundle", tokenizer=None, progress=False))
    builder = FakeBuilder(DESKTOP)
    with pytest.raises(DeviceError, match="mixture of experts" if kind == "experts" else "Flash"):
        build_engines(made, builder, LIMITS)
    assert builder.built == []
    assert not store_of(made).exists()


def test_a_gpu_that_is_too_small(bundle: Bundle) -> None:
    small = dataclasses.replace(ORIN, memory_bytes=1 << 29)
    builder = FakeBuilder(small)
    with pytest.raises(DeviceError, match=r"GPU memory; Orin has 0\.5 GB\. Export with a smaller precision"):
        build_engines(bundle, builder, dataclasses.replace(LIMITS, tiles=1))
    assert builder.built == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    made = open_bundle(write_tiny(tmp_path / "bundle"))
    store_of(made).write_text("a file in the way")
    with pytest.raises(DeviceError, match="engines cannot be written here"):
        build_engines(made, FakeBuilder(ORIN), LIMITS)


def test_the_estimate_is_of_the_right_size() -> None:
    manifest = synthetic_manifest("InternVL2_5-1B", weights="int4", vision="bf16")
    needs = estimate(manifest, default_limits(manifest), "bf16", in_place=True)
    # 300M of vision at 2 bytes, 360M in the layers and 136M of output matrix at half a byte and a scale, and
    # the embedding table, which the host looks up but which is counted: 136M at 2 bytes.
    assert 0.9e9 < needs.disk_bytes < 1.4e9
    assert needs.disk_bytes < needs.run_bytes < 2e9
    written_out = estimate(manifest, default_limits(manifest), "bf16", in_place=False)
    assert written_out.run_bytes > needs.run_bytes


def test_the_projector_begins_at_the_towers_output() -> None:
    manifest = synthetic_manifest("InternVL2_5-1B", layers=1)
    (profile,) = engine_profiles(manifest, "projector", LIMITS)
    assert profile["hidden"].most == (2, 1025, 1024)


# Machines


@pytest.mark.parametrize(
    ("text", "kernel", "kind"),
    [
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64", "x", "jetpack6"),
        ("# R38 (release), REVISION: 2.0", "x", "jetpack7"),
        ("# R35 (release), REVISION: 4.1", "x", "jetson"),
        (None, "5.15.148-tegra", "jetson"),
        (None, "6.8.0-49-generic", "desktop"),
    ],
)
def test_what_to_install_depends_on_the_machine(
    tmp_path: Path, text: str | None, kernel: str, kind: str
) -> None:
    path = tmp_path / "nv_tegra_release"
    if text is not None:
        path.write_text(text)
    assert board(path, kernel) == kind
    assert ("pip install tensorrt-cu12" in how_to_install(kind)) == (kind == "desktop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("version", "dialect"),
    [("10.3.0.30", "trt10"), ("10.14.1", "trt10"), ("10.15.1.29", "onnx24"), ("11.4.0.106", "onnx24")],
)
def test_the_dialect_follows_from_the_version(version: str, dialect: str) -> None:
    assert dataclasses.replace(ORIN, tensorrt=version).dialect == dialect


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0.1", "", "x"])
def test_a_version_that_is_not_supported(version: str) -> None:
    with pytest.raises(DeviceError, match=r"this release works with 10\.3 to 11"):
        version_of(version)


def test_without_tensorrt(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for kind, words in (("desktop", "pip install tensorrt-cu12"), ("jetpack6", "apt install tensorrt")):
        monkeypatch.setattr(toolkits, "board", lambda kind=kind: kind)
        with pytest.raises(DeviceError, match="TensorRT's Python package does not load") as raised:
            ivl.load(tiny_bundle, engine="tensorrt")
        assert words in str(raised.value)


def test_without_engines(bundle: Bundle) -> None:
    plan = plan_of(bundle, dataclasses.replace(DESKTOP, gpu="another"), LIMITS)
    with pytest.raises(DeviceError, match=r"no TensorRT engines.*internvl-rt build"):
        TensorRtEngine(bundle, cache_tokens=10, device=FakeDevice(bundle.weights), plan=plan)
