"""``nvidia.py`` against stand-ins for TensorRT and CUDA: the order of calls, and what becomes of failures.

The stand-ins have the names and signatures of TensorRT 11.4's and cuda-bindings 13.5's Python interfaces.
They say nothing about whether NVIDIA's own do what their documentation says.
"""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from internvl_rt.engines.tensorrt.device import Binding
from internvl_rt.engines.tensorrt.nvidia import EngineProgram, Gpu, TensorRtBuilder
from internvl_rt.engines.tensorrt.profiles import ShapeRange
from internvl_rt.errors import DeviceError, InternVLError


class Status(enum.IntEnum):
    OK = 0
    FAILED = 2


class FakeCuda(ModuleType):
    """Remembers every call."""

    def __init__(self) -> None:
        super().__init__("runtime")
        self.calls: list[str] = []
        self.failing = ""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        kinds = ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice")
        if name == "cudaMemcpyKind":
            return SimpleNamespace(**{kind: i + 1 for i, kind in enumerate(kinds)})
        if name == "cudaStreamCaptureMode":
            return SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
        results: dict[str, tuple[Any, ...]] = {
            "cudaGetDeviceProperties": (
                SimpleNamespace(name=b"Orin\0\0", major=8, minor=7, totalGlobalMem=1 << 36),
            ),
            "cudaStreamCreate": (7,),
            "cudaMalloc": (4096,),
            "cudaStreamEndCapture": ("graph",),
            "cudaGraphInstantiate": ("executable",),
            "cudaGetErrorString": (b"out of memory",),
        }

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name == self.failing:
                return (Status.FAILED, None) if name in results else (Status.FAILED,)
            return (Status.OK, *results.get(name, ()))

        return call


class FakeContext:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert isinstance(stream, int)
        self._calls.append(f"profile {profile}")
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return shape != (0,)

    def set_tensor_address(self, name: str, address: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._calls.append("execute")
        return True


def fake_tensorrt(version: str, calls: list[str], parses: bool = True) -> ModuleType:
    class Logger:
        INTERNAL_ERROR, ERROR, WARNING = range(3)

    class Engine:
        num_optimization_profiles = 2

        def create_execution_context(self) -> FakeContext:
            return FakeContext(calls)

        def get_tensor_mode(self, name: str) -> str:
            return "TensorIOMode.INPUT" if name == "x" else "TensorIOMode.OUTPUT"

    class Runtime:
        def __init__(self, logger: Any) -> None:
            logger.log(Logger.ERROR, "old plan")
            logger.log(Logger.WARNING, "slow")

        def deserialize_cuda_engine(self, engine: bytes) -> Engine | None:
            return Engine() if engine == b"engine" else None

    class Config:
        def set_memory_pool_limit(self, pool: Any, size: int) -> None: ...

        def create_timing_cache(self, data: bytes) -> bytes:
            return data

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            calls.append(f"timing {cache!r}")
            return cache != b"of another GPU"

        def add_optimization_profile(self, profile: Any) -> int:
            return -1 if profile.shapes == {"x": ((2,), (1,), (1,))} else 0

        def get_timing_cache(self) -> Any:
            return SimpleNamespace(serialize=lambda: b"measured")

    class Builder:
        def __init__(self, logger: Any) -> None: ...

        def create_network(self, flags: int) -> str:
            assert flags == 1 << 3
            return "network"

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Any:
            shapes: dict[str, Any] = {}
            return SimpleNamespace(shapes=shapes, set_shape=lambda n, *s: shapes.update({n: s}))

        def build_serialized_network(self, network: str, config: Config) -> bytes:
            return b"engine"

    class Parser:
        num_errors = 1

        def __init__(self, network: str, logger: Any) -> None: ...

        def parse_from_file(self, path: str) -> bool:
            return parses

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "unknown operator Foo")

    module = ModuleType("tensorrt")
    flags = SimpleNamespace(STRONGLY_TYPED=3)
    for name, value in {
        "__version__": version,
        "ILogger": Logger,
        "Runtime": Runtime,
        "Builder": Builder,
        "OnnxParser": Parser,
        "NetworkDefinitionCreationFlag": flags,
        "MemoryPoolType": SimpleNamespace(WORKSPACE=0),
    }.items():
        setattr(module, name, value)
    return module


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A machine with TensorRT 10.3 and an Orin."""
    made = FakeCuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = made  # type: ignore[attr-defined]
    package = ModuleType("cuda")
    package.bindings = bindings  # type: ignore[attr-defined]
    for name, module in {
        "cuda": package,
        "cuda.bindings": bindings,
        "cuda.bindings.runtime": made,
        "tensorrt": fake_tensorrt("10.3.0.30", made.calls),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_the_machine_is_described(cuda: FakeCuda) -> None:
    toolkit = Gpu().toolkit
    assert (toolkit.tensorrt, toolkit.gpu, toolkit.compute_capability) == ("10.3.0.30", "Orin", (8, 7))
    assert toolkit.memory_bytes == 1 << 36
    assert toolkit.dialect == "trt10"


def test_without_a_gpu(cuda: FakeCuda) -> None:
    cuda.failing = "cudaGetDeviceProperties"
    with pytest.raises(DeviceError, match=r"there is no GPU that CUDA can use.*pip install|apt install"):
        Gpu()


def test_memory(cuda: FakeCuda) -> None:
    gpu = Gpu()
    cuda.calls.clear()
    address = gpu.allocate(64)
    array = np.zeros(4, np.float32)
    gpu.write(address, array)
    gpu.read(array, address)
    gpu.copy(address, address + 16, 16)
    gpu.free(address)
    assert cuda.calls == [
        "cudaMalloc",
        "cudaMemsetAsync",
        "cudaMemcpyAsync",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
        "cudaFree",
    ]
    cuda.failing = "cudaMalloc"
    with pytest.raises(DeviceError, match="cudaMalloc failed: out of memory"):
        gpu.allocate(1)


def test_a_run_is_recorded_the_second_time_and_replayed_from_the_third(cuda: FakeCuda) -> None:
    program = Gpu().load(b"engine")
    assert isinstance(program, EngineProgram)
    bindings = {"x": Binding(1, (2, 3)), "y": Binding(2, (2, 3))}
    expected = [
        ["execute"],
        [
            "execute",
            "cudaStreamBeginCapture",
            "execute",
            "cudaStreamEndCapture",
            "cudaGraphInstantiate",
            "cudaGraphDestroy",
        ],
        ["cudaGraphLaunch"],
        ["cudaGraphLaunch"],
    ]
    for calls in expected:
        cuda.calls.clear()
        program.run(0, bindings)
        assert cuda.calls == calls
    cuda.calls.clear()
    program.run(0, {**bindings, "y": Binding(9, (2, 3))})
    program.run(1, bindings)
    assert cuda.calls == ["execute", "execute"]
    with pytest.raises(InternVLError, match="does not take x of shape"):
        program.run(0, {**bindings, "x": Binding(1, (0,))})


def test_graphs_are_kept_within_bounds(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("internvl_rt.engines.tensorrt.nvidia.MOST_GRAPHS", 3)
    program = Gpu().load(b"engine")
    for shape in range(1, 5):
        for _ in range(2):
            program.run(0, {"x": Binding(1, (shape,))})
    assert cuda.calls.count("cudaGraphExecDestroy") == 3
    assert len(program._graphs) == 1


def test_an_engine_of_another_version(cuda: FakeCuda) -> None:
    with pytest.raises(DeviceError, match=r"does not load the engines \(old plan\).*--rebuild"):
        Gpu().load(b"other")


def test_building(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = TensorRtBuilder()
    profile = {"x": ShapeRange((1,), (1,), (2,))}
    assert builder.build(Path("vit.onnx"), (profile,), b"old", 1) == (b"engine", b"measured")
    cuda.calls.clear()
    builder.build(Path("vit.onnx"), (profile,), b"of another GPU", 1)
    assert cuda.calls == ["timing b'of another GPU'", "timing b''"]
    with pytest.raises(DeviceError, match="does not take the profile"):
        builder.build(Path("vit.onnx"), ({"x": ShapeRange((2,), (1,), (1,))},), b"", 1)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("11.4.0.106", cuda.calls, parses=False))
    with pytest.raises(DeviceError, match=r"vit.onnx: TensorRT 11.4.0.106 does not take.*operator Foo"):
        TensorRtBuilder().build(Path("vit.onnx"), (profile,), b"", 1)


def test_a_version_that_is_too_old(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("8.6.1", cuda.calls))
    with pytest.raises(DeviceError, match=r"TensorRT 8\.6\.1 is installed; this release works with"):
        Gpu()
